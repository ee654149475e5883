// An image of a compressed volume, opened for work that nobody may disturb: a file, a block device, a mapped device of the
// daemon or an NBD export.

import { invalid } from '../base/errors.ts';
import { fetchSignature } from '../tools/luks/known-signatures.ts';
import { type CompressIo, readSuperblocks, type Superblocks } from '../tools/compress/image.ts';
import { openDaemonDisk, type OpenedDisk, openReferenceDisk, ownName } from './daemon-disk.ts';
import { imageReference } from './image-device.ts';
import { placeOf } from './place.ts';
import { refuseChanging } from './place-io.ts';

/** Opens an image and runs `use` with its disk. Throws DmError when somebody else may change it meanwhile. */
export async function withImage<T>(
  image: string,
  isReadOnly: boolean,
  use: (io: CompressIo) => Promise<T>,
): Promise<T> {
  const opened = await openImage(image, isReadOnly);
  try {
    return await use(opened.disk);
  } finally {
    await opened.close();
  }
}

async function openImage(image: string, isReadOnly: boolean): Promise<OpenedDisk> {
  const place = await placeOf(image);
  if (place.kind === 'mapped') {
    await refuseChanging(image, place.name, isReadOnly);
    return await openDaemonDisk(place.name, { as: ownName('compress'), isReadOnly });
  }
  const reference = place.kind === 'remote' ? place.uri : imageReference(place.path);
  return await openReferenceDisk(reference, isReadOnly, image);
}

/** The superblocks of an image. Throws DmError when there is no volume. */
export async function superblocksOf(image: string, io: CompressIo): Promise<Superblocks> {
  const found = await readSuperblocks(io);
  if (typeof found === 'string') throw notThere(image, found);
  return found;
}

/** The error of an image without a volume. */
export function notThere(image: string, complaint: string): Error {
  return invalid(`${image}: is not an insitu_comp disk: ${complaint}`);
}

/** The name of what else an image holds, by its signature. */
export async function knownOn(io: CompressIo): Promise<string | undefined> {
  const wholeBytes = io.sizeBytes - (io.sizeBytes % 4096);
  return await fetchSignature(wholeBytes, async (at, len) => await io.read(at, len), [
    'insitu_comp',
  ]);
}
