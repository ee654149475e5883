// Writes the write log again over a fresh connection, one request at a time: the entries may
// overlap, and a server may do what is in flight in any order.

import { Status } from '../../base/status.ts';
import { BioVec } from '../../bio/vec.ts';
import { Cmd, CmdFlag } from '../../format/nbd.ts';
import { NONE } from '../../io/arena.ts';
import type { IoEngine } from '../../io/engine.ts';
import { NbdRequest, type RequestOwner } from './request.ts';
import type { WriteLog } from './write-log.ts';

const BUFFER_BYTES = 65536;

export interface ReplayHost {
  send(request: NbdRequest): void;
  /** The server refused to take it again. */
  failed(): void;
  ended(): void;
}

export class Replay implements RequestOwner {
  readonly #engine: IoEngine;
  readonly #log: WriteLog;
  readonly #host: ReplayHost;
  readonly #request = new NbdRequest(this);
  readonly #vec = new BioVec([0], [BUFFER_BYTES], this);
  #mem = NONE;
  #isRunning = false;
  /** The run that is on; one that waited for memory may find that it is over. */
  #run = 0;
  #entry = 0;
  #doneBytes = 0;
  #pieceBytes = 0;

  constructor(engine: IoEngine, log: WriteLog, host: ReplayHost) {
    this.#engine = engine;
    this.#log = log;
    this.#host = host;
  }

  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Begins with the oldest entry; over at once when there is none. */
  start(): void {
    this.#run++;
    this.#entry = this.#log.first;
    this.#doneBytes = 0;
    if (this.#entry === this.#log.end) return;
    this.#isRunning = true;
    this.#takeBuffer(this.#run);
  }

  /** The connection is gone; the next one starts again. */
  lost(): void {
    this.#stop();
  }

  requestDone(_request: NbdRequest, status: Status): void {
    if (status !== Status.Ok) this.#host.failed();
    this.#doneBytes += this.#pieceBytes;
    if (this.#doneBytes === this.#log.lenBytes(this.#entry)) {
      this.#entry++;
      this.#doneBytes = 0;
    }
    if (this.#entry < this.#log.end) {
      this.#next();
      return;
    }
    this.#stop();
    this.#host.ended();
  }

  #takeBuffer(run: number): void {
    if (run !== this.#run || !this.#isRunning) return;
    const { arena } = this.#engine;
    this.#mem = arena.tryAlloc(BUFFER_BYTES);
    if (this.#mem === NONE) arena.onFree(() => this.#takeBuffer(run));
    else this.#next();
  }

  #stop(): void {
    this.#isRunning = false;
    if (this.#mem !== NONE) this.#engine.arena.free(this.#mem, BUFFER_BYTES);
    this.#mem = NONE;
  }

  #next(): void {
    const log = this.#log;
    const entry = this.#entry;
    const request = this.#request;
    const cmd = log.cmd(entry);
    const left = log.lenBytes(entry) - this.#doneBytes;
    this.#pieceBytes = cmd === Cmd.Write ? Math.min(left, BUFFER_BYTES) : left;
    request.begin(cmd, log.offBytes(entry) + this.#doneBytes, this.#pieceBytes);
    // Not durable at once: it was not when it was acknowledged either.
    request.flags = log.flags(entry) & ~(CmdFlag.Fua | CmdFlag.FastZero);
    if (cmd === Cmd.Write) {
      const { u8 } = this.#engine.arena;
      log.copyOut(entry, this.#doneBytes, this.#pieceBytes, u8, this.#mem);
      this.#vec.pointAt(this.#mem, this.#pieceBytes);
      request.vec = this.#vec;
    }
    this.#host.send(request);
  }
}
