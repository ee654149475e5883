// The log of dm-log-writes (version 1), little-endian. In units of `blockBytes`, the logical block size of
// the device whose writes are logged:
//
//   block 0     the super: magic, version, number of entries, block size
//   block 1 ..  entries, one behind the other: a header block, then the data of a write (a discard and a
//               mark have none; a mark's text stands in the header block, right behind the header)
//
// Magic and fields are those of Linux 6.1, so josefbacik's replay-log reads what is written here.

/** 0x006a736677736872 in two halves. */
const MAGIC_LOW = 0x77736872;
const MAGIC_HIGH = 0x006a7366;
export const LOG_MAGIC = 0x6a736677736872n;
export const LOG_VERSION = 1n;
/** Bytes of the super that mean something; the rest of its block is zero. */
export const LOG_SUPER_BYTES = 28;
/** Bytes of an entry's header; the rest of its block is a mark's text, or zero. */
export const LOG_ENTRY_BYTES = 32;
export const LOG_BLOCK_BYTES_MIN = 512;
export const LOG_BLOCK_BYTES_MAX = 65536;

/** Bits of an entry's flags. */
export const LogFlag = { Flush: 1, Fua: 2, Discard: 4, Mark: 8, Metadata: 16 } as const;
export const LOG_FLAGS_ALL = 31;

const FLAG_NAMES = ['FLUSH', 'FUA', 'DISCARD', 'MARK', 'METADATA'] as const;

/** What the target logs last, when its table goes away. */
export const LOG_END_MARK = 'dm-log-writes-end';

/** `3` becomes `FLUSH|FUA`; no flag is `-`. */
export function logFlagNames(flags: number): string {
  const names = FLAG_NAMES.filter((_, bit) => (flags & (1 << bit)) !== 0);
  return names.length === 0 ? '-' : names.join('|');
}

/** An entry's header, in blocks of the log. */
export interface LogHeader {
  /** First block of the logged device. */
  readonly block: number;
  readonly blocks: number;
  /** Bits of LogFlag. */
  readonly flags: number;
  /** Bytes of a mark's text. */
  readonly textBytes: number;
}

/** A super as found: nothing has been checked. */
export interface RawLogSuper {
  readonly magic: bigint;
  readonly version: bigint;
  readonly entries: bigint;
  readonly blockBytes: number;
}

/** A header as found. */
export interface RawLogHeader {
  readonly block: bigint;
  readonly blocks: bigint;
  readonly flags: bigint;
  readonly textBytes: bigint;
}

export function encodeLogSuper(
  view: DataView,
  at: number,
  log: { readonly entries: number; readonly blockBytes: number },
): void {
  view.setUint32(at, MAGIC_LOW, true);
  view.setUint32(at + 4, MAGIC_HIGH, true);
  setU64(view, at + 8, Number(LOG_VERSION));
  setU64(view, at + 16, log.entries);
  view.setUint32(at + 24, log.blockBytes, true);
}

export function decodeLogSuper(view: DataView, at: number): RawLogSuper {
  return {
    magic: view.getBigUint64(at, true),
    version: view.getBigUint64(at + 8, true),
    entries: view.getBigUint64(at + 16, true),
    blockBytes: view.getUint32(at + 24, true),
  };
}

export function encodeLogHeader(view: DataView, at: number, header: LogHeader): void {
  setU64(view, at, header.block);
  setU64(view, at + 8, header.blocks);
  setU64(view, at + 16, header.flags);
  setU64(view, at + 24, header.textBytes);
}

export function decodeLogHeader(view: DataView, at: number): RawLogHeader {
  return {
    block: view.getBigUint64(at, true),
    blocks: view.getBigUint64(at + 8, true),
    flags: view.getBigUint64(at + 16, true),
    textBytes: view.getBigUint64(at + 24, true),
  };
}

/** A safe integer in two halves: no bigint where bios pass. */
function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 4294967296), true);
}
