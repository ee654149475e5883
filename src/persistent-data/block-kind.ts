// What kind of block a metadata block is, and what all kinds have in common: a CRC-32C in the first four
// bytes, mixed with a salt of the kind's own, and the number of the block it was written to. So a block
// of another kind, a block from another place and a damaged block are told apart from a good one.
//
// The checksum covers bytes 4 to the end, starts from all ones, is not inverted at the end, and is then
// XORed with the salt (dm_bm_checksum and the *_CSUM_XOR constants of Linux's drivers/md).

import { Status } from '../base/status.ts';
import { crc32cRaw } from '../format/crc32c.ts';
import { type Field, getU64, setU64 } from '../format/struct.ts';
import { BlockHeader } from './block-header.format.ts';

/** A metadata block, bytes. The format knows no other size. */
export const METADATA_BLOCK_BYTES = 4096;

export interface BlockKind {
  /** As it reads in an error: `btree node`. */
  readonly name: string;
  readonly salt: number;
  /** Where the block's own number is, a u64. */
  readonly blockNumberOffset: number;
  /** Whatever else must hold before a field is used: the complaint, or undefined. */
  check?(view: DataView): string | undefined;
}

/** A block that is not what its place demands. The message names block, kind, found and expected. */
export class CorruptBlockError extends Error {
  override readonly name = 'CorruptBlockError';
  readonly status: Status = Status.BadMessage;
  readonly block: number;
  readonly kind: string;

  constructor(block: number, kind: string, complaint: string) {
    super(`metadata block ${block}: ${kind}: ${complaint}`);
    this.block = block;
    this.kind = kind;
  }
}

/** Salts, one a kind. */
export const Salt = {
  ThinSuperblock: 160774,
  BtreeNode: 121107,
  SpaceMapBitmap: 240779,
  SpaceMapIndex: 160478,
  ArrayBlock: 595846735,
  CacheSuperblock: 9031977,
  EraSuperblock: 146538381,
} as const;

export function blockChecksum(data: Uint8Array, salt: number): number {
  return (crc32cRaw(data, 4, METADATA_BLOCK_BYTES, 0xffffffff) ^ salt) >>> 0;
}

/** Fills in the number and the checksum: the last thing before a write. */
export function sealBlock(kind: BlockKind, block: number, data: Uint8Array, view: DataView): void {
  setU64(view, kind.blockNumberOffset, block);
  BlockHeader.csum.set(view, 0, blockChecksum(data, kind.salt));
}

/** Throws a CorruptBlockError unless `data` is a good block of this kind from this place. */
export function verifyBlock(
  kind: BlockKind,
  block: number,
  data: Uint8Array,
  view: DataView,
): void {
  const csum = BlockHeader.csum.get(view, 0);
  const expected = blockChecksum(data, kind.salt);
  const number = numberOrText(view, kind.blockNumberOffset);
  if (number !== block) {
    const sum = csum === expected ? 'its checksum is right' : 'its checksum is wrong too';
    throw corrupt(kind, block, `it says it is block ${number}, expected ${block}; ${sum}`);
  }
  if (csum !== expected) {
    throw corrupt(kind, block, `checksum is ${hex(csum)}, expected ${hex(expected)}`);
  }
  const complaint = complaintOf(kind, view);
  if (complaint !== undefined) throw corrupt(kind, block, complaint);
}

/** A field that is no sane number is a complaint, too. */
function complaintOf(kind: BlockKind, view: DataView): string | undefined {
  try {
    return kind.check?.(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return error.message;
  }
}

export function corrupt(kind: BlockKind, block: number, complaint: string): CorruptBlockError {
  return new CorruptBlockError(block, kind.name, complaint);
}

/** A field of a verified block; what is no sane number counts against the block, not the program. */
export function fieldOf(
  kind: BlockKind,
  block: number,
  view: DataView,
  field: Field<number>,
): number {
  try {
    return field.get(view, 0);
  } catch (error) {
    throw corrupt(kind, block, error instanceof Error ? error.message : String(error));
  }
}

function numberOrText(view: DataView, offset: number): number | string {
  try {
    return getU64(view, offset);
  } catch {
    return 'above 2^53';
  }
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(8, '0')}`;
}
