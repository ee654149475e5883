// Gives requests to connections, and sees to it that losing a connection loses nothing else.
//
// A request that was not answered when its connection was lost is sent again, in the old order, on
// what connection there is. That is safe: the same bytes at the same place (see
// docs/backends/nbd.md for the one thing it cannot exclude). What was acknowledged and not flushed
// is in the write log, and is replayed before anything else when all connections had been lost.
//
// A flush that the server answers with an error is final, as a failed fdatasync of a file is: the server
// may have dropped what it could not write, and tell it once. A later success would speak only of what
// was written after. So every flush from then on fails, whoever asks for it.
//
// Several connections: a flush on one covers what was acknowledged on all, but only within one run
// of the server. So flushes go to the oldest connection, and while anything is not flushed a new
// connection joins only when an old one has answered something asked after the new one was up: then
// the server is still the one that the old one was made to. When no old one is left, the new one
// begins with a replay.

import { Status } from '../../base/status.ts';
import { Cmd, CmdFlag } from '../../format/nbd.ts';
import type { IoEngine } from '../../io/engine.ts';
import { Replay } from './replay.ts';
import { NbdRequest, type RequestOwner, RequestQueue } from './request.ts';
import type { NbdSession, SessionOwner } from './session.ts';
import { WriteLog } from './write-log.ts';

/** A request that was under way at so many losses in a row is taken for their cause. */
const LOSSES_MAX = 16;

export interface RouterOptions {
  readonly engine: IoEngine;
  /** Without flush, what is acknowledged counts as durable. */
  readonly canFlush: boolean;
  readonly replayBytes: number;
  readonly failsWhenDown: boolean;
  /** A connection is gone. */
  readonly onLost: (reason: string) => void;
  /** The server has answered something. */
  readonly onProgress: () => void;
  /** Acknowledged writes are gone, or may be; called once. */
  readonly onLostWrites: () => void;
}

export class Router implements SessionOwner, RequestOwner {
  readonly #options: RouterOptions;
  readonly #log: WriteLog;
  readonly #replay: Replay;
  /** Those in use, the oldest first. */
  #sessions: NbdSession[] = [];
  /** Up, but not known yet to be to the same run of the server. */
  #candidates: NbdSession[] = [];
  readonly #pending = new RequestQueue();
  /** The flush of the router's own: empties the log, proves that the server is still the same. */
  readonly #flush = new NbdRequest(this);
  #isFlushing = false;
  #mustFlushAgain = false;
  #isPumping = false;
  #order = 0;
  #onQuiet: (() => void) | null = null;
  #hasLostWrites = false;
  #mayReconnect: boolean;
  #isFailed = false;
  #lastRemark = '';

  constructor(options: RouterOptions, mayReconnect: boolean) {
    this.#options = options;
    this.#mayReconnect = mayReconnect;
    this.#log = new WriteLog(options.replayBytes);
    this.#replay = new Replay(options.engine, this.#log, {
      send: (request) => this.#give(this.#sessions[0] as NbdSession, request),
      failed: () => {
        this.#loseWrites();
      },
      ended: () => {
        this.#pump();
        this.#checkQuiet();
      },
    });
  }

  get sessionCount(): number {
    return this.#sessions.length + this.#candidates.length;
  }

  get isUp(): boolean {
    return this.#sessions.length > 0;
  }

  get isFailed(): boolean {
    return this.#isFailed;
  }

  /** Acknowledged writes are gone, or may be. */
  get hasLostWrites(): boolean {
    return this.#hasLostWrites;
  }

  get isDirty(): boolean {
    return this.#log.isDirty;
  }

  /** What the server last said about an error; '' if nothing. */
  get lastRemark(): string {
    return this.#lastRemark;
  }

  send(request: NbdRequest): void {
    const isDown = this.#options.failsWhenDown && !this.isUp;
    if (this.#isFailed || isDown) {
      request.owner.requestDone(request, Status.Io);
      return;
    }
    this.#pending.push(request);
    this.#pump();
  }

  /** A new connection, checked and started. */
  admit(session: NbdSession): void {
    if (!this.isUp) this.#begin(session);
    else if (this.#log.isDirty) {
      this.#candidates.push(session);
      // What was asked before may have been answered by a server that is gone by now.
      this.#mustFlushAgain = this.#isFlushing;
      this.#flushNow();
    } else this.#join(session);
  }

  /** Ends everything that waits with an error; from now on nothing is sent. */
  fail(): void {
    this.#isFailed = true;
    this.#failPending();
  }

  /** The next loss of all connections is the last. */
  stopReconnecting(): void {
    this.#mayReconnect = false;
    if (!this.isUp) this.fail();
  }

  /** Ends all connections in order. Nothing of others may be in flight. */
  async disconnect(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#onQuiet = resolve;
      this.#checkQuiet();
    });
    this.#isFailed = true;
    const all = [...this.#sessions, ...this.#candidates];
    await Promise.all(all.map((session) => session.disconnect()));
  }

  answered(session: NbdSession, request: NbdRequest): void {
    const { status } = request;
    const isGoing = status === Status.ShuttingDown && this.#mayReconnect;
    if (isGoing && ++request.losses < LOSSES_MAX && request.owner !== this.#replay) {
      // Another one may take its place: the request waits for that.
      this.#pending.putBack([request]);
      session.lose('the server is shutting down');
      return;
    }
    this.#options.onProgress();
    if (status !== Status.Ok && this.#losesWrites(request)) this.#loseWrites();
    this.#finish(request, status);
    this.#pump();
    if (request !== this.#flush && this.#log.wantsFlush) this.#flushNow();
  }

  lost(session: NbdSession, reason: string, unanswered: NbdRequest[]): void {
    this.#candidates = this.#candidates.filter((s) => s !== session);
    this.#sessions = this.#sessions.filter((s) => s !== session);
    const again: NbdRequest[] = [];
    for (const request of unanswered) {
      if (request.owner === this.#replay) this.#replay.lost();
      else if (++request.losses < LOSSES_MAX || request === this.#flush) again.push(request);
      else this.#finish(request, Status.Io);
    }
    this.#pending.putBack(again);
    if (!this.isUp) this.#allLost();
    this.#options.onLost(reason);
    this.#pump();
  }

  remark(text: string): void {
    this.#lastRemark = text;
  }

  /** The router's own flush. */
  requestDone(_request: NbdRequest, status: Status): void {
    this.#isFlushing = false;
    // The server may speak of an error only once, and nobody else has heard of this one.
    if (status !== Status.Ok && this.isUp) this.#loseWrites();
    if (this.#mustFlushAgain) {
      this.#mustFlushAgain = false;
      this.#flushNow();
      return;
    }
    // Whatever the answer was, the server that gave it is the one of the old connections.
    for (const session of this.#candidates.splice(0)) this.#join(session);
    this.#checkQuiet();
  }

  #loseWrites(): void {
    if (this.#hasLostWrites) return;
    this.#hasLostWrites = true;
    this.#options.onLostWrites();
  }

  /** Nothing of the router's own is under way. */
  #checkQuiet(): void {
    if (!this.#isFlushing && !this.#replay.isRunning) this.#onQuiet?.();
  }

  #finish(request: NbdRequest, status: Status): void {
    const isOk = status === Status.Ok;
    let told = status;
    if (request.cmd === Cmd.Flush && isOk) {
      this.#log.flushed(request.logMark);
      if (this.#hasLostWrites) told = Status.Io;
    } else if (isOk && request.owner !== this.#replay) this.#note(request);
    request.owner.requestDone(request, told);
  }

  /**
   * Whether a request that the server refused leaves acknowledged writes in doubt. A flush does,
   * and so does a durable write: servers write and then flush the whole file.
   */
  #losesWrites(request: NbdRequest): boolean {
    if (request.cmd === Cmd.Flush) return true;
    const isDurable = (request.flags & CmdFlag.Fua) !== 0;
    return isDurable && request.status === Status.Io && this.#log.isDirty;
  }

  /**
   * A write was acknowledged. A durable one matters only where it lies over others that are not.
   */
  #note(request: NbdRequest): void {
    if (!this.#options.canFlush) return;
    const isWrite = request.cmd === Cmd.Write || request.cmd === Cmd.WriteZeroes;
    if (!isWrite) return;
    const isDurable = (request.flags & CmdFlag.Fua) !== 0;
    if (isDurable && !this.#log.isDirty) return;
    this.#log.add(request, this.#options.engine.arena.u8);
  }

  #pump(): void {
    // A session may end requests from inside; those who hear of it send more.
    if (this.#isPumping) return;
    this.#isPumping = true;
    for (;;) {
      const request = this.#pending.head;
      if (request === null || this.#replay.isRunning) break;
      const session = this.#choose(request);
      if (session === null) break;
      this.#pending.shift();
      this.#give(session, request);
    }
    this.#isPumping = false;
  }

  /** The least busy connection that has room; for a flush the oldest one or none. */
  #choose(request: NbdRequest): NbdSession | null {
    if (request.cmd === Cmd.Flush) {
      const oldest = this.#sessions[0];
      return oldest !== undefined && oldest.isUp && oldest.hasRoom ? oldest : null;
    }
    let best: NbdSession | null = null;
    for (const session of this.#sessions) {
      if (!session.isUp || !session.hasRoom) continue;
      if (best === null || session.inFlight < best.inFlight) best = session;
    }
    return best;
  }

  #give(session: NbdSession, request: NbdRequest): void {
    if (request.order === 0) request.order = ++this.#order;
    request.logMark = this.#log.mark;
    if (request.cmd === Cmd.BlockStatus && session.terms.allocationContextId < 0) {
      // This connection cannot tell: no descriptors is an answer too.
      request.collector?.reset();
      request.owner.requestDone(request, Status.Ok);
      return;
    }
    session.queue(request);
  }

  /** The first connection after none. */
  #begin(session: NbdSession): void {
    this.#sessions = [session];
    this.#replay.start();
    this.#pump();
  }

  #join(session: NbdSession): void {
    this.#sessions.push(session);
    this.#pump();
  }

  #allLost(): void {
    this.#replay.lost();
    this.#checkQuiet();
    this.#mustFlushAgain = false;
    if (this.#log.isDirty && !this.#log.isComplete) {
      this.#loseWrites();
      this.#log.drop();
    }
    const others = this.#candidates.splice(0);
    const next = others.shift();
    if (next !== undefined) {
      this.#begin(next);
      for (const session of others) this.admit(session);
    } else if (!this.#mayReconnect) this.fail();
    else if (this.#options.failsWhenDown) this.#failPending();
  }

  #failPending(): void {
    for (let request = this.#pending.shift(); request !== null; request = this.#pending.shift()) {
      request.owner.requestDone(request, Status.Io);
    }
  }

  #flushNow(): void {
    if (this.#isFlushing || !this.#options.canFlush || this.#isFailed) return;
    this.#isFlushing = true;
    this.#flush.begin(Cmd.Flush, 0, 0);
    this.#pending.push(this.#flush);
    this.#pump();
  }
}
