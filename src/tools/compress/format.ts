// A compressed volume made on a disk that a tool has open.

import { randomInt } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import { allocateShared } from '../../base/wasm.ts';
import { type CodecName, openCodec } from '../../codec/codec.ts';
import { formatSink } from '../../targets/insitu-comp/format-volume.ts';
import {
  endOf,
  layoutFor,
  SUPERBLOCK_BYTES,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import { type CompressIo, diskSectors, type OnProgress } from './image.ts';

const PAGE_BYTES = 65536;
const WORDS = 2 ** 32;

/** Throws DmError for a codec that cannot be had here, and for a level that it has not; 0 is its own. */
export function checkCodec(name: CodecName, level: number): void {
  openCodec(name, level === 0 ? undefined : level, allocateShared(PAGE_BYTES));
}

/**
 * Takes what was there out of the way, durably: an end in the middle must not leave its superblock
 * over records of the new volume. The copy goes last: until then a repair brings back the old one.
 */
async function wipe(io: CompressIo): Promise<void> {
  const layout = layoutFor(diskSectors(io), 1);
  if (layout === undefined) return;
  for (const sector of [0, endOf(layout)]) {
    await io.write(sector * 512, new Uint8Array(SUPERBLOCK_BYTES));
    await io.flush();
  }
}

/** Formats a disk, durably. `path` is what errors call the disk. Throws DmError. */
export async function formatImage(
  path: string,
  io: CompressIo,
  options: { readonly codec: CodecName; readonly level: number; readonly progress?: OnProgress },
): Promise<VolumeFormat> {
  checkCodec(options.codec, options.level);
  const { blockBytes } = io;
  if (blockBytes > 4096) throw invalid(`${path}: has blocks of ${blockBytes} bytes, 4096 at most`);
  const sink = {
    name: path,
    lenSectors: diskSectors(io),
    blockBytes,
    write: async (sector: number, bytes: Uint8Array) => await io.write(sector * 512, bytes),
    flush: async () => await io.flush(),
  };
  await wipe(io);
  return await formatSink(sink, { ...options, random: () => randomInt(WORDS) / WORDS });
}
