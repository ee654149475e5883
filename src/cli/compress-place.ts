// An image of a compressed volume, opened for work that nobody may disturb: a file, a block device, a mapped device of the
// daemon or an NBD export.

import { invalid } from '../base/errors.ts';
import { findSignature } from '../tools/luks/known-signatures.ts';
import { type CompressIo, readSuperblocks, type Superblocks } from '../tools/compress/image.ts';
import { openDaemonDisk, type OpenedDisk, openReferenceDisk, ownName } from './daemon-disk.ts';
import { imageReference } from './image-device.ts';
import { placeOf } from './place.ts';
import { refuseChanging } from './place-io.ts';

/** Where signatures are: so much at the begin, and at the end. */
const BEGIN_BYTES = 128 * 1024;
const END_BYTES = 4096;

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
  const { sizeBytes } = io;
  const wholeBytes = sizeBytes - (sizeBytes % 4096);
  const begin = await io.read(0, Math.min(BEGIN_BYTES, wholeBytes));
  const endAt = wholeBytes - END_BYTES;
  const end = await io.read(endAt, END_BYTES);
  const read = (at: number, into: Uint8Array): void => {
    const from = at + into.length <= begin.length ? begin.subarray(at) : end.subarray(at - endAt);
    into.set(from.subarray(0, into.length));
  };
  return findSignature({ sizeBytes: wholeBytes, read });
}
