// Whether a device can be what an interrupted restore has left: a restore begins on a blank device,
// so every sector must be zeros, or what one of the backups says. Nothing is written, and nothing
// has to be remembered from restore to restore.

import { SECTOR_BYTES } from '../../base/units.ts';
import type { Disk } from '../../bio/disk.ts';
import { RECORD_DATA_BYTES_MAX } from '../../format/backup.ts';
import type { BackupReader } from './stream-reader.ts';
import { type Copying, isZeroSector, refuseAborted } from './take.ts';

const EXTENTS_MAX = 1024;
/** How strange sectors are noted; with more such parts a device is refused without a further look. */
const PART_BYTES = RECORD_DATA_BYTES_MAX;
const PART_SECTORS = PART_BYTES / SECTOR_BYTES;
const PARTS_MAX = 1 << 20;

export interface Looking extends Copying {
  /** The size that the device will have in the end: what lies behind is left out. */
  readonly sizeBytes: number;
}

/**
 * Reads a chain of backups, in their order, beside the device. Answers the first byte of a sector
 * that no restore of the chain can have written, or undefined. Throws DmError for a backup that is
 * damaged.
 */
export async function findStrange(
  readers: readonly BackupReader[],
  disk: Disk,
  options: Looking,
): Promise<number | undefined> {
  const strange = new Strange();
  // Of one backup alone, nothing can explain it later.
  const partsMax = readers.length === 1 ? 0 : PARTS_MAX;
  let covered = 0;
  for (const reader of readers) {
    for await (const { offset, length, data } of reader.records()) {
      refuseAborted(options.signal);
      const end = Math.min(offset + length, options.sizeBytes);
      if (end <= offset) continue;
      // Behind the end of all backups before, nobody has looked yet.
      const known = Math.min(end, Math.max(offset, covered));
      if (data !== undefined) await settle(strange, disk, offset, data.subarray(0, known - offset));
      if (data === undefined) await lookAtZeros(strange, disk, known, end);
      else if (end > known) {
        look(strange, await disk.read(known, end - known), known, data.subarray(known - offset));
      }
      if (strange.parts > partsMax) return strange.first();
      options.progress(end);
    }
    covered = Math.max(covered, reader.info.sizeBytes);
  }
  return strange.first();
}

/** Sectors that nothing explains yet: a bit each, in parts that have any. */
class Strange {
  readonly #parts = new Map<number, Uint8Array>();

  get parts(): number {
    return this.#parts.size;
  }

  add(byte: number): void {
    const { part, index, bit } = placeOf(byte);
    const bits = this.#parts.get(part) ?? new Uint8Array(PART_SECTORS / 8);
    bits[index] = (bits[index] ?? 0) | bit;
    this.#parts.set(part, bits);
  }

  remove(byte: number): void {
    const { part, index, bit } = placeOf(byte);
    const bits = this.#parts.get(part);
    if (bits === undefined) return;
    bits[index] = (bits[index] ?? 0) & ~bit;
    if (bits.every((byte) => byte === 0)) this.#parts.delete(part);
  }

  has(byte: number): boolean {
    const { part, index, bit } = placeOf(byte);
    return ((this.#parts.get(part)?.[index] ?? 0) & bit) !== 0;
  }

  hasWithin(begin: number, end: number): boolean {
    for (let part = placeOf(begin).part; part * PART_BYTES < end; part++) {
      if (this.#parts.has(part)) return true;
    }
    return false;
  }

  /** The first byte of the first one. */
  first(): number | undefined {
    if (this.#parts.size === 0) return undefined;
    let part = Infinity;
    for (const one of this.#parts.keys()) part = Math.min(part, one);
    let byte = part * PART_BYTES;
    while (!this.has(byte)) byte += SECTOR_BYTES;
    return byte;
  }
}

function placeOf(byte: number): {
  readonly part: number;
  readonly index: number;
  readonly bit: number;
} {
  const part = Math.floor(byte / PART_BYTES);
  const sector = (byte - part * PART_BYTES) / SECTOR_BYTES;
  return { part, index: sector >> 3, bit: 1 << (sector & 7) };
}

/** Takes out what a later backup explains. */
async function settle(
  strange: Strange,
  disk: Disk,
  offset: number,
  data: Uint8Array,
): Promise<void> {
  if (data.length === 0 || !strange.hasWithin(offset, offset + data.length)) return;
  const found = await disk.read(offset, data.length);
  for (let at = 0; at < data.length; at += SECTOR_BYTES) {
    if (!strange.has(offset + at)) continue;
    const sector = found.subarray(at, at + SECTOR_BYTES);
    if (sector.equals(data.subarray(at, at + SECTOR_BYTES))) strange.remove(offset + at);
  }
}

/** Adds what is neither zeros nor what should be there; undefined: zeros should. */
function look(strange: Strange, found: Buffer, offset: number, data: Uint8Array | undefined): void {
  if (data !== undefined && found.equals(data)) return;
  for (let at = 0; at < found.length; at += SECTOR_BYTES) {
    if (isZeroSector(found, at)) continue;
    const sector = found.subarray(at, at + SECTOR_BYTES);
    if (data !== undefined && sector.equals(data.subarray(at, at + SECTOR_BYTES))) continue;
    strange.add(offset + at);
  }
}

async function lookAtZeros(
  strange: Strange,
  disk: Disk,
  begin: number,
  end: number,
): Promise<void> {
  for (let at = begin; at < end; ) {
    const sectors = (end - at) / SECTOR_BYTES;
    for (const extent of await disk.extents(at / SECTOR_BYTES, sectors, EXTENTS_MAX)) {
      const until = at + extent.lenSectors * SECTOR_BYTES;
      for (; !extent.isZero && at < until; at += PART_BYTES) {
        const bytes = Math.min(PART_BYTES, until - at);
        look(strange, await disk.read(at, bytes), at, undefined);
        if (strange.parts > PARTS_MAX) return;
      }
      at = until;
    }
  }
}
