// A random NBD client on a simulated socket, past the handshake: it sends what it likes, at any offset, and
// checks every answer: one for each request, of the right kind, with data that the model allows, with the
// error that the protocol asks for and no other.

import type { Prng } from '../../base/prng.ts';
import {
  AllocationFlag,
  Chunk,
  CHUNK_DONE,
  Cmd,
  CmdFlag,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NbdError,
} from '../../format/nbd.ts';
import { WORD_STAMP } from '../stamp.ts';
import { VersionModel } from '../version-model.ts';
import { type Asked, badRequests, describe, drawFlags, requestHeader } from './nbd-requests.ts';
import type { NbdWorld } from './nbd-world.ts';
import type { SimSocket, SocketClient } from './socket.ts';

const UNIT = WORD_STAMP.bytes;

export interface NbdClientOptions {
  readonly name: string;
  readonly isStructured: boolean;
  /** -1: block status was not negotiated. */
  readonly contextId: number;
  readonly isReadOnly: boolean;
  /** Where this client alone writes, byte by byte. */
  readonly lane: { readonly at: number; readonly lenBytes: number };
  readonly requestsMax: number;
  readonly depth: number;
  readonly lenBytesMax: number;
  readonly ends: 'leaves' | 'resets' | 'half-closes' | 'stays' | 'stops reading' | 'talks nonsense';
}

/** Who called for the end of a connection: a server that ends one for nothing is wrong. */
type Farewell = 'none' | 'asked' | 'slow';

export class NbdSimClient implements SocketClient {
  readonly #world: NbdWorld;
  readonly #options: NbdClientOptions;
  readonly #socket: SimSocket;
  readonly #rng: Prng;
  readonly #asked = new Map<string, Asked>();
  readonly #lane: Uint8Array;
  /** Bytes of the lane of which nobody knows what they are. */
  readonly #isUnknown: Uint8Array;
  /** Cookies of what has been answered. */
  readonly #done = new Map<string, Asked>();
  #isLaneBusy = false;
  #cookies = 0;
  #sent = 0;
  #input: Buffer = Buffer.alloc(0);
  #farewell: Farewell = 'none';
  #isOver = false;

  constructor(world: NbdWorld, socket: SimSocket, rng: Prng, options: NbdClientOptions) {
    this.#world = world;
    this.#socket = socket;
    this.#rng = rng;
    this.#options = options;
    this.#lane = new Uint8Array(options.lane.lenBytes);
    this.#isUnknown = new Uint8Array(options.lane.lenBytes);
    socket.connect(this);
  }

  /** Starts sending; bytes of the first requests, which come along with the handshake. */
  start(restBytesMax: number): Uint8Array {
    const first = Buffer.concat([this.#request(), this.#request()]);
    const rest = first.subarray(0, Math.min(first.length, restBytesMax));
    this.#socket.write(first.subarray(rest.length));
    this.#soon();
    return rest;
  }

  /** The server let the connection go, or it was reset: nothing more will be answered. */
  over(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#world.counts.cut += this.#asked.size;
    // Reads end; writes on their way may have happened or not, also later.
    for (const { read } of this.#asked.values()) {
      if (read !== undefined) this.#world.model.readFailed(read);
    }
  }

  get unanswered(): number {
    return this.#isOver ? 0 : this.#asked.size;
  }

  /** The client takes what comes, and has sent its requests whole. */
  get isReading(): boolean {
    return this.#socket.isReading && this.#options.ends !== 'talks nonsense';
  }

  /** What has been sent to this client comes soon. */
  hurry(): void {
    this.#socket.widen();
  }

  describe(): string {
    return `${this.#options.name}: ${[...this.#asked.values()].map(describe).join(', ')}`;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  received(bytes: Uint8Array): void {
    if (this.#isOver) return;
    this.#input = Buffer.concat([this.#input, bytes]);
    while (!this.#isOver && this.#parse());
  }

  ended(): void {
    if (this.#isOver) return;
    const isExpected = this.#farewell !== 'none' || this.#world.isEnding();
    // A simple reply that was begun cannot become an error.
    const mayBreak = !this.#options.isStructured && this.#world.mayFail();
    if (!isExpected && !mayBreak) this.#wrong('the server ended the connection');
    if (this.#farewell === 'asked' && this.#options.ends === 'leaves' && this.#asked.size > 0) {
      if (!mayBreak && !this.#world.isEnding()) {
        this.#wrong(
          `left properly, not answered: ${[...this.#asked.values()].map(describe).join(', ')}`,
        );
      }
    }
    this.over();
  }

  #wrong(what: string): void {
    this.#world.fail(`${this.#options.name}: ${what}`);
  }

  #soon(): void {
    const ms = this.#rng.unit() * this.#rng.pick([0.01, 1, 20]);
    this.#world.scheduler.after(ms, () => this.#act());
  }

  #act(): void {
    if (this.#isOver || this.#socket.isGone) return;
    const { requestsMax, depth, ends } = this.#options;
    if (this.#sent >= requestsMax) {
      this.#end(ends);
      return;
    }
    if (this.#rng.chance(0.05)) this.#pause();
    const room = depth - this.#asked.size;
    const burst: Buffer[] = [];
    for (let n = Math.min(room, this.#rng.pick([1, 1, 3, 8])); n > 0; n--) {
      if (this.#sent < requestsMax) burst.push(this.#request());
    }
    if (burst.length > 0) this.#socket.write(Buffer.concat(burst));
    this.#soon();
  }

  #pause(): void {
    if (!this.#socket.isReading) return;
    this.#socket.isReading = false;
    const ms = this.#rng.pick([1, 50, 400]);
    this.#world.scheduler.after(ms, () => this.#socket.resumeReading());
  }

  #end(how: NbdClientOptions['ends']): void {
    if (how === 'stays') return;
    this.#farewell = 'asked';
    if (how === 'leaves') {
      this.#socket.write(requestHeader(Cmd.Disc, 0, 0, 0, this.#cookie()));
      // Whatever comes behind a goodbye is not answered.
      if (this.#rng.chance(0.3)) this.#socket.write(Buffer.alloc(this.#rng.between(1, 100), 1));
    } else if (how === 'half-closes') this.#socket.endWriting();
    else if (how === 'talks nonsense') this.#socket.write(Buffer.alloc(64, 0x77));
    else if (how === 'stops reading') {
      this.#farewell = 'slow';
      this.#socket.isReading = false;
    } else {
      this.#socket.reset();
      this.over();
    }
  }

  // ---- requests ----

  #cookie(): Buffer {
    const cookie = Buffer.alloc(8);
    cookie.writeUInt32BE(this.#rng.u32(), 0);
    cookie.writeUInt32BE(++this.#cookies, 4);
    return cookie;
  }

  #request(): Buffer {
    this.#sent++;
    this.#world.counts.requests++;
    if (this.#rng.chance(0.08)) return this.#badRequest();
    const mayUseLane = !this.#options.isReadOnly && !this.#isLaneBusy && !this.#world.isWhole;
    if (mayUseLane && this.#rng.chance(0.25)) {
      return this.#laneRequest();
    }
    return this.#modelRequest();
  }

  /** Something the server has to refuse. */
  #badRequest(): Buffer {
    const rng = this.#rng;
    const { sizeBytes } = this.#world;
    const { isReadOnly } = this.#options;
    const cases = badRequests(sizeBytes, isReadOnly, this.#options.isStructured);
    const [type, flags, off, len, refusal] = rng.pick(cases);
    const payload = type === Cmd.Write ? Buffer.alloc(len, 0xbd) : Buffer.alloc(0);
    return this.#ask(
      { type, flags, offBytes: off, lenBytes: len, refusal, isLane: false },
      payload,
    );
  }

  /** One request at a time, to bytes that nobody else touches, though they share blocks with others'. */
  #laneRequest(): Buffer {
    const rng = this.#rng;
    const { at, lenBytes: room } = this.#options.lane;
    const lenBytes = rng.between(1, room);
    const from = rng.below(room - lenBytes + 1);
    const offBytes = at + from;
    this.#isLaneBusy = true;
    const type = rng.pick([Cmd.Write, Cmd.Write, Cmd.WriteZeroes, Cmd.Read, Cmd.Read]);
    const flags = type !== Cmd.Read && rng.chance(0.2) ? CmdFlag.Fua : 0;
    const asked = { type, flags, offBytes, lenBytes, refusal: 0, isLane: true };
    if (type === Cmd.Read) return this.#ask(asked, Buffer.alloc(0));
    this.#world.counts.partial++;
    const payload = new Uint8Array(type === Cmd.Write ? lenBytes : 0);
    rng.fill(payload);
    // Unknown until the answer says that all of it is there.
    this.#isUnknown.fill(1, from, from + lenBytes);
    if (type === Cmd.Write) this.#lane.set(payload, from);
    else this.#lane.fill(0, from, from + lenBytes);
    return this.#ask(asked, payload);
  }

  #modelRequest(): Buffer {
    const rng = this.#rng;
    const { model, sizeBytes, modelStart, isWhole, hasFlushes } = this.#world;
    const { isReadOnly, contextId, isStructured, lenBytesMax } = this.#options;
    const kinds: number[] = [
      ...(isWhole ? [] : [Cmd.Read, Cmd.Read, Cmd.Cache]),
      ...(hasFlushes || isReadOnly ? [Cmd.Flush] : []),
      ...(contextId >= 0 ? [Cmd.BlockStatus] : []),
      ...(isReadOnly ? [] : [Cmd.Write, Cmd.Write, Cmd.Write, Cmd.Trim, Cmd.WriteZeroes]),
    ];
    const type = rng.pick(kinds);
    if (type === Cmd.Flush) {
      const flush = model.sendFlush();
      const asked = { type, flags: 0, offBytes: 0, lenBytes: 0, refusal: 0, isLane: false, flush };
      return this.#ask(asked, Buffer.alloc(0));
    }
    const grain = isWhole ? 4096 : rng.pick([UNIT, UNIT, 512, 4096]);
    const room = Math.floor((sizeBytes - modelStart) / grain);
    const most = Math.max(1, Math.min(room, Math.floor(lenBytesMax / grain)));
    const length = rng.between(1, rng.chance(0.6) ? Math.min(most, 16) : most);
    const isNear = rng.chance(0.5);
    const first = rng.below(Math.min(room - length + 1, isNear ? 40 : room));
    let [offBytes, lenBytes] = [modelStart + first * grain, length * grain];
    const isLook = type === Cmd.Read || type === Cmd.Cache || type === Cmd.BlockStatus;
    if (isLook && rng.chance(0.4)) {
      const cut = rng.below(Math.min(UNIT, lenBytes));
      offBytes += cut;
      lenBytes = Math.max(1, lenBytes - cut - rng.below(UNIT));
    }
    const flags = drawFlags(rng, type, isStructured);
    const unit = (offBytes - modelStart) / UNIT;
    const inner = { from: Math.ceil(unit), to: Math.floor(unit + lenBytes / UNIT) };
    const units = Math.max(0, inner.to - inner.from);
    const base = { type, flags, offBytes, lenBytes, refusal: 0, isLane: false };
    if (isLook) {
      const read = type === Cmd.Cache ? undefined : model.sendRead(inner.from, units);
      return this.#ask({ ...base, read }, Buffer.alloc(0));
    }
    if (offBytes % 4096 !== 0 || lenBytes % 4096 !== 0) this.#world.counts.partial++;
    if (type !== Cmd.Write) {
      return this.#ask({ ...base, write: model.sendZeroes(unit, units) }, Buffer.alloc(0));
    }
    const write = model.sendWrite(unit, units);
    return this.#ask({ ...base, write }, VersionModel.data(write.number, unit, units, WORD_STAMP));
  }

  #ask(asked: Omit<Asked, 'data' | 'got'>, payload: Uint8Array): Buffer {
    const { type, flags, offBytes, lenBytes, refusal } = asked;
    const cookie = this.#cookie();
    const dataBytes = type === Cmd.Read && refusal === 0 ? lenBytes : 0;
    this.#asked.set(cookie.toString('latin1'), {
      ...asked,
      data: new Uint8Array(dataBytes),
      got: new Uint8Array(dataBytes),
    });
    return Buffer.concat([requestHeader(type, flags, offBytes, lenBytes, cookie), payload]);
  }

  // ---- replies ----

  /** Takes one reply from the input; false when it is not there whole. */
  #parse(): boolean {
    const input = this.#input;
    if (input.length < 16) return false;
    const magic = input.readUInt32BE(0);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) return this.#parseSimple(input);
    if (magic === NBD_STRUCTURED_REPLY_MAGIC && this.#options.isStructured) {
      return this.#parseChunk(input);
    }
    this.#wrong(`a reply begins with 0x${magic.toString(16)}`);
    this.over();
    return false;
  }

  #parseSimple(input: Buffer): boolean {
    const error = input.readUInt32BE(4);
    const key = input.toString('latin1', 8, 16);
    const asked = this.#find(key);
    if (asked === undefined) return false;
    const isData = asked.type === Cmd.Read && error === 0;
    if (isData && this.#options.isStructured) this.#wrong('a simple reply with data');
    if (asked.type === Cmd.BlockStatus && error === 0) this.#wrong('block status without extents');
    const lenBytes = isData ? asked.lenBytes : 0;
    if (input.length < 16 + lenBytes) return false;
    this.#input = input.subarray(16 + lenBytes);
    if (isData) {
      asked.data.set(input.subarray(16, 16 + lenBytes));
      asked.got.fill(1);
    }
    this.#answered(key, asked, error);
    return true;
  }

  #parseChunk(input: Buffer): boolean {
    if (input.length < 20) return false;
    const payloadBytes = input.readUInt32BE(16);
    if (input.length < 20 + payloadBytes) return false;
    const isLast = (input.readUInt16BE(4) & CHUNK_DONE) !== 0;
    const type = input.readUInt16BE(6);
    const key = input.toString('latin1', 8, 16);
    const payload = input.subarray(20, 20 + payloadBytes);
    this.#input = input.subarray(20 + payloadBytes);
    const asked = this.#find(key);
    if (asked === undefined) return false;
    let error = 0;
    if (type === Chunk.OffsetData) this.#takeData(asked, payload, isLast);
    else if (type === Chunk.BlockStatus) this.#takeExtents(asked, payload);
    else if (type === Chunk.Error) error = payload.readUInt32BE(0);
    else if (type !== Chunk.None || payloadBytes > 0) this.#wrong(`a chunk of type ${type}`);
    if (isLast || error !== 0) this.#answered(key, asked, error);
    return true;
  }

  #find(key: string): Asked | undefined {
    const asked = this.#asked.get(key);
    if (asked !== undefined) return asked;
    const done = this.#done.get(key);
    this.#wrong(
      done === undefined
        ? 'a reply to what was not asked'
        : `${describe(done)}: answered a second time`,
    );
    this.over();
    return undefined;
  }

  #takeData(asked: Asked, payload: Buffer, isLast: boolean): void {
    const at = Number(payload.readBigUInt64BE(0)) - asked.offBytes;
    const data = payload.subarray(8);
    if (asked.type !== Cmd.Read || at < 0 || at + data.length > asked.data.length) {
      this.#wrong(`data of ${data.length} bytes at ${at}, asked for ${asked.data.length}`);
      return;
    }
    if (!isLast || data.length < asked.data.length) this.#world.counts.streamed++;
    if ((asked.flags & CmdFlag.Df) !== 0 && data.length < asked.data.length) {
      this.#wrong('a read in pieces that was to be in one');
    }
    if (asked.got.subarray(at, at + data.length).some((b) => b !== 0)) this.#wrong('data twice');
    asked.got.fill(1, at, at + data.length);
    asked.data.set(data, at);
  }

  #takeExtents(asked: Asked, payload: Buffer): void {
    const { modelStart, model } = this.#world;
    if (payload.readUInt32BE(0) !== this.#options.contextId) this.#wrong('another context');
    const count = (payload.length - 4) / 8;
    const isOne = (asked.flags & CmdFlag.ReqOne) !== 0;
    if (!Number.isInteger(count) || count < 1 || (isOne && count > 1)) {
      this.#wrong(`${count} extents`);
    }
    const isEmpty = new Uint8Array(asked.lenBytes);
    let at = 0;
    for (let i = 0; i < count; i++) {
      const len = payload.readUInt32BE(4 + 8 * i);
      const flags = payload.readUInt32BE(8 + 8 * i);
      if (len === 0 || at + len > asked.lenBytes) {
        this.#wrong(`an extent of ${len} bytes at ${at}, asked for ${asked.lenBytes}`);
        return;
      }
      const told = (flags & (AllocationFlag.Hole | AllocationFlag.Zero)) !== 0;
      isEmpty.fill(told ? 1 : 0, at, at + len);
      at += len;
    }
    const { read } = asked;
    if (read === undefined) return;
    const units = Array.from({ length: read.lenSectors }, (_, i) => {
      const from = modelStart + (read.sector + i) * UNIT - asked.offBytes;
      return from + UNIT <= at && isEmpty.subarray(from, from + UNIT).every((b) => b === 1);
    });
    const wrong = model.checkEmpty(read, units);
    if (wrong !== undefined) this.#wrong(wrong);
  }

  #answered(key: string, asked: Asked, error: number): void {
    const { world, counts } = { world: this.#world, counts: this.#world.counts };
    this.#asked.delete(key);
    this.#done.set(key, asked);
    counts.answered++;
    if (asked.refusal !== 0) {
      counts.refused++;
      if (error !== asked.refusal) {
        this.#wrong(`${describe(asked)}: error ${error}, expected ${asked.refusal}`);
      }
      return;
    }
    if (error !== 0) {
      counts.failed++;
      const mayRefuse =
        error === NbdError.NotSupported &&
        (asked.type === Cmd.Trim || (asked.flags & CmdFlag.FastZero) !== 0);
      // What has not come whole when the server ends is refused, by the protocol's word for that.
      const isLate = error === NbdError.Shutdown && world.isEnding();
      if (!mayRefuse && !isLate && !world.mayFail())
        this.#wrong(`${describe(asked)}: error ${error}`);
    }
    if (asked.isLane) this.#laneAnswered(asked, error === 0);
    else this.#modelAnswered(asked, error === 0);
  }

  #laneAnswered(asked: Asked, isOk: boolean): void {
    this.#isLaneBusy = false;
    if (!isOk) return;
    const from = asked.offBytes - this.#options.lane.at;
    if (asked.type !== Cmd.Read) {
      this.#isUnknown.fill(0, from, from + asked.lenBytes);
      return;
    }
    this.#checkWhole(asked);
    for (const [i, byte] of asked.data.entries()) {
      if (this.#isUnknown[from + i] === 1 || this.#lane[from + i] === byte) continue;
      this.#wrong(`byte ${asked.offBytes + i} is ${byte}, was written ${this.#lane[from + i]}`);
      return;
    }
  }

  #modelAnswered(asked: Asked, isOk: boolean): void {
    const { model } = this.#world;
    const { type, write, read, flush } = asked;
    if (flush !== undefined && isOk) model.flushDone(flush);
    if (write !== undefined) {
      if (isOk && type !== Cmd.Trim) model.writeDone(write, (asked.flags & CmdFlag.Fua) !== 0);
      else model.writeUnsure(write);
    }
    if (read === undefined) return;
    if (!isOk || type !== Cmd.Read) {
      model.readFailed(read);
      return;
    }
    this.#checkWhole(asked);
    const skip = this.#world.modelStart + read.sector * UNIT - asked.offBytes;
    const wrong = model.checkRead(read, asked.data.subarray(skip));
    if (wrong !== undefined) this.#wrong(`${describe(asked)}: ${wrong}`);
  }

  #checkWhole(asked: Asked): void {
    const missing = asked.got.indexOf(0);
    if (missing >= 0) this.#wrong(`${describe(asked)}: byte ${missing} was not sent`);
  }
}
