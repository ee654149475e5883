// An image of a compressed volume, opened for work that nobody may disturb: a file, a block device, a mapped device of the
// daemon or an NBD export.

import { invalid } from '../base/errors.ts';
import { findLeft } from '../targets/insitu-comp/blank-disk.ts';
import { SUPERBLOCK_BYTES } from '../targets/insitu-comp/superblock.format.ts';
import { fetchSignature } from '../format/known-signatures.ts';
import {
  type CompressIo,
  diskSectors,
  readSuperblocks,
  type Superblocks,
} from '../tools/compress/image.ts';
import { findOldFormat } from '../tools/compress/old-image.ts';
import { confirm } from './confirm.ts';
import { openDaemonDisk, type OpenedDisk, openReferenceDisk } from './daemon-disk.ts';
import { imageReference } from './image-device.ts';
import { ownName, type Purpose } from './left-behind.ts';
import { placeOf } from './place.ts';
import { refuseChanging } from './place-io.ts';

/**
 * Opens an image and runs `use` with its disk. A command that opens two has another purpose for the second. Throws DmError when somebody else may change it meanwhile.
 */
export async function withImage<T>(
  image: string,
  isReadOnly: boolean,
  use: (io: CompressIo) => Promise<T>,
  purpose: Purpose = 'compress',
): Promise<T> {
  const opened = await openImage(image, isReadOnly, purpose);
  try {
    return await use(opened.disk);
  } finally {
    await opened.close();
  }
}

async function openImage(
  image: string,
  isReadOnly: boolean,
  purpose: Purpose,
): Promise<OpenedDisk> {
  const place = await placeOf(image);
  if (place.kind === 'mapped') {
    await refuseChanging(image, place.name, isReadOnly);
    return await openDaemonDisk(place.name, { as: ownName(purpose), isReadOnly, isAlone: true });
  }
  const reference = place.kind === 'remote' ? place.uri : imageReference(place.path);
  return await openReferenceDisk(reference, isReadOnly, image);
}

/** The superblocks of an image. Throws DmError when there is no volume. */
export async function superblocksOf(image: string, io: CompressIo): Promise<Superblocks> {
  const found = await readSuperblocks(io);
  if (typeof found === 'string') throw await notThere(image, io, found);
  return found;
}

/** The error of an image without a volume. */
export async function notThere(image: string, io: CompressIo, complaint: string): Promise<Error> {
  // Where the begin cannot be read, the complaint says so.
  const known = await knownOn(io).catch(() => undefined);
  const why = known === undefined ? complaint : `it holds ${known}`;
  return invalid(`${image}: is not an insitu_comp disk: ${why}`);
}

/** The name of what else an image holds, by its signature. */
export async function knownOn(io: CompressIo): Promise<string | undefined> {
  const wholeBytes = io.sizeBytes - (io.sizeBytes % 4096);
  return await fetchSignature(wholeBytes, async (at, len) => await io.read(at, len), [
    'insitu_comp',
  ]);
}

/** Asks before something is written over. Throws DmError. */
export async function refuseHeld(image: string, io: CompressIo, isForced: boolean): Promise<void> {
  if (isForced || io.sizeBytes < SUPERBLOCK_BYTES) return;
  const held = await heldBy(io);
  if (held !== undefined) await confirm(`${image}: ${held}; what is there is lost`, '--force');
}

/** What an image has already; undefined: nothing that is known, zeroes where the superblock goes, no records. */
async function heldBy(io: CompressIo): Promise<string | undefined> {
  const known = await knownOn(io);
  if (known !== undefined) return `holds ${known}`;
  if ((await findOldFormat(io)) !== undefined) return 'holds a compressed volume of version 1';
  if (typeof (await readSuperblocks(io)) !== 'string') return 'holds a compressed volume';
  const block = await io.read(0, SUPERBLOCK_BYTES);
  if (!block.every((byte) => byte === 0)) return 'does not begin with 4096 zeroes';
  const read = async (at: number, len: number): Promise<Uint8Array> => await io.read(at * 512, len);
  const left = await findLeft(diskSectors(io), read);
  if (left === undefined) return undefined;
  return `is not blank at sector ${left}: it may be a compressed volume whose superblock was wiped`;
}
