// Takes a backup: reads what a volume has, in order, several reads at a time, and writes the stream.
//
// What reads as zeros is not stored, whatever the pool has mapped: blocks that were written with zeros come back
// as holes.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Disk } from '../../bio/disk.ts';
import { RECORD_DATA_BYTES_MAX } from '../../format/backup.ts';
import type { BackupWriter } from './stream-writer.ts';

/** Reads in flight; each has a buffer of RECORD_DATA_BYTES_MAX. */
const READS_MAX = 4;
/** What is looked at for zeros at once. */
const ZERO_BYTES = 65536;
const ZEROS = Buffer.alloc(ZERO_BYTES);
const EXTENTS_MAX = 1024;

/** Bytes of a volume: to be read, or known to be zeros. */
export interface Part {
  readonly offset: number;
  readonly length: number;
  readonly isZero: boolean;
}

/** Thin blocks that have changed. `isZero`: nothing is there any more. */
export interface ChangedBlocks {
  readonly begin: number;
  readonly length: number;
  readonly isZero: boolean;
}

export interface Copying {
  /** Hears how far the copy is, in bytes of the volume. */
  readonly progress: (offset: number) => void;
  /** Aborted: the copy ends with an error. */
  readonly signal: AbortSignal;
}

/** All bytes of a volume from `from` on. */
export async function* wholeVolume(disk: Disk, from = 0): AsyncGenerator<Part> {
  const end = disk.sizeBytes / SECTOR_BYTES;
  for (let sector = from / SECTOR_BYTES; sector < end; ) {
    for (const extent of await disk.extents(sector, end - sector, EXTENTS_MAX)) {
      const [offset, length] = [sector * SECTOR_BYTES, extent.lenSectors * SECTOR_BYTES];
      yield { offset, length, isZero: extent.isZero };
      sector += extent.lenSectors;
    }
  }
}

/** What an increment has: what has changed, and all that lies behind the end of the base. */
export async function* changedParts(
  disk: Disk,
  baseBytes: number,
  changes: AsyncIterable<ChangedBlocks>,
  blockBytes: number,
): AsyncGenerator<Part> {
  const end = Math.min(baseBytes, disk.sizeBytes);
  for await (const { begin, length, isZero } of changes) {
    const offset = begin * blockBytes;
    const until = Math.min(end, (begin + length) * blockBytes);
    if (until > offset) yield { offset, length: until - offset, isZero };
  }
  yield* wholeVolume(disk, end);
}

/** Writes the records of a stream, and its end. Throws DmError. */
export async function takeBackup(
  disk: Disk,
  parts: AsyncIterable<Part>,
  writer: BackupWriter,
  { progress, signal }: Copying,
): Promise<void> {
  const running: { readonly offset: number; readonly data: Promise<Buffer> }[] = [];
  const takeFirst = async (): Promise<void> => {
    const first = running.shift();
    if (first === undefined) return;
    await writeData(writer, first.offset, await first.data);
    progress(first.offset);
  };
  try {
    for await (const { offset, length, isZero } of parts) {
      if (isZero) {
        while (running.length > 0) await takeFirst();
        await writer.zero(offset, length);
        continue;
      }
      for (let at = offset; at < offset + length; at += RECORD_DATA_BYTES_MAX) {
        refuseAborted(signal);
        if (running.length >= READS_MAX) await takeFirst();
        const data = disk.read(at, Math.min(RECORD_DATA_BYTES_MAX, offset + length - at));
        // Awaited in its turn; until then an error is nobody's.
        data.catch(() => undefined);
        running.push({ offset: at, data });
      }
    }
    while (running.length > 0) await takeFirst();
  } finally {
    await Promise.allSettled(running.map(({ data }) => data));
  }
  refuseAborted(signal);
  await writer.end();
}

export function refuseAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new DmError(Status.Canceled, 'interrupted');
}

async function writeData(writer: BackupWriter, offset: number, data: Buffer): Promise<void> {
  for (let at = 0; at < data.length; ) {
    const isZero = isZeroAt(data, at);
    let end = at;
    while (end < data.length && isZeroAt(data, end) === isZero) end += ZERO_BYTES;
    end = Math.min(end, data.length);
    if (isZero) await writer.zero(offset + at, end - at);
    else await writer.data(offset + at, data.subarray(at, end));
    at = end;
  }
}

/** Whether a run of bytes in a buffer is zeros only. */
export function isZeroAt(data: Buffer, at: number): boolean {
  const part = data.subarray(at, at + ZERO_BYTES);
  return part.equals(ZEROS.subarray(0, part.length));
}

/** Whether a sector of a buffer is zeros only. */
export function isZeroSector(data: Buffer, at: number): boolean {
  return data.subarray(at, at + SECTOR_BYTES).equals(ZEROS.subarray(0, SECTOR_BYTES));
}
