// The messages of the NBD handshake as a client writes and reads them; from the specification
// (doc/proto.md, "Newstyle negotiation", "Option types"). Everything is big-endian. Decoders throw
// DmError with what was found and what was expected.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';
import { Info, NBD_OPTION_MAGIC, NBD_OPTION_REPLY_MAGIC, Opt, Rep } from '../../format/nbd.ts';

/** The second magic of the oldest servers, which have neither names nor options. */
export const NBD_OLDSTYLE_MAGIC = 0x0000420281861253n;
export const GREETING_BYTES = 16;
export const OLDSTYLE_REST_BYTES = 136;
export const REPLY_HEADER_BYTES = 20;
export const RESERVED_ZEROES_BYTES = 124;
/** The longest option reply that is read; the longest string is 4096 bytes. */
export const REPLY_BYTES_MAX = 16384;
/** The largest request where the server says nothing about it. */
export const DEFAULT_MAX_BLOCK_BYTES = 32 * MIB;
const UNLIMITED = 0xffffffff;
const MIN_BLOCK_BYTES_MAX = 65536;
const ERROR_TEXT_MAX = 300;

export interface BlockSizes {
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maxBlockBytes: number;
}

export interface ExportSize {
  readonly sizeBytes: number;
  /** Bits of TransmissionFlag. */
  readonly flags: number;
}

export interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

export function violation(text: string): DmError {
  return new DmError(Status.BadMessage, `the server broke the NBD protocol: ${text}`);
}

export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

const OPTION_NAMES: ReadonlyMap<number, string> = new Map([
  [Opt.ExportName, 'EXPORT_NAME'],
  [Opt.StartTls, 'STARTTLS'],
  [Opt.Go, 'GO'],
  [Opt.StructuredReply, 'STRUCTURED_REPLY'],
  [Opt.SetMetaContext, 'SET_META_CONTEXT'],
]);

const ERROR_NAMES: ReadonlyMap<number, string> = new Map([
  [Rep.ErrUnsup, 'the option is not supported'],
  [Rep.ErrPolicy, "the server's policy forbids it"],
  [Rep.ErrInvalid, 'the server calls the option invalid'],
  [Rep.ErrPlatform, "the server's platform does not support it"],
  [Rep.ErrTlsReqd, 'the server requires TLS (nbds:)'],
  [Rep.ErrUnknown, 'no such export'],
  [Rep.ErrShutdown, 'the server is shutting down'],
  [Rep.ErrBlockSizeReqd, 'the server insists on block sizes'],
  [Rep.ErrTooBig, 'the server calls the option too long'],
]);

export function optionName(option: number): string {
  return OPTION_NAMES.get(option) ?? `option ${option}`;
}

export function encodeClientFlags(flags: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  return bytes;
}

export function encodeOption(option: number, data: Uint8Array): Uint8Array {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(NBD_OPTION_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

/** GO's data: the export, and that block sizes are wanted. */
export function encodeGo(exportName: string): Uint8Array {
  const wanted = Buffer.alloc(4);
  wanted.writeUInt16BE(1, 0);
  wanted.writeUInt16BE(Info.BlockSize, 2);
  return Buffer.concat([encodeString(exportName), wanted]);
}

/** SET_META_CONTEXT's data: one query. */
export function encodeMetaQuery(exportName: string, query: string): Uint8Array {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(1);
  return Buffer.concat([encodeString(exportName), count, encodeString(query)]);
}

function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** Type and data length of a reply to `option`. */
export function decodeReplyHeader(bytes: Buffer, option: number): { type: number; len: number } {
  const magic = bytes.readBigUInt64BE(0);
  if (magic !== NBD_OPTION_REPLY_MAGIC) {
    throw violation(`option reply magic ${hex(magic)}, expected ${hex(NBD_OPTION_REPLY_MAGIC)}`);
  }
  const answered = bytes.readUInt32BE(8);
  if (answered !== option) {
    throw violation(`reply to ${optionName(answered)}, expected one to ${optionName(option)}`);
  }
  const len = bytes.readUInt32BE(16);
  if (len > REPLY_BYTES_MAX) {
    throw violation(
      `reply to ${optionName(option)} of ${len} bytes, expected at most ${REPLY_BYTES_MAX}`,
    );
  }
  return { type: bytes.readUInt32BE(12), len };
}

export function isErrorReply(type: number): boolean {
  return type >= 0x80000000;
}

/** What an error reply says, with the server's own words where it has some. */
export function refusalText(option: number, { type, data }: OptionReply): string {
  const meaning = ERROR_NAMES.get(type) ?? `error ${hex(type)}`;
  const words = printable(data);
  return `${optionName(option)}: ${meaning}${words === '' ? '' : ` (${words})`}`;
}

/** A server's text on one line and not too long. */
export function printable(bytes: Uint8Array): string {
  const text = Buffer.from(bytes)
    .toString('utf8')
    .replaceAll(/[\p{C}\s]+/gu, ' ')
    .trim();
  return text.length > ERROR_TEXT_MAX ? `${text.slice(0, ERROR_TEXT_MAX)}...` : text;
}

/** 64 bits of size and 16 of flags at `at`. */
export function decodeExportSize(bytes: Buffer, at: number): ExportSize {
  const size = bytes.readBigUInt64BE(at);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw violation(`export size ${size} bytes, expected at most ${Number.MAX_SAFE_INTEGER}`);
  }
  return { sizeBytes: Number(size), flags: bytes.readUInt16BE(at + 8) };
}

/** Size and flags of an oldstyle server: its flags are two halves of 16 bits. */
export function decodeOldstyle(bytes: Buffer): ExportSize {
  return { ...decodeExportSize(bytes, 0), flags: bytes.readUInt16BE(10) };
}

/** The kind of an INFO reply. */
export function decodeInfoType(data: Buffer): number {
  if (data.length < 2) {
    throw violation(`INFO reply of ${data.length} bytes, expected 2 or more`);
  }
  return data.readUInt16BE(0);
}

export function decodeInfoExport(data: Buffer): ExportSize {
  if (data.length !== 12) {
    throw violation(`INFO_EXPORT of ${data.length} bytes, expected 12`);
  }
  return decodeExportSize(data, 2);
}

export function decodeInfoBlockSize(data: Buffer): BlockSizes {
  if (data.length !== 14) {
    throw violation(`INFO_BLOCK_SIZE of ${data.length} bytes, expected 14`);
  }
  const min = data.readUInt32BE(2);
  const preferred = data.readUInt32BE(6);
  const max = data.readUInt32BE(10);
  if (min === 0 || (min & (min - 1)) !== 0 || min > MIN_BLOCK_BYTES_MAX) {
    throw violation(
      `minimum block size ${min}, expected a power of two in 1..${MIN_BLOCK_BYTES_MAX}`,
    );
  }
  if (max !== UNLIMITED && (max < min || max % min !== 0)) {
    throw violation(`maximum block size ${max}, expected a multiple of the minimum ${min}`);
  }
  return { minBlockBytes: min, preferredBlockBytes: preferred, maxBlockBytes: max };
}

/** The id given to `name`. */
export function decodeMetaContext(data: Buffer, name: string): number {
  if (data.length < 4) {
    throw violation(`META_CONTEXT reply of ${data.length} bytes, expected 4 and a name`);
  }
  const found = printable(data.subarray(4));
  if (found !== name) throw violation(`metadata context '${found}', expected '${name}'`);
  return data.readUInt32BE(0);
}
