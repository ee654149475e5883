// The server's side of an NBD handshake (fixed newstyle), as a state machine that does no I/O.
//
// Bytes from the client go in with `feed`; `next` says what to do: read more, send a reply, or one
// of the ends. One option is one step and the next is not looked at before its reply has been
// taken, so replies stay in order however long a lookup takes, and a client that pipelines options
// waits in its own socket. Nothing a client does here changes an export.
//
// Bounds: OPTION_BYTES_MAX of payload are kept, longer payloads are dropped as they stream by; the
// number of options is limited; how long it all may take is the caller's clock. TLS: when the step
// is `starttls`, all that was agreed on is forgotten, and bytes that came in plain text behind the
// option end the connection, because after the switch they would pass for the client's protected
// words.

import { assert } from '../../base/assert.ts';
import { HandshakeFlag, NBD_STRING_MAX, Opt, Rep } from '../../format/nbd.ts';
import type { ExportInfo, ExportLookup } from '../../exports/control.ts';
import { ByteQueue } from './byte-queue.ts';
import { listContexts, selectContexts } from './meta-contexts.ts';
import { type MetaContext, NBD_FRONT_END } from './negotiated.ts';
import {
  CLIENT_FLAGS_BYTES,
  MalformedOption,
  OPTION_HEADER_BYTES,
  decodeClientFlags,
  decodeExportName,
  decodeInfoRequest,
  decodeMetaContextRequest,
  decodeOptionHeader,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfoReplies,
  encodeMetaContextReply,
  encodeOptionReply,
  encodeServerReply,
  optionName,
  transmissionFlags,
} from './handshake.format.ts';
import {
  EMPTY_OPTIONS,
  INPUT,
  PARSED_OPTIONS,
  type Step,
  fatal,
  noExport,
  refuse,
} from './handshake-step.ts';
import type { TlsMode } from './tls.ts';

/** The longest option payload that is kept and parsed. */
export const OPTION_BYTES_MAX = 64 * 1024;
/** Options that one connection may send. */
export const OPTIONS_MAX = 1024;

const NOTHING = Buffer.alloc(0);
const NO_CONTEXTS: Selected = { exportName: undefined, contexts: [] };

export interface HandshakePolicy {
  readonly tls: TlsMode;
  /** For `Negotiated.peer`. */
  readonly peer: string;
  /** Hears of lookups that failed; the client is told only that they did. */
  readonly onLookupFailure: (error: unknown) => void;
}

/** What SET_META_CONTEXT has selected last. */
interface Selected {
  readonly exportName: string | undefined;
  readonly contexts: readonly MetaContext[];
}

interface CurrentOption {
  readonly code: number;
  readonly lenBytes: number;
  /** The payload is read and parsed; otherwise it is dropped. */
  readonly isKept: boolean;
  skipBytes: number;
}

export class Handshake {
  readonly #catalog: ExportLookup;
  readonly #policy: HandshakePolicy;
  readonly #input = new ByteQueue();
  #clientFlags: number | undefined;
  #current: CurrentOption | undefined;
  #optionCount = 0;
  #isTls = false;
  #hasStructuredReplies = false;
  #selected = NO_CONTEXTS;
  #isShuttingDown = false;
  #isStepping = false;

  constructor(catalog: ExportLookup, policy: HandshakePolicy) {
    this.#catalog = catalog;
    this.#policy = policy;
  }

  /** What the server says first. */
  greeting(): Uint8Array {
    return encodeGreeting();
  }

  /** To be called when `next` asked for input. */
  feed(bytes: Uint8Array): void {
    this.#input.append(bytes);
  }

  /** From now on every option but ABORT is refused with NBD_REP_ERR_SHUTDOWN. */
  shutDown(): void {
    this.#isShuttingDown = true;
  }

  /** One step. Not to be called again before it has resolved, nor after an end. */
  async next(): Promise<Step> {
    assert(!this.#isStepping, 'nbd handshake: a step began before the last one had ended');
    this.#isStepping = true;
    try {
      return await this.#step();
    } finally {
      this.#isStepping = false;
    }
  }

  async #step(): Promise<Step> {
    if (this.#clientFlags === undefined) {
      const refusal = this.#readClientFlags();
      if (refusal !== undefined) return refusal;
    }
    if (this.#current === undefined) {
      const refusal = this.#readHeader();
      if (refusal !== undefined) return refusal;
    }
    const current = this.#current;
    assert(current !== undefined, 'nbd handshake: a header was read and no option is current');
    current.skipBytes -= this.#input.skip(current.skipBytes);
    if (current.skipBytes > 0) return INPUT;
    if (current.isKept && this.#input.lenBytes < current.lenBytes) return INPUT;
    this.#current = undefined;
    const payload = current.isKept ? this.#input.take(current.lenBytes) : NOTHING;
    return await this.#answer(current, payload);
  }

  #readClientFlags(): Step | undefined {
    if (this.#input.lenBytes < CLIENT_FLAGS_BYTES) return INPUT;
    const flags = decodeClientFlags(this.#input.take(CLIENT_FLAGS_BYTES));
    if ((flags & ~(HandshakeFlag.FixedNewstyle | HandshakeFlag.NoZeroes)) !== 0) {
      return fatal(`client flags 0x${flags.toString(16)}: expected none but 0x1 and 0x2`);
    }
    this.#clientFlags = flags;
    return undefined;
  }

  #readHeader(): Step | undefined {
    if (this.#input.lenBytes < OPTION_HEADER_BYTES) return INPUT;
    const header = decodeOptionHeader(this.#input.take(OPTION_HEADER_BYTES));
    const { option: code, lenBytes } = header;
    if (!header.hasMagic) return fatal('option magic: found something else than IHAVEOPT');
    if (++this.#optionCount > OPTIONS_MAX) return fatal(`more than ${OPTIONS_MAX} options`);
    // EXPORT_NAME has no way to refuse but to close, and before fixed newstyle no option had.
    if (code === Opt.ExportName && lenBytes > NBD_STRING_MAX) {
      return fatal(`EXPORT_NAME: ${lenBytes} bytes, expected at most ${NBD_STRING_MAX}`);
    }
    if (code !== Opt.ExportName && !this.#hasFlag(HandshakeFlag.FixedNewstyle)) {
      return fatal(`${optionName(code)} from a client without fixed newstyle`);
    }
    const isKept = PARSED_OPTIONS.has(code) && lenBytes <= OPTION_BYTES_MAX;
    this.#current = { code, lenBytes, isKept, skipBytes: isKept ? 0 : lenBytes };
    return undefined;
  }

  async #answer(current: CurrentOption, payload: Buffer): Promise<Step> {
    const { code } = current;
    if (code === Opt.Abort) return { kind: 'abort', send: encodeOptionReply(code, Rep.Ack) };
    const refusal = this.#refusal(current);
    if (refusal !== undefined) return refusal;
    try {
      return await this.#dispatch(code, payload);
    } catch (error) {
      if (code === Opt.ExportName) return fatal(`EXPORT_NAME: ${(error as Error).message}`);
      if (error instanceof MalformedOption) {
        return refuse(code, Rep.ErrInvalid, `${optionName(code)}: ${error.message}`);
      }
      if (!(error instanceof LookupFailure)) throw error;
      return refuse(code, Rep.ErrPlatform, error.message);
    }
  }

  /** What is refused whatever the payload says. */
  #refusal({ code, lenBytes, isKept }: CurrentOption): Step | undefined {
    if (this.#isShuttingDown) return this.#shuttingDown(code);
    if (this.#policy.tls === 'required' && !this.#isTls && code !== Opt.StartTls) {
      if (code === Opt.ExportName) return fatal('EXPORT_NAME without TLS, which is required');
      return refuse(code, Rep.ErrTlsReqd, 'this server requires TLS: use STARTTLS first');
    }
    if (lenBytes > 0 && EMPTY_OPTIONS.has(code)) {
      const text = `${optionName(code)}: ${lenBytes} bytes of data, expected none`;
      return refuse(code, Rep.ErrInvalid, text);
    }
    if (PARSED_OPTIONS.has(code) && !isKept) {
      // A SET_META_CONTEXT that fails leaves no context selected.
      if (code === Opt.SetMetaContext) this.#selected = NO_CONTEXTS;
      const text = `${optionName(code)}: ${lenBytes} bytes of data, at most ${OPTION_BYTES_MAX}`;
      return refuse(code, Rep.ErrTooBig, text);
    }
    return undefined;
  }

  async #dispatch(code: number, payload: Buffer): Promise<Step> {
    switch (code) {
      case Opt.ExportName:
        return await this.#exportName(payload);
      case Opt.List:
        return await this.#list();
      case Opt.StartTls:
        return this.#startTls();
      case Opt.Info:
      case Opt.Go:
        return await this.#info(code, payload);
      case Opt.StructuredReply:
        this.#hasStructuredReplies = true;
        return { kind: 'reply', send: encodeOptionReply(code, Rep.Ack) };
      case Opt.ListMetaContext:
      case Opt.SetMetaContext:
        return await this.#metaContext(code, payload);
      default:
        return refuse(code, Rep.ErrUnsup, `${optionName(code)}: not known by this server`);
    }
  }

  async #exportName(payload: Buffer): Promise<Step> {
    const name = decodeExportName(payload);
    const info = await this.#lookup(name);
    if (this.#isShuttingDown) return this.#shuttingDown(Opt.ExportName);
    if (info === undefined) return fatal(`EXPORT_NAME: ${noExport(name)}`);
    const flags = transmissionFlags(info, this.#hasStructuredReplies);
    const hasZeroes = !this.#hasFlag(HandshakeFlag.NoZeroes);
    return this.#negotiated(info, encodeExportNameReply(info, flags, hasZeroes));
  }

  async #info(code: number, payload: Buffer): Promise<Step> {
    const { exportName, wanted } = decodeInfoRequest(payload);
    const info = await this.#lookup(exportName);
    if (this.#isShuttingDown) return this.#shuttingDown(code);
    if (info === undefined) return refuse(code, Rep.ErrUnknown, noExport(exportName));
    const flags = transmissionFlags(info, this.#hasStructuredReplies);
    const send = Buffer.concat([
      encodeInfoReplies(code, info, flags, wanted),
      encodeOptionReply(code, Rep.Ack),
    ]);
    return code === Opt.Go ? this.#negotiated(info, send) : { kind: 'reply', send };
  }

  #negotiated(info: ExportInfo, send: Uint8Array): Step {
    const { exportName, contexts } = this.#selected;
    return {
      kind: 'negotiated',
      send,
      negotiated: {
        frontEnd: NBD_FRONT_END,
        exportName: info.name,
        isReadOnly: info.isReadOnly,
        hasStructuredReplies: this.#hasStructuredReplies,
        contexts: exportName === info.name ? contexts : [],
        peer: this.#policy.peer,
      },
      rest: this.#input.take(this.#input.lenBytes),
    };
  }

  async #list(): Promise<Step> {
    const names = await this.#ask('export list', this.#catalog.listNames());
    if (this.#isShuttingDown) return this.#shuttingDown(Opt.List);
    const replies = names.map((e) => encodeServerReply(e.name, e.description));
    replies.push(encodeOptionReply(Opt.List, Rep.Ack));
    return { kind: 'reply', send: Buffer.concat(replies) };
  }

  #startTls(): Step {
    if (this.#policy.tls === 'off') {
      return refuse(Opt.StartTls, Rep.ErrPolicy, 'STARTTLS: this server has no TLS set up');
    }
    if (this.#isTls) {
      return refuse(Opt.StartTls, Rep.ErrInvalid, 'STARTTLS: TLS is in use already');
    }
    const behind = this.#input.lenBytes;
    if (behind > 0) return fatal(`${behind} bytes of plain text behind STARTTLS`);
    this.#isTls = true;
    this.#hasStructuredReplies = false;
    this.#selected = NO_CONTEXTS;
    return { kind: 'starttls', send: encodeOptionReply(Opt.StartTls, Rep.Ack) };
  }

  async #metaContext(code: number, payload: Buffer): Promise<Step> {
    const isSet = code === Opt.SetMetaContext;
    if (isSet) {
      this.#selected = NO_CONTEXTS;
      if (!this.#hasStructuredReplies) {
        const text = `${optionName(code)}: needs STRUCTURED_REPLY first`;
        return refuse(code, Rep.ErrInvalid, text);
      }
    }
    const { exportName, queries } = decodeMetaContextRequest(payload);
    const info = await this.#lookup(exportName);
    if (this.#isShuttingDown) return this.#shuttingDown(code);
    if (info === undefined) return refuse(code, Rep.ErrUnknown, noExport(exportName));
    // Other namespaces and names are to be ignored.
    const selected = isSet ? selectContexts(info, queries) : [];
    const found = isSet ? selected : listContexts(info, queries).map((name) => ({ id: 0, name }));
    const replies = found.map(({ id, name }) => encodeMetaContextReply(code, id, name));
    if (isSet) {
      const contexts = selected.map(({ id, base }) => ({ id, base }));
      this.#selected = { exportName: info.name, contexts };
    }
    replies.push(encodeOptionReply(code, Rep.Ack));
    return { kind: 'reply', send: Buffer.concat(replies) };
  }

  async #lookup(name: string): Promise<ExportInfo | undefined> {
    return await this.#ask('export lookup', this.#catalog.lookup(name));
  }

  async #ask<T>(what: string, answer: Promise<T>): Promise<T> {
    try {
      return await answer;
    } catch (cause) {
      this.#policy.onLookupFailure(cause);
      throw new LookupFailure(`${what} failed in the server`, { cause });
    }
  }

  #shuttingDown(code: number): Step {
    if (code === Opt.ExportName) return fatal('EXPORT_NAME while shutting down');
    return refuse(code, Rep.ErrShutdown, 'this server is shutting down');
  }

  #hasFlag(flag: number): boolean {
    return ((this.#clientFlags ?? 0) & flag) !== 0;
  }
}

/** The catalog could not answer. */
class LookupFailure extends Error {
  override readonly name = 'LookupFailure';
}
