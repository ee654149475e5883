// Recovery keys as systemd makes them: 256 random bits in modhex, whose sixteen letters are at the same place on
// most keyboards, in groups of eight. The text itself is the passphrase; a token of the type below marks its slot.

import { randomBytes } from 'node:crypto';

export const RECOVERY_TOKEN = 'systemd-recovery';

const MODHEX = 'cbdefghijklnrtuv';
const KEY_BYTES = 32;
const GROUP_BYTES = 4;

/** Text of 71 letters and dashes; the caller zeroes it. */
export function makeRecoveryKey(): Buffer {
  const random = randomBytes(KEY_BYTES);
  const groups = KEY_BYTES / GROUP_BYTES;
  const key = Buffer.alloc(2 * KEY_BYTES + groups - 1, '-');
  for (const [i, byte] of random.entries()) {
    const at = 2 * i + Math.floor(i / GROUP_BYTES);
    key[at] = MODHEX.charCodeAt(byte >> 4);
    key[at + 1] = MODHEX.charCodeAt(byte & 15);
  }
  random.fill(0);
  return key;
}
