// Whether a disk that begins with zeroes is blank, as far as can be told: file systems and partition tables may begin
// with zeroes, and a volume whose superblock was wiped has its records still.

import { invalid } from '../../base/errors.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { fetchSignature } from '../../format/known-signatures.ts';
import type { Arena } from '../../io/arena.ts';
import { CHUNK_BYTES, readDisk } from './disk-io.ts';
import { isEmptyRecord } from './record.format.ts';
import { layoutFor, RECORD_BYTES } from './superblock.format.ts';

const WAYS_ON = "'lamina compress format' makes it a compressed disk, and what is there is lost";

/** Throws DmError for a disk that has something known. Reads its begin and its end. */
export async function checkUnknown(device: BlockDevice, arena: Arena): Promise<void> {
  const where = `device ${device.name}`;
  const known = await fetchSignature(
    device.lenSectors * 512,
    async (at, lenBytes) => await readDisk(device, arena, { sector: at / 512, lenBytes }, where),
  );
  if (known === undefined) return;
  throw invalid(`${where}: holds ${known}, though it begins with zeroes: ${WAYS_ON}`);
}

/** Throws DmError for a disk that `findLeft` finds something on. */
export async function checkNoRecords(
  device: BlockDevice,
  arena: Arena,
  bytesMax: number,
): Promise<void> {
  const where = `device ${device.name}`;
  const left = await findLeft(
    device.lenSectors,
    async (sector, lenBytes) => await readDisk(device, arena, { sector, lenBytes }, where),
    bytesMax,
  );
  if (left === undefined) return;
  throw invalid(
    `${where}: begins with zeroes, but sector ${left} is not blank: ` +
      'it may be a compressed disk whose superblock was wiped, and ' +
      "'lamina compress check --repair' puts that back when the disk has its old size; " +
      "'lamina compress format' makes it anew, and what is there is lost",
  );
}

/**
 * The first sector where records would go that is neither zero nor a record of a region without
 * data: such records are what a formatting leaves that did not come to its end. Looks at the first
 * `bytesMax` bytes of them.
 */
export async function findLeft(
  diskSectors: number,
  read: (sector: number, lenBytes: number) => Promise<Uint8Array>,
  bytesMax = Number.POSITIVE_INFINITY,
): Promise<number | undefined> {
  const layout = layoutFor(diskSectors, 1);
  if (layout === undefined) return undefined;
  const bytes = Math.min(Math.ceil(layout.regions / 8) * 8 * RECORD_BYTES, bytesMax);
  for (let at = 0; at < bytes; at += CHUNK_BYTES) {
    const sector = layout.recordSector + at / RECORD_BYTES;
    const chunk = await read(sector, Math.min(CHUNK_BYTES, bytes - at));
    for (let i = 0; i < chunk.length; i += RECORD_BYTES) {
      const record = chunk.subarray(i, i + RECORD_BYTES);
      const isLeft = !record.every((byte) => byte === 0) && !isEmptyRecord(record);
      if (isLeft) return sector + i / RECORD_BYTES;
    }
  }
  return undefined;
}
