// One request on the wire, and queues of them. Requests are pooled by who makes them; a request
// belongs to one queue or one session at a time and comes back to its owner through `requestDone`,
// once.

import { Status } from '../../base/status.ts';
import { type BioVec, NO_VEC } from '../../bio/vec.ts';
import { Cmd } from '../../format/nbd.ts';
import { Coverage } from './coverage.ts';
import type { ExtentCollector } from './extents.ts';

export interface RequestOwner {
  requestDone(request: NbdRequest, status: Status): void;
}

export class NbdRequest {
  readonly owner: RequestOwner;
  cmd: number = Cmd.Read;
  /** Bits of CmdFlag. */
  flags = 0;
  offBytes = 0;
  lenBytes = 0;
  /** Where its data begins in a vector (read, write). */
  vec: BioVec = NO_VEC;
  segment = 0;
  segmentDone = 0;
  /** The owner's own. */
  job: object | null = null;
  /** For block status: who takes the descriptors. */
  collector: ExtentCollector | null = null;
  next: NbdRequest | null = null;
  /**
   * When it was first sent, among all requests of the device: the order in which they are sent
   * again.
   */
  order = 0;
  /** Connections lost while it was on them. */
  losses = 0;
  /** What the write log was at when it was sent (flush). */
  logMark = 0;
  // The session's own.
  slot = -1;
  turn = 0;
  sentAtMs = 0;
  /** Its header or data is in the send that is under way. */
  isSending = false;
  isAnswered = false;
  status: Status = Status.Ok;
  /** Which bytes of a read have come. */
  readonly coverage = new Coverage();

  constructor(owner: RequestOwner) {
    this.owner = owner;
  }

  /** Makes it ready to be queued; data, flags and owner's words are set by the caller. */
  begin(cmd: number, offBytes: number, lenBytes: number): void {
    this.cmd = cmd;
    this.flags = 0;
    this.offBytes = offBytes;
    this.lenBytes = lenBytes;
    this.vec = NO_VEC;
    this.segment = 0;
    this.segmentDone = 0;
    this.collector = null;
    this.order = 0;
    this.losses = 0;
    this.next = null;
  }
}

/** First in, first out. */
export class RequestQueue {
  #head: NbdRequest | null = null;
  #tail: NbdRequest | null = null;

  get head(): NbdRequest | null {
    return this.#head;
  }

  push(request: NbdRequest): void {
    request.next = null;
    if (this.#tail === null) this.#head = request;
    else this.#tail.next = request;
    this.#tail = request;
  }

  shift(): NbdRequest | null {
    const request = this.#head;
    if (request === null) return null;
    this.#head = request.next;
    if (this.#head === null) this.#tail = null;
    request.next = null;
    return request;
  }

  /** Puts them in front of all others, in their order. */
  putBack(requests: readonly NbdRequest[]): void {
    for (let i = requests.length - 1; i >= 0; i--) {
      const request = requests[i] as NbdRequest;
      request.next = this.#head;
      this.#head = request;
      this.#tail ??= request;
    }
  }
}
