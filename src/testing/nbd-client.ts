// A plain NBD client for tests: promises, one connection, structured or simple replies. It checks
// what the server says (magics, cookies, offsets, chunk lengths) and rejects on anything odd.

import assert from 'node:assert/strict';
import { connect, type NetConnectOpts, type Socket } from 'node:net';
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
} from '../format/nbd.ts';

export class NbdReplyError extends Error {
  override readonly name = 'NbdReplyError';
  readonly errno: number;

  constructor(errno: number) {
    super(`NBD error ${errno}`);
    this.errno = errno;
  }
}

export interface NbdExtent {
  readonly lenBytes: number;
  readonly flags: number;
}

interface Waiting {
  readonly type: number;
  readonly offBytes: number;
  readonly data: Buffer | null;
  seen: number;
  extents: NbdExtent[];
  error: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

export interface NbdClientOptions {
  readonly exportName?: string;
  readonly structured?: boolean;
}

export class NbdClient {
  sizeBytes = 0;
  transmissionFlags = 0;
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #have = 0;
  #wanted: { bytes: number; resolve: (b: Buffer) => void; reject: (e: Error) => void } | null =
    null;
  readonly #waiting = new Map<bigint, Waiting>();
  #nextCookie = 1n;
  #failure: Error | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#have += chunk.length;
      this.#feed();
    });
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('connection closed')));
  }

  static async connect(where: NetConnectOpts, options: NbdClientOptions = {}): Promise<NbdClient> {
    const socket = connect(where);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const client = new NbdClient(socket);
    await client.#handshake(options);
    void client.#readReplies().catch((error: unknown) => client.#fail(error as Error));
    return client;
  }

  get inFlight(): number {
    return this.#waiting.size;
  }

  read(offBytes: number, lenBytes: number, flags = 0): Promise<Buffer> {
    return this.#request(Cmd.Read, flags, offBytes, lenBytes, null) as Promise<Buffer>;
  }
  async write(offBytes: number, data: Uint8Array, flags = 0): Promise<void> {
    await this.#request(Cmd.Write, flags, offBytes, data.length, data);
  }
  async flush(): Promise<void> {
    await this.#request(Cmd.Flush, 0, 0, 0, null);
  }
  async trim(offBytes: number, lenBytes: number, flags = 0): Promise<void> {
    await this.#request(Cmd.Trim, flags, offBytes, lenBytes, null);
  }
  async zero(offBytes: number, lenBytes: number, flags = 0): Promise<void> {
    await this.#request(Cmd.WriteZeroes, flags, offBytes, lenBytes, null);
  }
  async cache(offBytes: number, lenBytes: number): Promise<void> {
    await this.#request(Cmd.Cache, 0, offBytes, lenBytes, null);
  }
  blockStatus(offBytes: number, lenBytes: number, flags = 0): Promise<NbdExtent[]> {
    const reply = this.#request(Cmd.BlockStatus, flags, offBytes, lenBytes, null);
    return reply as Promise<NbdExtent[]>;
  }
  /** Any command number, flags and lengths. */
  raw(type: number, flags: number, offBytes: number, lenBytes: number): Promise<unknown> {
    return this.#request(type, flags, offBytes, lenBytes, null);
  }

  /** Says goodbye and waits for the server to close. */
  async disconnect(): Promise<void> {
    const closed = new Promise((resolve) => this.#socket.once('close', resolve));
    this.#send(Cmd.Disc, 0, 0n, 0, 0);
    await closed;
  }

  destroy(): void {
    this.#socket.destroy();
  }

  async #handshake(options: NbdClientOptions): Promise<void> {
    const hello = await this.#take(18);
    assert.equal(hello.readBigUInt64BE(0), NBD_MAGIC);
    assert.equal(hello.readBigUInt64BE(8), NBD_OPTION_MAGIC);
    const flags = Buffer.alloc(4);
    flags.writeUInt32BE(3);
    this.#socket.write(flags);
    const name = Buffer.from(options.exportName ?? '');
    const nameLen = Buffer.alloc(4);
    nameLen.writeUInt32BE(name.length);
    if (options.structured !== false) {
      await this.#option(Opt.StructuredReply, Buffer.alloc(0));
      const query = Buffer.from('base:allocation');
      const counts = Buffer.alloc(8);
      counts.writeUInt32BE(1);
      counts.writeUInt32BE(query.length, 4);
      await this.#option(Opt.SetMetaContext, Buffer.concat([nameLen, name, counts, query]));
    }
    const infos = await this.#option(Opt.Go, Buffer.concat([nameLen, name, Buffer.alloc(2)]));
    const info = infos.find((i) => i.length === 12 && i.readUInt16BE(0) === 0);
    assert.ok(info !== undefined, 'GO: no export information');
    this.sizeBytes = Number(info.readBigUInt64BE(2));
    this.transmissionFlags = info.readUInt16BE(10);
  }

  async #option(option: number, data: Buffer): Promise<Buffer[]> {
    const header = Buffer.alloc(16);
    header.writeBigUInt64BE(NBD_OPTION_MAGIC);
    header.writeUInt32BE(option, 8);
    header.writeUInt32BE(data.length, 12);
    this.#socket.write(Buffer.concat([header, data]));
    const replies: Buffer[] = [];
    for (;;) {
      const reply = await this.#take(20);
      assert.equal(reply.readBigUInt64BE(0), NBD_OPTION_REPLY_MAGIC);
      assert.equal(reply.readUInt32BE(8), option);
      const type = reply.readUInt32BE(12);
      const payload = await this.#take(reply.readUInt32BE(16));
      if (type === Rep.Ack) return replies;
      assert.ok(
        type < 0x80000000,
        `option ${option}: error ${type.toString(16)}: ${payload.toString()}`,
      );
      replies.push(payload);
    }
  }

  #request(
    type: number,
    flags: number,
    offBytes: number,
    lenBytes: number,
    payload: Uint8Array | null,
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) {
        reject(this.#failure);
        return;
      }
      const cookie = this.#nextCookie++;
      this.#waiting.set(cookie, {
        type,
        offBytes,
        data: type === Cmd.Read ? Buffer.alloc(Math.min(lenBytes, 1 << 27)) : null,
        seen: 0,
        extents: [],
        error: 0,
        resolve,
        reject,
      });
      this.#send(type, flags, cookie, offBytes, lenBytes);
      if (payload !== null) this.#socket.write(payload);
    });
  }

  #send(type: number, flags: number, cookie: bigint, offBytes: number, lenBytes: number): void {
    const header = Buffer.alloc(28);
    header.writeUInt32BE(NBD_REQUEST_MAGIC);
    header.writeUInt16BE(flags, 4);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(cookie, 8);
    header.writeBigUInt64BE(BigInt(offBytes), 16);
    header.writeUInt32BE(lenBytes, 24);
    this.#socket.write(header);
  }

  async #readReplies(): Promise<void> {
    for (;;) {
      const magic = (await this.#take(4)).readUInt32BE(0);
      if (magic === NBD_SIMPLE_REPLY_MAGIC) await this.#readSimple();
      else if (magic === NBD_STRUCTURED_REPLY_MAGIC) await this.#readChunk();
      else assert.fail(`reply magic ${magic.toString(16)}`);
    }
  }

  async #readSimple(): Promise<void> {
    const head = await this.#take(12);
    const cookie = head.readBigUInt64BE(4);
    const waiting = this.#find(cookie);
    waiting.error = head.readUInt32BE(0);
    if (waiting.error === 0 && waiting.data !== null && waiting.data.length > 0) {
      (await this.#take(waiting.data.length)).copy(waiting.data);
      waiting.seen = waiting.data.length;
    }
    this.#finish(cookie, waiting);
  }

  async #readChunk(): Promise<void> {
    const head = await this.#take(16);
    const flags = head.readUInt16BE(0);
    const type = head.readUInt16BE(2);
    const cookie = head.readBigUInt64BE(4);
    const payload = await this.#take(head.readUInt32BE(12));
    const waiting = this.#find(cookie);
    switch (type) {
      case Chunk.OffsetData: {
        const at = Number(payload.readBigUInt64BE(0)) - waiting.offBytes;
        const data = waiting.data;
        assert.ok(data !== null && at >= 0 && at + payload.length - 8 <= data.length, 'data chunk');
        payload.copy(data, at, 8);
        waiting.seen += payload.length - 8;
        break;
      }
      case Chunk.BlockStatus:
        for (let i = 4; i < payload.length; i += 8) {
          waiting.extents.push({
            lenBytes: payload.readUInt32BE(i),
            flags: payload.readUInt32BE(i + 4),
          });
        }
        break;
      case Chunk.None:
        assert.equal(payload.length, 0);
        break;
      case Chunk.Error:
      case Chunk.ErrorOffset:
        waiting.error = payload.readUInt32BE(0);
        break;
      default:
        assert.fail(`chunk type ${type}`);
    }
    if ((flags & CHUNK_DONE) !== 0) this.#finish(cookie, waiting);
  }

  #find(cookie: bigint): Waiting {
    const waiting = this.#waiting.get(cookie);
    assert.ok(waiting !== undefined, `reply to cookie ${cookie}, which is not waiting`);
    return waiting;
  }

  #finish(cookie: bigint, waiting: Waiting): void {
    this.#waiting.delete(cookie);
    if (waiting.error !== 0) waiting.reject(new NbdReplyError(waiting.error));
    else if (waiting.data !== null && waiting.seen !== waiting.data.length) {
      waiting.reject(new Error(`read: ${waiting.seen} of ${waiting.data.length} bytes came`));
    } else if (waiting.type === Cmd.BlockStatus) waiting.resolve(waiting.extents);
    else waiting.resolve(waiting.data);
  }

  #take(bytes: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) {
        reject(this.#failure);
        return;
      }
      this.#wanted = { bytes, resolve, reject };
      this.#feed();
    });
  }

  #feed(): void {
    const wanted = this.#wanted;
    if (wanted === null || this.#have < wanted.bytes) return;
    this.#wanted = null;
    const all =
      this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
    this.#have = all.length - wanted.bytes;
    this.#chunks = this.#have > 0 ? [all.subarray(wanted.bytes)] : [];
    wanted.resolve(all.subarray(0, wanted.bytes));
  }

  #fail(error: Error): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
    this.#wanted?.reject(error);
    this.#wanted = null;
  }
}
