// Making a version 2 volume: records of empty regions first, the superblock when those are on the disk. So a disk
// is formatted, or it is not.

import { DmError, invalid } from '../../base/errors.ts';
import { Status, statusName } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { flushDevice, sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import type { CodecName } from '../../codec/codec.ts';
import { emptyMap, encodeRecord } from './record.format.ts';
import {
  CODEC_IDS,
  encodeSuperblock,
  endOf,
  layoutFor,
  RECORD_BYTES,
  SUPERBLOCK_BYTES,
  type VolumeFormat,
} from './superblock.format.ts';

const CHUNK_BYTES = 64 * 1024;

export interface FormatOptions {
  readonly codec: CodecName;
  /** 0: the codec's own. */
  readonly level: number;
  /** Uniform in 0 .. 1. */
  readonly random: () => number;
  readonly progress?: (doneRegions: number, regions: number) => void;
}

/** The first 4096 bytes of a disk. Throws DmError. */
export async function readFirstBlock(device: BlockDevice, arena: Arena): Promise<Uint8Array> {
  if (device.lenSectors * 512 < SUPERBLOCK_BYTES) {
    throw invalid(`device ${device.name}: ${device.lenSectors} sectors are too few`);
  }
  return await withBuffer(arena, async (mem) => {
    const vec = new BioVec([mem], [SUPERBLOCK_BYTES], arena);
    const status = await sendBio(Op.Read, device, 0, SUPERBLOCK_BYTES, vec);
    check(status, `device ${device.name}: superblock`);
    return arena.u8.slice(mem, mem + SUPERBLOCK_BYTES);
  });
}

/** Throws DmError. */
export async function formatVolume(
  device: BlockDevice,
  arena: Arena,
  options: FormatOptions,
): Promise<VolumeFormat> {
  const grain = Math.max(1, device.limits.logicalBlockBytes / 512);
  const layout = layoutFor(device.lenSectors, grain);
  if (layout === undefined) {
    throw invalid(
      `device ${device.name}: ${device.lenSectors} sectors are too few to be formatted`,
    );
  }
  const word = (): number => Math.floor(options.random() * 0x100000000) >>> 0;
  const uuid = new Uint8Array(new Uint32Array([word(), word(), word(), word()]).buffer);
  const codec = CODEC_IDS[options.codec];
  const format = { layout, uuid, codec, level: options.level, seed: word() };
  const nothing = emptyMap();
  await withBuffer(arena, async (mem) => {
    const write = async (at: number, bytes: number): Promise<void> => {
      const vec = new BioVec([mem], [bytes], arena);
      const flags = BioFlag.Meta;
      check(await sendBio(Op.Write, device, at, bytes, vec, { flags }), `device ${device.name}`);
    };
    const perChunk = CHUNK_BYTES / RECORD_BYTES;
    for (let first = 0; first < layout.regions; first += perChunk) {
      const count = Math.min(perChunk, Math.ceil((layout.regions - first) / 8) * 8);
      for (let i = 0; i < count; i++) {
        const record = encodeRecord(format, first + i, [], nothing, 0);
        arena.u8.set(record, mem + i * RECORD_BYTES);
      }
      await write(layout.recordSector + first, count * RECORD_BYTES);
      options.progress?.(Math.min(layout.regions, first + count), layout.regions);
    }
    arena.u8.set(encodeSuperblock(format), mem);
    await write(endOf(layout), SUPERBLOCK_BYTES);
    check(await flushDevice(device), `device ${device.name}: flush`);
    await write(0, SUPERBLOCK_BYTES);
    check(await flushDevice(device), `device ${device.name}: flush`);
  });
  return format;
}

async function withBuffer<T>(arena: Arena, use: (mem: number) => Promise<T>): Promise<T> {
  const mem = arena.tryAlloc(CHUNK_BYTES);
  if (mem === NONE) throw new DmError(Status.NoMemory, 'no buffer memory left; see --buffer');
  try {
    return await use(mem);
  } finally {
    arena.free(mem, CHUNK_BYTES);
  }
}

function check(status: Status, what: string): void {
  if (status !== Status.Ok) throw new DmError(status, `${what}: ${statusName(status)}`);
}
