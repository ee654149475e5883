// Making a version 2 volume: records of empty regions first, the superblock when those are on the disk. So a disk
// is formatted, or it is not.

import { invalid } from '../../base/errors.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { flushDevice, sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import type { Arena } from '../../io/arena.ts';
import type { CodecName } from '../../codec/codec.ts';
import { check, CHUNK_BYTES, readDisk, withBuffer } from './disk-io.ts';
import { emptyMap, encodeRecord } from './record.format.ts';
import {
  CODEC_IDS,
  encodeSuperblock,
  endOf,
  findSuperblock,
  type Found,
  layoutFor,
  RECORD_BYTES,
  SUPERBLOCK_BYTES,
  type VolumeFormat,
} from './superblock.format.ts';

export interface FormatOptions {
  readonly codec: CodecName;
  /** 0: the codec's own. */
  readonly level: number;
  /** Uniform in 0 .. 1. */
  readonly random: () => number;
  readonly progress?: (doneRegions: number, regions: number) => void;
}

/** What the first block of a disk is; zeroes before a copy of a superblock are a damaged disk. Throws DmError. */
export async function findFormat(device: BlockDevice, arena: Arena): Promise<Found> {
  const found = findSuperblock(await readBlock(device, arena, 0), device.lenSectors);
  const layout = found.what === 'zeroes' ? layoutFor(device.lenSectors, 1) : undefined;
  if (layout === undefined) return found;
  const copy = findSuperblock(await readBlock(device, arena, endOf(layout)), device.lenSectors);
  if (copy.what !== 'version 2') return found;
  const complaint =
    'it begins with zeroes, and the copy of its superblock is there: ' +
    "'lamina compress check --repair' puts it back, 'lamina compress format --force' makes the disk anew";
  return { what: 'other', complaint };
}

/** 4096 bytes of a disk. */
async function readBlock(device: BlockDevice, arena: Arena, sector: number): Promise<Uint8Array> {
  if (device.lenSectors * 512 < SUPERBLOCK_BYTES) {
    throw invalid(`device ${device.name}: ${device.lenSectors} sectors are too few`);
  }
  const range = { sector, lenBytes: SUPERBLOCK_BYTES };
  return await readDisk(device, arena, range, `device ${device.name}: superblock`);
}

/** What a tool formats. Writes and flushes throw DmErrors. */
export interface FormatSink {
  readonly name: string;
  readonly lenSectors: number;
  readonly blockBytes: number;
  /** At most 64 KiB, of which the sink keeps nothing. */
  write(sector: number, bytes: Uint8Array): Promise<void>;
  /** Everything written before is durable when this resolves. */
  flush(): Promise<void>;
}

/** What an empty volume on a device of a table would be. Writes nothing. Throws DmError. */
export function planDevice(device: BlockDevice, options: FormatOptions): VolumeFormat {
  return planVolume(whereOf(device), device.lenSectors, device.limits.logicalBlockBytes, options);
}

/** Formats a device of a table as it was planned. Throws DmError. */
export async function formatDevice(
  device: BlockDevice,
  arena: Arena,
  format: VolumeFormat,
): Promise<void> {
  const where = whereOf(device);
  await withBuffer(arena, async (mem) => {
    const sink = {
      write: async (sector: number, bytes: Uint8Array) => {
        arena.u8.set(bytes, mem);
        const vec = new BioVec([mem], [bytes.length], arena);
        const flags = BioFlag.Meta;
        check(await sendBio(Op.Write, device, sector, bytes.length, vec, { flags }), where);
      },
      flush: async () => check(await flushDevice(device), `${where}: flush`),
    };
    await writeVolume(sink, format);
  });
}

function whereOf({ name }: BlockDevice): string {
  return `device ${name}`;
}

/** Formats a tool's disk. Throws DmError. */
export async function formatSink(sink: FormatSink, options: FormatOptions): Promise<VolumeFormat> {
  const format = planVolume(sink.name, sink.lenSectors, sink.blockBytes, options);
  await writeVolume(sink, format, options.progress);
  return format;
}

function planVolume(
  name: string,
  lenSectors: number,
  blockBytes: number,
  options: FormatOptions,
): VolumeFormat {
  const layout = layoutFor(lenSectors, Math.max(1, blockBytes / 512));
  if (layout === undefined) {
    throw invalid(`${name}: ${lenSectors} sectors are too few to be formatted`);
  }
  const word = (): number => Math.floor(options.random() * 0x100000000) >>> 0;
  const uuid = new Uint8Array(new Uint32Array([word(), word(), word(), word()]).buffer);
  return { layout, uuid, codec: CODEC_IDS[options.codec], level: options.level, seed: word() };
}

/**
 * Writes an empty volume: its records first, the superblock when these are durable, then the copy
 * of that.
 */
async function writeVolume(
  sink: Pick<FormatSink, 'write' | 'flush'>,
  format: VolumeFormat,
  progress?: FormatOptions['progress'],
): Promise<void> {
  const { layout } = format;
  const nothing = emptyMap();
  const perChunk = CHUNK_BYTES / RECORD_BYTES;
  for (let first = 0; first < layout.regions; first += perChunk) {
    const count = Math.min(perChunk, Math.ceil((layout.regions - first) / 8) * 8);
    const records = new Uint8Array(count * RECORD_BYTES);
    for (let i = 0; i < count; i++) {
      records.set(encodeRecord(format, first + i, [], nothing, 0), i * RECORD_BYTES);
    }
    await sink.write(layout.recordSector + first, records);
    progress?.(Math.min(layout.regions, first + count), layout.regions);
  }
  const superblock = encodeSuperblock(format);
  await sink.flush();
  await sink.write(0, superblock);
  await sink.flush();
  // Where there is a copy there was a superblock: a disk that was only half made is blank.
  await sink.write(endOf(layout), superblock);
  await sink.flush();
}
