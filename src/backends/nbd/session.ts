// One connection in its transmission phase: its requests in flight, sending and receiving.
//
// A session that is lost ends both directions and then waits until nothing is under way in the
// engine: only then are its buffers and those of its requests free, and only then does the owner
// hear of it and take the unanswered requests back.

import { assert } from '../../base/assert.ts';
import type { Timer } from '../../base/clock.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { Cmd } from '../../format/nbd.ts';
import { NONE } from '../../io/arena.ts';
import type { BatchTask, IoEngine } from '../../io/engine.ts';
import type { ExportTerms } from './handshake.ts';
import type { NbdLink } from './link.ts';
import { REPLY_BUFFER_BYTES, ReplyReader, type ReplySink } from './reply-reader.ts';
import { NbdRequest } from './request.ts';
import { HEADERS_BYTES, RequestSender, type SendSink, SLOTS } from './request-sender.ts';

/** How long a server that was told goodbye may take to close the connection. */
const GOODBYE_MS = 1000;
/** How often, within the time limit for answers, the oldest request is looked at. */
const TIMEOUT_CHECKS = 4;

export interface SessionOwner {
  /** An answer is there: `request.status`. The request is the owner's again. */
  answered(session: NbdSession, request: NbdRequest): void;
  /** It is over; `unanswered` are the owner's again, in the order they were queued in. */
  lost(session: NbdSession, reason: string, unanswered: NbdRequest[]): void;
  /** What the server said about an error. */
  remark(text: string): void;
}

export class NbdSession implements BatchTask, ReplySink, SendSink {
  readonly terms: ExportTerms;
  readonly #owner: SessionOwner;
  readonly #engine: IoEngine;
  readonly #link: NbdLink;
  readonly #timeoutMs: number;
  readonly #replyMem: number;
  readonly #headerMem: number;
  readonly #reader: ReplyReader;
  readonly #sender: RequestSender;
  readonly #slots: (NbdRequest | null)[] = Array.from({ length: SLOTS }, () => null);
  readonly #turns = new Uint32Array(SLOTS);
  readonly #freeSlots = Uint32Array.from({ length: SLOTS }, (_, i) => SLOTS - 1 - i);
  #freeCount = SLOTS;
  #isBatchQueued = false;
  #lostReason: string | null = null;
  #isOver = false;
  #timer: Timer | null = null;
  #goodbye: (() => void) | null = null;
  readonly #checkBound = (): void => this.#checkTimeout();

  /** Throws DmError when there is no memory; the link is closed then. */
  constructor(owner: SessionOwner, engine: IoEngine, link: NbdLink, timeoutMs: number) {
    this.#owner = owner;
    this.#engine = engine;
    this.#link = link;
    this.terms = link.terms;
    this.#timeoutMs = timeoutMs;
    const { arena } = engine;
    const { stream, terms } = link;
    this.#replyMem = arena.tryAlloc(REPLY_BUFFER_BYTES);
    this.#headerMem = arena.tryAlloc(HEADERS_BYTES);
    if (this.#replyMem === NONE || this.#headerMem === NONE) {
      this.#freeMemory();
      stream.close();
      throw new DmError(Status.NoMemory, 'no memory for the buffers of a connection');
    }
    const { hasStructuredReplies, allocationContextId } = terms;
    const mem = this.#replyMem;
    const rest = { hasStructuredReplies, allocationContextId };
    this.#reader = new ReplyReader({ sink: this, arena, stream, mem, ...rest });
    this.#sender = new RequestSender(this, arena, stream, this.#headerMem);
  }

  start(): void {
    this.#reader.start();
  }

  get isUp(): boolean {
    return this.#lostReason === null;
  }

  get hasRoom(): boolean {
    return this.#freeCount > 0;
  }

  get inFlight(): number {
    return SLOTS - this.#freeCount;
  }

  /** Sends a request with the others of this batch. There must be room. */
  queue(request: NbdRequest): void {
    const slot = this.#freeSlots[--this.#freeCount] as number;
    const turn = ((this.#turns[slot] as number) + 1) >>> 0;
    this.#turns[slot] = turn;
    this.#slots[slot] = request;
    request.slot = slot;
    request.turn = turn;
    request.status = Status.Ok;
    request.isSending = true;
    request.isAnswered = false;
    if (request.cmd === Cmd.Read) request.coverage.reset();
    request.collector?.reset();
    if (this.#timeoutMs > 0) this.#watch(request);
    this.#sender.push(request);
    if (this.#isBatchQueued) return;
    this.#isBatchQueued = true;
    this.#engine.atBatchEnd(this);
  }

  runBatchTask(): void {
    this.#isBatchQueued = false;
    this.#sender.flush();
  }

  /** Gives the connection up. */
  lose(reason: string): void {
    if (this.#lostReason !== null) return;
    this.#lostReason = reason;
    this.#reader.stop();
    this.#sender.stop();
    this.#timer?.cancel();
    this.#link.stream.close();
    this.#maybeOver();
  }

  /**
   * Ends in order: says goodbye and waits until the server has closed. Nothing may be in flight.
   */
  disconnect(): Promise<void> {
    assert(this.inFlight === 0, 'nbd session: disconnected with requests in flight');
    if (this.#isOver) return Promise.resolve();
    return new Promise((resolve) => {
      this.#goodbye = resolve;
      if (!this.isUp) return;
      this.#timer?.cancel();
      this.#timer = this.#engine.clock.after(GOODBYE_MS, () => this.lose('closed'));
      const goodbye = new NbdRequest({ requestDone: () => {} });
      goodbye.begin(Cmd.Disc, 0, 0);
      this.queue(goodbye);
    });
  }

  requestAt(slot: number, turn: number): NbdRequest | null {
    const request = slot < SLOTS ? (this.#slots[slot] as NbdRequest | null) : null;
    if (request === null || request.turn !== turn || request.isAnswered) return null;
    return request;
  }

  progressed(request: NbdRequest): void {
    if (this.#timeoutMs > 0) request.sentAtMs = this.#engine.clock.nowMs();
  }

  answered(request: NbdRequest): void {
    request.isAnswered = true;
    if (!request.isSending) this.#release(request);
  }

  remark(text: string): void {
    this.#owner.remark(text);
  }

  sent(request: NbdRequest): void {
    // An answer told just before may have closed the session; the request then has a new owner.
    if (this.#isOver) return;
    request.isSending = false;
    if (this.#timeoutMs > 0) request.sentAtMs = this.#engine.clock.nowMs();
    if (request.isAnswered) this.#release(request);
  }

  sendEnded(): void {
    this.#maybeOver();
  }

  broken(reason: string): void {
    if (this.#lostReason === null) this.lose(reason);
    else this.#maybeOver();
  }

  #release(request: NbdRequest): void {
    const { slot } = request;
    this.#slots[slot] = null;
    this.#freeSlots[this.#freeCount++] = slot;
    request.slot = -1;
    this.#owner.answered(this, request);
  }

  /** Nothing is under way in the engine: hands back what is left. */
  #maybeOver(): void {
    if (this.#isOver || this.#lostReason === null) return;
    if (this.#reader.isReceiving || this.#sender.isSending) return;
    this.#isOver = true;
    this.#freeMemory();
    const left = this.#slots.filter((r) => r !== null && r.cmd !== Cmd.Disc) as NbdRequest[];
    const answered = left.filter((r) => r.isAnswered);
    const unanswered = left.filter((r) => !r.isAnswered).sort((a, b) => a.order - b.order);
    this.#slots.fill(null);
    for (const request of left) request.slot = -1;
    for (const request of answered) this.#owner.answered(this, request);
    this.#goodbye?.();
    this.#owner.lost(this, this.#lostReason, unanswered);
  }

  #freeMemory(): void {
    const { arena } = this.#engine;
    if (this.#replyMem !== NONE) arena.free(this.#replyMem, REPLY_BUFFER_BYTES);
    if (this.#headerMem !== NONE) arena.free(this.#headerMem, HEADERS_BYTES);
  }

  #watch(request: NbdRequest): void {
    const { clock } = this.#engine;
    request.sentAtMs = clock.nowMs();
    this.#timer ??= clock.after(this.#timeoutMs / TIMEOUT_CHECKS, this.#checkBound);
  }

  #checkTimeout(): void {
    this.#timer = null;
    if (!this.isUp || this.inFlight === 0) return;
    const { clock } = this.#engine;
    const limit = clock.nowMs() - this.#timeoutMs;
    if (this.#slots.some((r) => r !== null && !r.isAnswered && r.sentAtMs <= limit)) {
      this.lose(`no answer for ${this.#timeoutMs / 1000} seconds`);
    } else this.#timer = clock.after(this.#timeoutMs / TIMEOUT_CHECKS, this.#checkBound);
  }
}
