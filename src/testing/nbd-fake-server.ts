// An NBD server for tests of clients: every connection runs a script, which may do as the
// specification says, or anything else. `serveModel` is a script that is honest, with an odd taste
// in how it answers.

import { createServer, type Server, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import type { Prng } from '../base/prng.ts';
import {
  Chunk,
  CHUNK_DONE,
  Cmd,
  NBD_MAGIC,
  NBD_OPTION_MAGIC,
  NBD_OPTION_REPLY_MAGIC,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  Opt,
  Rep,
  TransmissionFlag,
} from '../format/nbd.ts';
import { be16, be32, be64 } from './nbd-raw.ts';

/** The flags of an export that can do everything. */
export const ALL_FLAGS =
  TransmissionFlag.HasFlags |
  TransmissionFlag.SendFlush |
  TransmissionFlag.SendFua |
  TransmissionFlag.SendTrim |
  TransmissionFlag.SendWriteZeroes |
  TransmissionFlag.SendFastZero |
  TransmissionFlag.SendDf |
  TransmissionFlag.CanMultiConn;

export interface FakeExport {
  readonly sizeBytes: number;
  readonly flags: number;
  readonly isStructured: boolean;
  readonly contextId: number | undefined;
  readonly blockSizes: readonly [min: number, preferred: number, max: number] | undefined;
  /** False: an old server that knows EXPORT_NAME only. */
  readonly hasGo: boolean;
}

export const FAKE_EXPORT: FakeExport = {
  sizeBytes: 1 << 20,
  flags: ALL_FLAGS,
  isStructured: true,
  contextId: 7,
  blockSizes: undefined,
  hasGo: true,
};

export interface FakeRequest {
  readonly cmd: number;
  readonly flags: number;
  readonly cookie: Buffer;
  readonly offBytes: number;
  readonly lenBytes: number;
  readonly data: Buffer;
}

/** The client went away. Scripts end with it; it is no failure of theirs. */
export class PeerGone extends Error {
  override readonly name = 'PeerGone';
}

/** One connection, from the server's side. */
export class FakePeer {
  readonly socket: Socket;
  /** Counted from 1 over the life of the server. */
  readonly number: number;
  readonly options: number[] = [];
  #received = Buffer.alloc(0);
  #isGone = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket, number: number) {
    this.socket = socket;
    this.number = number;
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake?.();
    });
    for (const event of ['end', 'close', 'error']) {
      socket.on(event, () => {
        this.#isGone = true;
        this.#wake?.();
      });
    }
  }

  send(...parts: readonly Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async read(count: number): Promise<Buffer> {
    while (this.#received.length < count) {
      if (this.#isGone) throw new PeerGone();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#received.subarray(0, count);
    this.#received = this.#received.subarray(count);
    return bytes;
  }

  /** Greeting of a fixed newstyle server; the client's flags. */
  async greet(flags = 3): Promise<number> {
    this.send(be64(NBD_MAGIC), be64(NBD_OPTION_MAGIC), be16(flags));
    return (await this.read(4)).readUInt32BE();
  }

  async readOption(): Promise<{ readonly option: number; readonly data: Buffer }> {
    const header = await this.read(16);
    const option = header.readUInt32BE(8);
    this.options.push(option);
    return { option, data: await this.read(header.readUInt32BE(12)) };
  }

  reply(option: number, type: number, data: Uint8Array = Buffer.alloc(0)): void {
    this.send(be64(NBD_OPTION_REPLY_MAGIC), be32(option), be32(type), be32(data.length), data);
  }

  /** The whole handshake as the specification has it. */
  async negotiate(exported: FakeExport = FAKE_EXPORT): Promise<void> {
    const clientFlags = await this.greet();
    for (;;) {
      const { option } = await this.readOption();
      const { sizeBytes, flags, blockSizes } = exported;
      if (option === Opt.ExportName) {
        const zeroes = (clientFlags & 2) === 0 ? 124 : 0;
        this.send(be64(BigInt(sizeBytes)), be16(flags), Buffer.alloc(zeroes));
        return;
      }
      if (option === Opt.StructuredReply && exported.isStructured) this.reply(option, Rep.Ack);
      else if (option === Opt.SetMetaContext && exported.contextId !== undefined) {
        const name = Buffer.from('base:allocation');
        this.reply(option, Rep.MetaContext, Buffer.concat([be32(exported.contextId), name]));
        this.reply(option, Rep.Ack);
      } else if (option === Opt.Go && exported.hasGo) {
        const size = be64(BigInt(sizeBytes));
        this.reply(option, Rep.Info, Buffer.concat([be16(0), size, be16(flags)]));
        if (blockSizes !== undefined) {
          this.reply(option, Rep.Info, Buffer.concat([be16(3), ...blockSizes.map(be32)]));
        }
        this.reply(option, Rep.Ack);
        return;
      } else this.reply(option, Rep.ErrUnsup);
    }
  }

  async readRequest(): Promise<FakeRequest> {
    const header = await this.read(28);
    if (header.readUInt32BE(0) !== NBD_REQUEST_MAGIC) throw new Error('request magic is wrong');
    const cmd = header.readUInt16BE(6);
    const lenBytes = header.readUInt32BE(24);
    return {
      cmd,
      flags: header.readUInt16BE(4),
      cookie: Buffer.from(header.subarray(8, 16)),
      offBytes: Number(header.readBigUInt64BE(16)),
      lenBytes,
      data: Buffer.from(cmd === Cmd.Write ? await this.read(lenBytes) : []),
    };
  }

  simple(request: FakeRequest, error = 0, data: Uint8Array = Buffer.alloc(0)): void {
    this.send(be32(NBD_SIMPLE_REPLY_MAGIC), be32(error), request.cookie, data);
  }

  chunk(request: FakeRequest, type: number, payload: Uint8Array, isLast: boolean): void {
    this.send(chunkBytes(request, type, payload, isLast));
  }

  data(request: FakeRequest, offBytes: number, bytes: Uint8Array, isLast: boolean): void {
    const payload = Buffer.concat([be64(BigInt(offBytes)), bytes]);
    this.chunk(request, Chunk.OffsetData, payload, isLast);
  }

  hole(request: FakeRequest, offBytes: number, lenBytes: number, isLast: boolean): void {
    const payload = Buffer.concat([be64(BigInt(offBytes)), be32(lenBytes)]);
    this.chunk(request, Chunk.OffsetHole, payload, isLast);
  }

  done(request: FakeRequest): void {
    this.chunk(request, Chunk.None, Buffer.alloc(0), true);
  }

  error(request: FakeRequest, error: number, text = '', isLast = true): void {
    const words = Buffer.from(text);
    const payload = Buffer.concat([be32(error), be16(words.length), words]);
    this.chunk(request, Chunk.Error, payload, isLast);
  }

  status(request: FakeRequest, id: number, pairs: readonly (readonly [number, number])[]): void {
    const descriptors = pairs.flatMap(([len, flags]) => [be32(len), be32(flags)]);
    this.chunk(request, Chunk.BlockStatus, Buffer.concat([be32(id), ...descriptors]), true);
  }

  /** Ends the connection at once, without a word. */
  kill(): void {
    this.socket.destroy();
  }
}

export function chunkBytes(
  request: FakeRequest,
  type: number,
  payload: Uint8Array,
  isLast: boolean,
): Buffer {
  return Buffer.concat([
    be32(NBD_STRUCTURED_REPLY_MAGIC),
    be16(isLast ? CHUNK_DONE : 0),
    be16(type),
    request.cookie,
    be32(payload.length),
    payload,
  ]);
}

export type FakeScript = (peer: FakePeer) => Promise<void>;

export class FakeNbdServer {
  readonly path: string;
  readonly peers: FakePeer[] = [];
  /** What scripts threw, apart from clients that went away. */
  readonly failures: unknown[] = [];
  #server: Server | undefined;
  #script: FakeScript;

  constructor(path: string, script: FakeScript) {
    this.path = path;
    this.#script = script;
  }

  /** Listens until `stop`; may be started again. */
  async start(script: FakeScript = this.#script): Promise<void> {
    this.#script = script;
    const server = createServer((socket) => {
      const peer = new FakePeer(socket, this.peers.length + 1);
      this.peers.push(peer);
      this.#script(peer).catch((error: unknown) => {
        if (!(error instanceof PeerGone)) this.failures.push(error);
        peer.socket.destroy();
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.path, resolve);
    });
    this.#server = server;
  }

  /** Nobody can connect any more; with `kill`, all connections end at once. */
  async stop(kill = true): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise((resolve) => server.close(resolve));
    if (kill) for (const peer of this.peers) peer.socket.destroy();
    await closed;
  }
}

/** Serves `store` on one connection until the client says goodbye. */
export async function serveModel(
  peer: FakePeer,
  store: Buffer,
  rng: Prng,
  exported: FakeExport = FAKE_EXPORT,
): Promise<void> {
  await peer.negotiate({ ...exported, sizeBytes: store.length });
  const held: FakeRequest[] = [];
  for (;;) {
    const request = await peer.readRequest();
    // What was not done when the connection ended is not done later either.
    if (peer.socket.destroyed) return;
    if (request.cmd === Cmd.Disc) {
      peer.socket.end();
      return;
    }
    held.push(request);
    // Some requests wait for others, so that answers come out of order; none waits for ever.
    if (rng.chance(0.5)) await turn();
    while (held.length > 0 && (held.length > 6 || rng.chance(0.7))) {
      const [next] = held.splice(rng.below(held.length), 1);
      answer(peer, next as FakeRequest, store, rng, exported);
    }
    if (held.length > 0) flushLater(peer, held, store, rng, exported);
  }
}

function flushLater(
  peer: FakePeer,
  held: FakeRequest[],
  store: Buffer,
  rng: Prng,
  exported: FakeExport,
): void {
  setImmediate(() => {
    if (peer.socket.destroyed) return;
    for (const request of held.splice(0)) answer(peer, request, store, rng, exported);
  });
}

/** Does a request, and answers it in one of the ways that are allowed. */
function answer(
  peer: FakePeer,
  request: FakeRequest,
  store: Buffer,
  rng: Prng,
  { isStructured }: FakeExport,
): void {
  const { cmd, offBytes, lenBytes, data } = request;
  if (cmd === Cmd.Write) data.copy(store, offBytes);
  if (cmd === Cmd.WriteZeroes) store.fill(0, offBytes, offBytes + lenBytes);
  if (cmd === Cmd.Trim && rng.chance(0.5)) store.fill(0, offBytes, offBytes + lenBytes);
  if (cmd === Cmd.Read && isStructured) answerRead(peer, request, store, rng);
  else if (cmd === Cmd.Read) peer.simple(request, 0, store.subarray(offBytes, offBytes + lenBytes));
  else if (isStructured && rng.chance(0.5)) peer.done(request);
  else peer.simple(request);
}

function answerRead(peer: FakePeer, request: FakeRequest, store: Buffer, rng: Prng): void {
  const pieces: (readonly [from: number, to: number])[] = [];
  const end = request.offBytes + request.lenBytes;
  for (let at = request.offBytes; at < end; ) {
    const to = Math.min(end, at + rng.between(1, rng.pick([600, 5000, 100_000])));
    pieces.push([at, to]);
    at = to;
  }
  if (rng.chance(0.5)) pieces.sort(() => rng.unit() - 0.5);
  const isEmptyLast = rng.chance(0.5);
  for (const [i, [from, to]] of pieces.entries()) {
    const isLast = !isEmptyLast && i === pieces.length - 1;
    const bytes = store.subarray(from, to);
    if (bytes.every((b) => b === 0)) peer.hole(request, from, to - from, isLast);
    else peer.data(request, from, bytes, isLast);
  }
  if (isEmptyLast) peer.done(request);
}
