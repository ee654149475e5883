// The messages of the NBD handshake, from the specification (doc/proto.md, "Fixed newstyle
// negotiation" and "Option types"). Everything is big-endian. Decoders throw `MalformedOption` with
// a text that names the field, what was found and what was expected; the text goes to the client.

import {
  HandshakeFlag,
  Info,
  NBD_MAGIC,
  NBD_OPTION_MAGIC,
  NBD_OPTION_REPLY_MAGIC,
  NBD_STRING_MAX,
  Opt,
  Rep,
  TransmissionFlag,
} from '../../format/nbd.ts';
import type { ExportInfo } from '../../exports/control.ts';
import { REQUEST_BYTES_MAX } from './wire.ts';

export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
const REPLY_HEADER_BYTES = 20;
const RESERVED_ZEROES_BYTES = 124;

/** What a client sent under an option is not what the specification allows. */
export class MalformedOption extends Error {
  override readonly name = 'MalformedOption';
}

export interface OptionHeader {
  readonly hasMagic: boolean;
  readonly option: number;
  readonly lenBytes: number;
}

export interface InfoRequest {
  readonly exportName: string;
  readonly wanted: ReadonlySet<number>;
}

export interface MetaContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/** `LIST_META_CONTEXT` for people; a number for options that have no name here. */
export function optionName(option: number): string {
  return OPTION_NAMES.get(option) ?? `option ${option}`;
}

const OPTION_NAMES: ReadonlyMap<number, string> = new Map([
  [Opt.ExportName, 'EXPORT_NAME'],
  [Opt.Abort, 'ABORT'],
  [Opt.List, 'LIST'],
  [Opt.StartTls, 'STARTTLS'],
  [Opt.Info, 'INFO'],
  [Opt.Go, 'GO'],
  [Opt.StructuredReply, 'STRUCTURED_REPLY'],
  [Opt.ListMetaContext, 'LIST_META_CONTEXT'],
  [Opt.SetMetaContext, 'SET_META_CONTEXT'],
  [Opt.ExtendedHeaders, 'EXTENDED_HEADERS'],
]);

export function encodeGreeting(): Uint8Array {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(NBD_MAGIC, 0);
  bytes.writeBigUInt64BE(NBD_OPTION_MAGIC, 8);
  bytes.writeUInt16BE(HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes, 16);
  return bytes;
}

export function decodeClientFlags(bytes: Buffer): number {
  return bytes.readUInt32BE(0);
}

export function decodeOptionHeader(bytes: Buffer): OptionHeader {
  return {
    hasMagic: bytes.readBigUInt64BE(0) === NBD_OPTION_MAGIC,
    option: bytes.readUInt32BE(8),
    lenBytes: bytes.readUInt32BE(12),
  };
}

export function encodeOptionReply(option: number, type: number, data?: Uint8Array): Uint8Array {
  const lenBytes = data?.length ?? 0;
  const bytes = Buffer.allocUnsafe(REPLY_HEADER_BYTES + lenBytes);
  bytes.writeBigUInt64BE(NBD_OPTION_REPLY_MAGIC, 0);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(lenBytes, 16);
  if (data !== undefined) bytes.set(data, REPLY_HEADER_BYTES);
  return bytes;
}

export function encodeErrorReply(option: number, type: number, text: string): Uint8Array {
  return encodeOptionReply(option, type, encodeString(text));
}

/** The answer to EXPORT_NAME, which has no reply header. */
export function encodeExportNameReply(
  info: ExportInfo,
  flags: number,
  hasZeroes: boolean,
): Uint8Array {
  const bytes = Buffer.alloc(hasZeroes ? 10 + RESERVED_ZEROES_BYTES : 10);
  bytes.writeBigUInt64BE(BigInt(info.sizeBytes), 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

/** The NBD_REP_INFO replies to INFO or GO: the export, and what was asked for. */
export function encodeInfoReplies(
  option: number,
  info: ExportInfo,
  flags: number,
  wanted: ReadonlySet<number>,
): Uint8Array {
  const exportBytes = Buffer.alloc(12);
  exportBytes.writeUInt16BE(Info.Export, 0);
  exportBytes.writeBigUInt64BE(BigInt(info.sizeBytes), 2);
  exportBytes.writeUInt16BE(flags, 10);
  const parts: Uint8Array[] = [exportBytes];
  if (wanted.has(Info.Name)) parts.push(encodeTextInfo(Info.Name, info.name));
  // An empty description says nothing: the specification lets the server leave it out.
  if (wanted.has(Info.Description) && info.description !== '') {
    parts.push(encodeTextInfo(Info.Description, info.description));
  }
  if (wanted.has(Info.BlockSize)) {
    const sizes = Buffer.alloc(14);
    sizes.writeUInt16BE(Info.BlockSize, 0);
    sizes.writeUInt32BE(info.minBlockBytes, 2);
    sizes.writeUInt32BE(info.preferredBlockBytes, 6);
    sizes.writeUInt32BE(REQUEST_BYTES_MAX, 10);
    parts.push(sizes);
  }
  return Buffer.concat(parts.map((data) => encodeOptionReply(option, Rep.Info, data)));
}

function encodeTextInfo(type: number, text: string): Uint8Array {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(type, 0);
  return Buffer.concat([head, encodeString(text)]);
}

/** One NBD_REP_SERVER reply to LIST. */
export function encodeServerReply(name: string, description: string): Uint8Array {
  const nameBytes = encodeString(name);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(nameBytes.length, 0);
  return encodeOptionReply(
    Opt.List,
    Rep.Server,
    Buffer.concat([head, nameBytes, encodeString(description)]),
  );
}

export function encodeMetaContextReply(option: number, id: number, name: string): Uint8Array {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(id, 0);
  return encodeOptionReply(option, Rep.MetaContext, Buffer.concat([head, encodeString(name)]));
}

/**
 * The transmission flags of an export. A read-only one offers nothing that writes, and DF exists
 * only with structured replies. CACHE is served for every export.
 */
export function transmissionFlags(info: ExportInfo, hasStructuredReplies: boolean): number {
  let flags: number = TransmissionFlag.HasFlags | TransmissionFlag.SendCache;
  if (info.canFlush) flags |= TransmissionFlag.SendFlush;
  if (info.canFua) flags |= TransmissionFlag.SendFua;
  if (info.isRotational) flags |= TransmissionFlag.Rotational;
  if (info.canMultiConn) flags |= TransmissionFlag.CanMultiConn;
  if (hasStructuredReplies) flags |= TransmissionFlag.SendDf;
  if (info.isReadOnly) return flags | TransmissionFlag.ReadOnly;
  if (info.canTrim) flags |= TransmissionFlag.SendTrim;
  if (info.canWriteZeroes) {
    flags |= TransmissionFlag.SendWriteZeroes;
    if (info.canFastZero) flags |= TransmissionFlag.SendFastZero;
  }
  return flags;
}

/** EXPORT_NAME: the whole payload is the name. */
export function decodeExportName(payload: Buffer): string {
  return decodeString(payload, 'export name');
}

/** INFO and GO. */
export function decodeInfoRequest(payload: Buffer): InfoRequest {
  const fields = new FieldReader(payload);
  const exportName = fields.string('export name');
  const count = fields.u16('number of information requests');
  fields.expectLeft(count * 2, `${count} information requests`);
  const wanted = new Set<number>();
  for (let i = 0; i < count; i++) wanted.add(fields.u16('information request'));
  return { exportName, wanted };
}

/** LIST_META_CONTEXT and SET_META_CONTEXT. */
export function decodeMetaContextRequest(payload: Buffer): MetaContextRequest {
  const fields = new FieldReader(payload);
  const exportName = fields.string('export name');
  const count = fields.u32('number of queries');
  const queries: string[] = [];
  // The count is the client's word only; each query takes 4 bytes or the reader refuses, so the
  // loop ends with the payload whatever the count says.
  for (let i = 0; i < count; i++) queries.push(decodeQuery(fields));
  fields.expectLeft(0, `the end after ${count} queries`);
  return { exportName, queries };
}

function decodeQuery(fields: FieldReader): string {
  const query = fields.string('query');
  if (query.indexOf(':') < 1) {
    throw new MalformedOption(`query '${query}': expected a namespace and a colon`);
  }
  return query;
}

class FieldReader {
  readonly #payload: Buffer;
  #at = 0;

  constructor(payload: Buffer) {
    this.#payload = payload;
  }

  u16(field: string): number {
    const at = this.#advance(2, field);
    return this.#payload.readUInt16BE(at);
  }

  u32(field: string): number {
    const at = this.#advance(4, field);
    return this.#payload.readUInt32BE(at);
  }

  /** A 32-bit length and that many bytes of UTF-8. */
  string(field: string): string {
    const lenBytes = this.u32(`${field} length`);
    const at = this.#advance(lenBytes, field);
    return decodeString(this.#payload.subarray(at, at + lenBytes), field);
  }

  expectLeft(bytes: number, what: string): void {
    const left = this.#payload.length - this.#at;
    if (left !== bytes) {
      throw new MalformedOption(`${left} bytes of data left, expected ${bytes}: ${what}`);
    }
  }

  #advance(bytes: number, field: string): number {
    const at = this.#at;
    const left = this.#payload.length - at;
    if (bytes > left) {
      throw new MalformedOption(`${field}: needs ${bytes} bytes, but the option has ${left} left`);
    }
    this.#at = at + bytes;
    return at;
  }
}

// A byte order mark is kept: two names that differ must not become one.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeString(bytes: Buffer, field: string): string {
  if (bytes.length > NBD_STRING_MAX) {
    throw new MalformedOption(
      `${field}: ${bytes.length} bytes, expected at most ${NBD_STRING_MAX}`,
    );
  }
  const nul = bytes.indexOf(0);
  if (nul !== -1) {
    throw new MalformedOption(`${field}: a NUL at byte ${nul}, expected text without`);
  }
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new MalformedOption(`${field}: not UTF-8`, { cause });
  }
}

/** UTF-8, cut at a character's end where it is longer than a string may be. */
function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text);
  if (bytes.length <= NBD_STRING_MAX) return bytes;
  let end = NBD_STRING_MAX;
  while (((bytes[end] as number) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}
