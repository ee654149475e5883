// Header backups, in cryptsetup's form: the device from its begin to the end of the key slots, as it is.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';
import { LUKS2_ALIGN_BYTES, LUKS2_BINARY_BYTES } from './luks2.format.ts';
import type { LuksIo } from './luks-io.ts';
import type { LuksVolume } from './luks-volume.ts';

/** How long the file of a backup is. */
export function backupBytes(volume: LuksVolume): number {
  return Math.ceil(volume.headerBytes / LUKS2_ALIGN_BYTES) * LUKS2_ALIGN_BYTES;
}

/** Copies header and key slots of `volume` to `to`, an empty file of `backupBytes`, durably. */
export async function backupHeader(volume: LuksVolume, to: LuksIo): Promise<void> {
  copy(volume.io, to, { at: 0, end: volume.headerBytes });
  await to.flush();
}

/**
 * What keeps a backup from being put on a device, or undefined: the data would be elsewhere or
 * under another key than the header there has it. `current` is undefined when there is no header.
 */
export function restoreMismatch(
  backup: LuksVolume,
  current: LuksVolume | undefined,
): string | undefined {
  if (current === undefined) return undefined;
  const [from, to] = [backup.segments()[0], current.segments()[0]];
  if (from?.offsetBytes !== to?.offsetBytes) {
    return `data offset ${from?.offsetBytes}, on the device ${to?.offsetBytes}`;
  }
  // A header without keys does not tell the size of its key, and there is nothing to be lost with it.
  if (current.slots.length === 0) return undefined;
  const [fromKey, toKey] = [backup.volumeKeyBytes, current.volumeKeyBytes];
  return fromKey === toKey ? undefined : `key of ${fromKey * 8} bits, on the device ${toKey * 8}`;
}

/**
 * Puts a backup on `to`. Its header goes last, the first sectors at the very end, so until then the
 * device has the old header or none; if it is cut short, restoring again completes it. All of it is
 * read back and compared. Throws DmError, having written nothing when the backup or the device is
 * too short.
 */
export async function restoreHeader(backup: LuksVolume, to: LuksIo): Promise<void> {
  const { headerBytes, io } = backup;
  for (const device of [io, to]) {
    if (device.sizeBytes >= headerBytes) continue;
    throw invalid(`${device.path}: has ${device.sizeBytes} bytes, the header needs ${headerBytes}`);
  }
  copy(io, to, { at: LUKS2_BINARY_BYTES, end: headerBytes });
  await to.flush();
  copy(io, to, { at: 0, end: LUKS2_BINARY_BYTES });
  await to.flush();
  await checkSame(io, to, headerBytes);
}

async function checkSame(from: LuksIo, to: LuksIo, lenBytes: number): Promise<void> {
  const pieceBytes = Math.min(MIB, lenBytes);
  const [expected, found] = [Buffer.alloc(pieceBytes), Buffer.alloc(pieceBytes)];
  for (let at = 0; at < lenBytes; at += pieceBytes) {
    const bytes = Math.min(pieceBytes, lenBytes - at);
    from.read(at, expected.subarray(0, bytes));
    await to.readBack(at, found.subarray(0, bytes));
    const wrong = expected.subarray(0, bytes).findIndex((byte, i) => byte !== found[i]);
    if (wrong === -1) continue;
    throw new DmError(
      Status.Io,
      `${to.path}: what was written is not what is read back, from byte ${at + wrong} on: the header there ` +
        'is not whole',
    );
  }
}

function copy(
  from: LuksIo,
  to: LuksIo,
  range: { readonly at: number; readonly end: number },
): void {
  const { at, end } = range;
  const piece = Buffer.alloc(Math.min(MIB, end - at));
  for (let done = at; done < end; done += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, end - done));
    from.read(done, part);
    to.write(done, part);
  }
}
