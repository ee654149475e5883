// Thin provisioning metadata, version 2, as Linux's dm-thin keeps it on disk
// (drivers/md/dm-thin-metadata.c). Block 0 is the superblock; the rest is trees and space maps of
// the persistent-data library.

import { bytes, struct, u32, u64 } from '../../format/struct.ts';
import { type BlockKind, METADATA_BLOCK_BYTES, Salt } from '../../persistent-data/block-kind.ts';
import type { ValueType } from '../../persistent-data/btree.ts';
import type { SpaceMap } from '../../persistent-data/space-map.ts';
import { SPACE_MAP_ROOT_FIELD_BYTES } from '../../persistent-data/space-map.format.ts';

export const THIN_MAGIC = 27022010;
export const THIN_VERSION = 2;
/** What thin_restore writes for XML without a version; nothing else is different. */
const THIN_VERSION_MIN = 1;
export const THIN_SUPERBLOCK_LOCATION = 0;
/** Metadata blocks in sectors, as the superblock has it. */
export const METADATA_BLOCK_SECTORS = 8;
/** Device identifiers and times have 24 bits. */
export const THIN_ID_MAX = 0xffffff;
export const THIN_TIME_MAX = 0xffffff;

const DATA_BLOCK_SECTORS_MIN = 128;
const DATA_BLOCK_SECTORS_MAX = 2097152;

/** What a data block size would have to be; undefined when it is. */
export function blockSectorsComplaint(sectors: number): string | undefined {
  const isRight =
    sectors >= DATA_BLOCK_SECTORS_MIN &&
    sectors <= DATA_BLOCK_SECTORS_MAX &&
    sectors % DATA_BLOCK_SECTORS_MIN === 0;
  if (isRight) return undefined;
  const range = `${DATA_BLOCK_SECTORS_MIN}..${DATA_BLOCK_SECTORS_MAX}`;
  return `need a multiple of ${DATA_BLOCK_SECTORS_MIN} in ${range} sectors`;
}

export const SuperblockFlag = { NeedsCheck: 1 } as const;

export const ThinSuperblock = struct('thin superblock', METADATA_BLOCK_BYTES, {
  csum: u32(0), // salt 160774
  flags: u32(4), // bit 0: needs check
  blocknr: u64(8), // 0, or where a held copy is
  uuid: bytes(16, 16),
  magic: u64(32), // 27022010
  version: u32(40), // 2, or 1
  time: u32(44), // counts snapshots
  transactionId: u64(48), // the operator's
  heldRoot: u64(56), // block of the metadata snapshot, or 0
  dataSpaceMapRoot: bytes(64, SPACE_MAP_ROOT_FIELD_BYTES),
  metadataSpaceMapRoot: bytes(192, SPACE_MAP_ROOT_FIELD_BYTES),
  dataMappingRoot: u64(320), // device -> root of: thin block -> mapping
  deviceDetailsRoot: u64(328), // device -> details
  dataBlockSize: u32(336), // sectors
  metadataBlockSize: u32(340), // sectors: 8
  metadataNrBlocks: u64(344),
  compatFlags: u32(352),
  compatRoFlags: u32(356),
  incompatFlags: u32(360),
  padding: bytes(364, METADATA_BLOCK_BYTES - 16 - 364),
  // Zero but in a held copy that lamina has made for a message of its own.
  snapshotOwner: bytes(METADATA_BLOCK_BYTES - 16, 16),
});

/** What `snapshotOwner` says then. */
export const SNAPSHOT_OWNER = Buffer.from('lamina: message\0');

export const THIN_SUPERBLOCK: BlockKind = {
  name: 'thin superblock',
  salt: Salt.ThinSuperblock,
  blockNumberOffset: ThinSuperblock.blocknr.offset,
  check(view) {
    const magic = ThinSuperblock.magic.get(view, 0);
    if (magic !== THIN_MAGIC) return `magic is ${magic}, expected ${THIN_MAGIC}`;
    const version = ThinSuperblock.version.get(view, 0);
    if (version < THIN_VERSION_MIN || version > THIN_VERSION) {
      return `version is ${version}, expected ${THIN_VERSION_MIN} or ${THIN_VERSION}`;
    }
    return undefined;
  },
};

export const DeviceDetails = struct('thin device details', 24, {
  mappedBlocks: u64(0),
  transactionId: u64(8), // when it was made
  creationTime: u32(16),
  snapshottedTime: u32(20), // mappings older than this are shared
});

export interface DeviceDetailsValues {
  readonly mappedBlocks: number;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}

export const DETAILS_VALUE: ValueType<DeviceDetailsValues> = {
  name: 'thin device details',
  sizeBytes: DeviceDetails.$sizeBytes,
  get: (view, offset) => DeviceDetails.$decode(view, offset),
  set: (view, offset, value) => DeviceDetails.$encode(view, offset, value),
};

/** A mapping is one u64: the data block above 24 bits of time. */
export interface Mapping {
  readonly dataBlock: number;
  readonly time: number;
}

export const MAPPING_BYTES = 8;
const BLOCK_LOW = 256;
const DATA_BLOCK_LIMIT = 2 ** 40;

export function mappedDataBlock(view: DataView, offset: number): number {
  const low = view.getUint32(offset, true) >>> 24;
  return view.getUint32(offset + 4, true) * BLOCK_LOW + low;
}

export function mappedTime(view: DataView, offset: number): number {
  return view.getUint32(offset, true) & THIN_TIME_MAX;
}

/** Mappings that hold references to blocks of `dataMap`. */
export function mappingValue(dataMap: SpaceMap): ValueType<Mapping> {
  return {
    name: 'thin mapping',
    sizeBytes: MAPPING_BYTES,
    get: (view, offset) => ({
      dataBlock: mappedDataBlock(view, offset),
      time: mappedTime(view, offset),
    }),
    set(view, offset, { dataBlock, time }) {
      if (dataBlock >= DATA_BLOCK_LIMIT) throw new RangeError(`data block ${dataBlock} >= 2^40`);
      view.setUint32(offset + 4, Math.floor(dataBlock / BLOCK_LOW), true);
      view.setUint32(offset, ((dataBlock % BLOCK_LOW) << 24) | time, true);
    },
    inc: async (view, offset, count) => {
      for (const [begin, end] of runs(view, offset, count)) await dataMap.inc(begin, end);
    },
    dec: async (view, offset, count) => {
      for (const [begin, end] of runs(view, offset, count)) await dataMap.dec(begin, end);
    },
    equal: (stored, given) => stored.dataBlock === given.dataBlock,
  };
}

/**
 * The data blocks of adjacent mappings as runs [begin, end). Read first: the maps may move things.
 */
function runs(view: DataView, offset: number, count: number): [number, number][] {
  const found: [number, number][] = [];
  for (let i = 0; i < count; i++) {
    const block = mappedDataBlock(view, offset + i * MAPPING_BYTES);
    const last = found.at(-1);
    if (last?.[1] === block) last[1]++;
    else found.push([block, block + 1]);
  }
  return found;
}
