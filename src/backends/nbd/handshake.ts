// The NBD handshake from the client's side: fixed newstyle with GO, and what older servers have
// instead.
//
// The order is STARTTLS, STRUCTURED_REPLY, SET_META_CONTEXT, GO. What a server does not know is
// done without, except TLS: who asks for it gets it or no connection. A server that does not know
// GO is asked with EXPORT_NAME, which it answers or hangs up on. Every length and count a server
// may send has a limit.

import type { Duplex } from 'node:stream';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { HandshakeFlag, Info, NBD_MAGIC, NBD_OPTION_MAGIC, Opt, Rep } from '../../format/nbd.ts';
import {
  type BlockSizes,
  DEFAULT_MAX_BLOCK_BYTES,
  decodeExportSize,
  decodeInfoBlockSize,
  decodeInfoExport,
  decodeInfoType,
  decodeMetaContext,
  decodeOldstyle,
  decodeReplyHeader,
  encodeClientFlags,
  encodeGo,
  encodeMetaQuery,
  encodeOption,
  type ExportSize,
  GREETING_BYTES,
  hex,
  isErrorReply,
  NBD_OLDSTYLE_MAGIC,
  OLDSTYLE_REST_BYTES,
  type OptionReply,
  optionName,
  refusalText,
  REPLY_HEADER_BYTES,
  RESERVED_ZEROES_BYTES,
  violation,
} from './handshake.format.ts';
import { HandshakeSocket } from './handshake-socket.ts';

/** Most replies to one option; a server with more to say is not going to end. */
const REPLIES_MAX = 256;
const NO_DATA = new Uint8Array(0);
const NO_CONTEXT = -1;
const ALLOCATION = 'base:allocation';

/** What client and server have agreed on. Plain data: it may come from another thread. */
export interface ExportTerms extends ExportSize, BlockSizes {
  readonly hasStructuredReplies: boolean;
  /** Context id of base:allocation; -1 where the server has no block status. */
  readonly allocationContextId: number;
}

export interface HandshakeOptions {
  readonly exportName: string;
  /** Switches the connection to TLS; undefined: plain text. */
  readonly startTls: ((plain: Duplex) => Promise<Duplex>) | undefined;
}

export interface Agreed {
  readonly terms: ExportTerms;
  /** The connection from now on: the one given, or TLS over it. */
  readonly duplex: Duplex;
}

/** Throws DmError; the connection is then of no use. */
export async function handshake(duplex: Duplex, options: HandshakeOptions): Promise<Agreed> {
  const run = new Handshake(duplex, options);
  return await run.run();
}

class Handshake {
  #socket: HandshakeSocket;
  readonly #options: HandshakeOptions;
  #hasNoZeroes = false;

  constructor(duplex: Duplex, options: HandshakeOptions) {
    this.#socket = new HandshakeSocket(duplex);
    this.#options = options;
  }

  async run(): Promise<Agreed> {
    const terms = await this.#negotiate();
    const { unreadBytes } = this.#socket;
    if (unreadBytes > 0) {
      throw violation(`${unreadBytes} bytes before any request was sent, expected none`);
    }
    await this.#socket.detach();
    return { terms, duplex: this.#socket.duplex };
  }

  async #negotiate(): Promise<ExportTerms> {
    const greeting = await this.#socket.read(GREETING_BYTES, 'the greeting');
    const magic = greeting.readBigUInt64BE(0);
    if (magic !== NBD_MAGIC) {
      throw violation(`greeting ${hex(magic)}, expected ${hex(NBD_MAGIC)}: this is no NBD server`);
    }
    const style = greeting.readBigUInt64BE(8);
    if (style === NBD_OLDSTYLE_MAGIC) return await this.#oldstyle();
    if (style !== NBD_OPTION_MAGIC) {
      throw violation(`second magic ${hex(style)}, expected ${hex(NBD_OPTION_MAGIC)}`);
    }
    const flags = (await this.#socket.read(2, 'the handshake flags')).readUInt16BE(0);
    const isFixed = (flags & HandshakeFlag.FixedNewstyle) !== 0;
    this.#hasNoZeroes = (flags & HandshakeFlag.NoZeroes) !== 0;
    const known = flags & (HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes);
    await this.#socket.write(encodeClientFlags(known));
    return isFixed ? await this.#fixedNewstyle() : await this.#newstyle();
  }

  /** The server sends its only export at once. */
  async #oldstyle(): Promise<ExportTerms> {
    const { exportName } = this.#options;
    this.#refuseTls('an oldstyle server');
    if (exportName !== '') {
      throw invalid(`export '${exportName}': the server is of the old style and has no names`);
    }
    const rest = await this.#socket.read(OLDSTYLE_REST_BYTES, 'the oldstyle greeting');
    return plainTerms(decodeOldstyle(rest));
  }

  /** Before options could be refused there was only one of them. */
  async #newstyle(): Promise<ExportTerms> {
    this.#refuseTls('a server without fixed newstyle');
    return plainTerms(await this.#exportName());
  }

  async #fixedNewstyle(): Promise<ExportTerms> {
    if (this.#options.startTls !== undefined) await this.#startTls(this.#options.startTls);
    const structured = await this.#option(Opt.StructuredReply, NO_DATA);
    const hasStructuredReplies = structured.type === Rep.Ack;
    const allocationContextId = hasStructuredReplies ? await this.#metaContext() : NO_CONTEXT;
    const go = await this.#go();
    const rest = { hasStructuredReplies, allocationContextId };
    if (go !== undefined) return { ...go, ...rest };
    return { ...plainTerms(await this.#exportName()), ...rest };
  }

  #refuseTls(what: string): void {
    if (this.#options.startTls === undefined) return;
    throw new DmError(Status.NotSupported, `TLS was asked for: ${what} cannot do it`);
  }

  async #startTls(startTls: (plain: Duplex) => Promise<Duplex>): Promise<void> {
    const reply = await this.#option(Opt.StartTls, NO_DATA);
    if (reply.type !== Rep.Ack) {
      const text = `TLS was asked for, and refused: ${refusalText(Opt.StartTls, reply)}`;
      throw new DmError(Status.NotSupported, text);
    }
    const { unreadBytes } = this.#socket;
    // Somebody in between could have put them there: they must not count as said under TLS.
    if (unreadBytes > 0) {
      throw violation(`${unreadBytes} bytes of plain text behind STARTTLS, expected none`);
    }
    await this.#socket.detach();
    this.#socket = new HandshakeSocket(await startTls(this.#socket.duplex));
  }

  async #metaContext(): Promise<number> {
    let id = NO_CONTEXT;
    const data = encodeMetaQuery(this.#options.exportName, ALLOCATION);
    const last = await this.#option(Opt.SetMetaContext, data, (reply) => {
      if (reply.type !== Rep.MetaContext) throw unexpected(Opt.SetMetaContext, reply);
      if (id !== NO_CONTEXT) throw violation('two metadata contexts, expected one');
      id = decodeMetaContext(reply.data, ALLOCATION);
    });
    return last.type === Rep.Ack ? id : NO_CONTEXT;
  }

  /** Undefined: the server does not know GO. */
  async #go(): Promise<(ExportSize & BlockSizes) | undefined> {
    let size: ExportSize | undefined;
    let blocks: BlockSizes | undefined;
    const last = await this.#option(Opt.Go, encodeGo(this.#options.exportName), (reply) => {
      if (reply.type !== Rep.Info) throw unexpected(Opt.Go, reply);
      const kind = decodeInfoType(reply.data);
      if (kind === Info.Export) size = decodeInfoExport(reply.data);
      if (kind === Info.BlockSize) blocks = decodeInfoBlockSize(reply.data);
    });
    if (last.type === Rep.ErrUnsup) return undefined;
    if (last.type !== Rep.Ack) throw refused(Opt.Go, last, this.#options.exportName);
    if (size === undefined) throw violation('GO acknowledged without INFO_EXPORT');
    return { ...DEFAULT_BLOCKS, ...size, ...blocks };
  }

  async #exportName(): Promise<ExportSize> {
    const { exportName } = this.#options;
    await this.#socket.write(encodeOption(Opt.ExportName, Buffer.from(exportName)));
    const lenBytes = this.#hasNoZeroes ? 10 : 10 + RESERVED_ZEROES_BYTES;
    const what = `the answer to EXPORT_NAME '${exportName}' (perhaps there is no such export)`;
    return decodeExportSize(await this.#socket.read(lenBytes, what), 0);
  }

  /**
   * Sends an option; gives replies on the way to `each`, and answers the last one: ACK or an error.
   */
  async #option(
    option: number,
    data: Uint8Array,
    each: (reply: OptionReply) => void = (reply) => {
      throw unexpected(option, reply);
    },
  ): Promise<OptionReply> {
    await this.#socket.write(encodeOption(option, data));
    for (let i = 0; i < REPLIES_MAX; i++) {
      const what = `a reply to ${optionName(option)}`;
      const header = await this.#socket.read(REPLY_HEADER_BYTES, what);
      const { type, len } = decodeReplyHeader(header, option);
      const reply = { type, data: await this.#socket.read(len, what) };
      if (isErrorReply(type)) return this.#checkRefusal(option, reply);
      if (type !== Rep.Ack) each(reply);
      else if (len === 0) return reply;
      else throw violation(`ACK to ${optionName(option)} with ${len} bytes of data, expected none`);
    }
    throw violation(`more than ${REPLIES_MAX} replies to ${optionName(option)}`);
  }

  /** Errors after which nothing else will succeed either. */
  #checkRefusal(option: number, reply: OptionReply): OptionReply {
    if (reply.type === Rep.ErrTlsReqd || reply.type === Rep.ErrShutdown) {
      throw refused(option, reply, this.#options.exportName);
    }
    return reply;
  }
}

const DEFAULT_BLOCKS: BlockSizes = {
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  maxBlockBytes: DEFAULT_MAX_BLOCK_BYTES,
};

function plainTerms(size: ExportSize): ExportTerms {
  const none = { hasStructuredReplies: false, allocationContextId: NO_CONTEXT };
  return { ...DEFAULT_BLOCKS, ...size, ...none };
}

function unexpected(option: number, { type }: OptionReply): DmError {
  return violation(`reply type ${hex(type)} to ${optionName(option)}`);
}

function refused(option: number, reply: OptionReply, exportName: string): DmError {
  const status = STATUS_OF_REFUSAL.get(reply.type) ?? Status.Invalid;
  return new DmError(status, `export '${exportName}': ${refusalText(option, reply)}`);
}

const STATUS_OF_REFUSAL: ReadonlyMap<number, Status> = new Map<number, Status>([
  [Rep.ErrUnknown, Status.NoEntry],
  [Rep.ErrPolicy, Status.Perm],
  [Rep.ErrTlsReqd, Status.Perm],
  [Rep.ErrShutdown, Status.ShuttingDown],
  [Rep.ErrUnsup, Status.NotSupported],
]);
