// A client that speaks the NBD handshake byte by byte, right or wrong, for tests; and what a server
// under test needs around it: a catalog of made-up exports and a transmission that only takes
// notes.

import { connect, type NetConnectOpts, type Socket } from 'node:net';
import tls, { type ConnectionOptions } from 'node:tls';
import type { ExportInfo, ExportLookup } from '../exports/control.ts';
import type { Negotiated, Transmission } from '../frontends/nbd/negotiated.ts';
import { NBD_OPTION_MAGIC, Opt } from '../format/nbd.ts';

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

export function be16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function be64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

/** A 32-bit length and the text. */
export function lengthAndText(text: string | Buffer): Buffer {
  const bytes = Buffer.from(text as string);
  return Buffer.concat([be32(bytes.length), bytes]);
}

export function rawOption(code: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([be64(NBD_OPTION_MAGIC), be32(code), be32(data.length), data]);
}

/** An option header that promises `lenBytes` of data. */
export function rawHeader(code: number, lenBytes: number): Buffer {
  return Buffer.concat([be64(NBD_OPTION_MAGIC), be32(code), be32(lenBytes)]);
}

/** INFO's and GO's data. */
export function infoData(name: string | Buffer, requests: readonly number[] = []): Buffer {
  return Buffer.concat([lengthAndText(name), be16(requests.length), ...requests.map(be16)]);
}

/** LIST_META_CONTEXT's and SET_META_CONTEXT's data. */
export function metaData(name: string, queries: readonly (string | Buffer)[]): Buffer {
  return Buffer.concat([
    lengthAndText(name),
    be32(queries.length),
    ...queries.map((q) => lengthAndText(q)),
  ]);
}

export function goOption(name: string, requests: readonly number[] = []): Buffer {
  return rawOption(Opt.Go, infoData(name, requests));
}

/** Splits a stream of option replies; throws when a reply is cut short. */
export function parseReplies(bytes: Buffer): OptionReply[] {
  const replies: OptionReply[] = [];
  for (let at = 0; at < bytes.length; ) {
    const magic = bytes.readBigUInt64BE(at);
    if (magic !== 0x3e889045565a9n) throw new Error(`reply magic ${magic.toString(16)} at ${at}`);
    const end = at + 20 + bytes.readUInt32BE(at + 16);
    if (end > bytes.length) throw new Error(`a reply is cut short at ${at}`);
    replies.push({
      option: bytes.readUInt32BE(at + 8),
      type: bytes.readUInt32BE(at + 12),
      data: bytes.subarray(at + 20, end),
    });
    at = end;
  }
  return replies;
}

export class RawNbdClient {
  #socket: Socket;
  #received = Buffer.alloc(0);
  #isClosed = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#listen();
  }

  static async connect(address: NetConnectOpts): Promise<RawNbdClient> {
    const socket = connect(address);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new RawNbdClient(socket);
  }

  get socket(): Socket {
    return this.#socket;
  }

  send(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** Exactly `count` bytes; rejects when the server closes before. */
  async read(count: number): Promise<Buffer> {
    while (this.#received.length < count) {
      if (this.#isClosed) {
        throw new Error(`the server closed after ${this.#received.length} of ${count} bytes`);
      }
      await this.#change();
    }
    const bytes = this.#received.subarray(0, count);
    this.#received = this.#received.subarray(count);
    return bytes;
  }

  /** Whatever the server still sends until it closes. */
  async readToEnd(): Promise<Buffer> {
    while (!this.#isClosed) await this.#change();
    return this.#received;
  }

  async readReply(): Promise<OptionReply> {
    const header = await this.read(20);
    const data = await this.read(header.readUInt32BE(16));
    return parseReplies(Buffer.concat([header, data]))[0] as OptionReply;
  }

  /** Replies up to and including the final one: an ACK or an error. */
  async readReplies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.readReply();
      replies.push(reply);
      if (reply.type === 1 || reply.type >= 0x80000000) return replies;
    }
  }

  /** Reads the greeting and answers with client flags. */
  async greet(flags = 3): Promise<Buffer> {
    const greeting = await this.read(18);
    this.send(be32(flags));
    return greeting;
  }

  async option(code: number, data?: Buffer): Promise<OptionReply[]> {
    this.send(rawOption(code, data));
    return await this.readReplies();
  }

  /** Switches to TLS, once the server has acknowledged STARTTLS. */
  async startTls(options: ConnectionOptions): Promise<void> {
    this.#socket.removeAllListeners();
    const secured = tls.connect({ ...options, socket: this.#socket });
    await new Promise<void>((resolve, reject) => {
      secured.once('secureConnect', resolve);
      secured.once('error', reject);
      secured.once('close', () => reject(new Error('closed during the TLS handshake')));
    });
    this.#socket = secured;
    this.#listen();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #listen(): void {
    this.#socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake?.();
    });
    for (const event of ['end', 'close', 'error']) {
      this.#socket.on(event, () => {
        this.#isClosed = true;
        this.#wake?.();
      });
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}

export function madeUpExport(name: string, changes: Partial<ExportInfo> = {}): ExportInfo {
  return {
    name,
    description: '',
    sizeBytes: 1 << 20,
    isReadOnly: false,
    canFlush: true,
    canFua: true,
    canTrim: true,
    canWriteZeroes: true,
    canFastZero: true,
    canMultiConn: true,
    isRotational: false,
    minBlockBytes: 1,
    preferredBlockBytes: 4096,
    bases: [],
    ...changes,
  };
}

export class MadeUpCatalog implements ExportLookup {
  readonly exports: Map<string, ExportInfo>;
  lookups = 0;
  /** When set, every answer waits for it (or fails with it). */
  gate: Promise<void> = Promise.resolve();

  constructor(exports: readonly ExportInfo[]) {
    this.exports = new Map(exports.map((e) => [e.name, e]));
  }

  /** Answers wait from now on until `open` is called. */
  shut(): { open(): void } {
    let open: (() => void) | undefined;
    this.gate = new Promise((resolve) => {
      open = resolve;
    });
    return { open: () => open?.() };
  }

  async lookup(name: string): Promise<ExportInfo | undefined> {
    this.lookups++;
    await this.gate;
    return this.exports.get(name);
  }

  async listNames(): Promise<readonly { readonly name: string; readonly description: string }[]> {
    await this.gate;
    return [...this.exports.values()].map(({ name, description }) => ({ name, description }));
  }
}

export interface Begun {
  readonly socket: Socket;
  readonly negotiated: Negotiated;
  readonly rest: Buffer;
  readonly ended: () => void;
}

/** Takes note of each connection that begins and passes it to `whenBegun`, which may close it. */
export class StubTransmission implements Transmission {
  readonly begun: Begun[] = [];
  /** Cleared: a connection lives on when Node has closed its socket, as on a descriptor of its own. */
  isEndingWithSocket = true;
  readonly #whenBegun: (begun: Begun) => void;
  #wake: (() => void) | undefined;

  constructor(whenBegun: (begun: Begun) => void = ({ socket }) => socket.destroy()) {
    this.#whenBegun = whenBegun;
  }

  begin(
    socket: Socket,
    negotiated: Negotiated,
    rest: Uint8Array,
    ended: () => void,
  ): Promise<void> {
    const begun = { socket, negotiated, rest: Buffer.from(rest), ended };
    socket.once('close', () => this.isEndingWithSocket && ended());
    this.begun.push(begun);
    this.#wake?.();
    this.#whenBegun(begun);
    // Clients of tests come and go as they like; what they make of it is theirs to check.
    socket.on('error', () => {});
    return Promise.resolve();
  }

  /** Waits until there have been `count` connections; the last one of them. */
  async wait(count: number): Promise<Begun> {
    while (this.begun.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.begun[count - 1] as Begun;
  }
}
