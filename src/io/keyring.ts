// Keys of type `user` in the Linux kernel's keyrings: those that this process may search, the user's among them.
// What keyctl does, without that program.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import { addressOf, errno, syscall6 } from './posix.ts';

/** The kernel has a key of this description, or has not. */
export class NoSuchKey extends DmError {}

interface Numbers {
  readonly requestKey: number;
  readonly keyctl: number;
}

const SYSTEM_CALLS: Readonly<Record<string, Numbers>> = {
  x64: { requestKey: 249, keyctl: 250 },
  arm64: { requestKey: 218, keyctl: 219 },
};
const KEYCTL_READ = 11;
const NO_KEY = 126;
const KEY_EXPIRED = 127;
const KEY_REVOKED = 128;
const KEY_REJECTED = 129;
const NOT_THERE: Readonly<Record<number, string>> = {
  [NO_KEY]: 'has none of this description',
  [KEY_EXPIRED]: 'had one, which has expired',
  [KEY_REVOKED]: 'had one, which was revoked',
  [KEY_REJECTED]: 'has one that is of no use',
};
/** The kernel keeps a user key in 15 bits. */
const KEY_BYTES_MAX = 32767;
const TYPE = text('user');

/**
 * The payload of a key; the caller zeroes it. Throws NoSuchKey, or DmError where the kernel does
 * not let this process search keyrings, as in many containers.
 */
export function readUserKey(description: string): Buffer {
  const name = text(description);
  const key = call('requestKey', description, addressOf(TYPE), addressOf(name), 0, 0);
  const payload = Buffer.alloc(KEY_BYTES_MAX);
  const length = call('keyctl', description, KEYCTL_READ, key, addressOf(payload), payload.length);
  const found = Buffer.alloc(Math.min(length, payload.length));
  payload.copy(found);
  payload.fill(0);
  return found;
}

function call(name: keyof Numbers, description: string, ...args: number[]): number {
  const number = process.platform === 'linux' ? SYSTEM_CALLS[process.arch]?.[name] : undefined;
  const [a = 0, b = 0, c = 0, d = 0, e = 0] = args;
  const result = number === undefined ? -1 : syscall6(number, a, b, c, d, e, 0);
  if (result >= 0) return result;
  const status = number === undefined ? Status.NoSystemCall : errno();
  const where = `key '${description}'`;
  const reason = NOT_THERE[status];
  if (reason !== undefined) {
    throw new NoSuchKey(Status.NoEntry, `${where}: the kernel's keyring ${reason}`);
  }
  throw new DmError(
    status,
    `${where}: the kernel's keyring cannot be used here (${errnoText(status)}), as in many containers`,
  );
}

/** As C has it. */
function text(value: string): Buffer {
  return Buffer.from(`${value}\0`);
}
