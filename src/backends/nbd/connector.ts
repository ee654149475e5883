// Makes connections, and makes them again when they are lost: one attempt at a time, with longer
// and longer pauses in between, until the time limit of an outage. An outage ends with the first
// answer of a server, not with a connection: a server that takes connections and answers nothing is
// as bad as none.

import type { Clock, Timer } from '../../base/clock.ts';
import { DmError } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import type { IoEngine } from '../../io/engine.ts';
import type { ExportTerms } from './handshake.ts';
import { type NbdLink, openLink } from './link.ts';
import type { NbdTarget } from './uri.ts';

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

export interface ConnectorHost {
  /** What is wrong with a server that does not offer what it did at first; undefined if nothing. */
  refusal(terms: ExportTerms): string | undefined;
  /** Connections there are, in use or about to be. */
  sessionCount(): number;
  /** Throws DmError when it cannot use the link. */
  connected(link: NbdLink): void;
  /** No connection, and no more attempts. */
  gaveUp(reason: string): void;
}

export interface ConnectorOptions {
  readonly host: ConnectorHost;
  readonly engine: IoEngine;
  readonly target: NbdTarget;
  readonly reconnectMs: number;
}

export class Connector {
  readonly #host: ConnectorHost;
  readonly #engine: IoEngine;
  readonly #clock: Clock;
  readonly #target: NbdTarget;
  readonly #reconnectMs: number;
  readonly #abort = new AbortController();
  /** Connections that there should be. */
  #wanted = 1;
  #pauseMs = 0;
  #attempt: Promise<void> | null = null;
  #pause: Timer | null = null;
  /** The end of the outage's time. */
  #limit: Timer | null = null;
  /** The server has answered something since the last attempt began. */
  #hasProgress = false;
  /** The last attempt has made a connection. */
  #hasConnected = true;
  #isStopped = false;
  #lastReason = '';

  constructor(options: ConnectorOptions) {
    this.#host = options.host;
    this.#engine = options.engine;
    this.#clock = options.engine.clock;
    this.#target = options.target;
    this.#reconnectMs = options.reconnectMs;
  }

  /** Why the last connection was lost or not made; '' if none was. */
  get lastReason(): string {
    return this.#lastReason;
  }

  /** One connection, for opening: no second attempt. Throws DmError. */
  async connect(): Promise<NbdLink> {
    return await openLink(this.#engine, this.#target, this.#abort.signal);
  }

  /** From now on there shall be so many. */
  keep(connections: number): void {
    this.#wanted = connections;
    this.#schedule();
  }

  lost(reason: string): void {
    if (this.#isStopped) return;
    this.#lastReason = reason;
    if (this.#reconnectMs === 0) return;
    if (this.#host.sessionCount() === 0) this.#allLost();
    this.#schedule();
  }

  /** The server has answered: what comes after is a new outage. */
  progressed(): void {
    this.#hasProgress = true;
    if (this.#limit === null) return;
    this.#limit.cancel();
    this.#limit = null;
  }

  /** Ends attempts; resolves when none is under way. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#pause?.cancel();
    this.#limit?.cancel();
    this.#abort.abort();
    await this.#attempt;
  }

  #allLost(): void {
    if (this.#limit === null && this.#reconnectMs < Infinity) {
      this.#limit = this.#clock.after(this.#reconnectMs, () => this.#timeIsUp());
    }
    // A pause before one more connection is no reason to wait for the only one.
    if (!this.#hasProgress || this.#attempt !== null) return;
    this.#hasConnected = true;
    this.#pause?.cancel();
    this.#pause = null;
  }

  #schedule(): void {
    if (this.#isStopped || this.#attempt !== null || this.#pause !== null) return;
    if (this.#reconnectMs === 0 || this.#host.sessionCount() >= this.#wanted) return;
    // A server that works is tried at once. One that takes no connection, or takes it and answers
    // nothing, is not; also if it answers on another connection.
    if (this.#hasProgress && this.#hasConnected) this.#pauseMs = 0;
    this.#pause = this.#clock.after(this.#pauseMs, () => {
      this.#pause = null;
      this.#hasProgress = false;
      this.#attempt = this.#try();
      spawn('nbd reconnect', this.#attempt);
    });
    this.#pauseMs = Math.min(Math.max(FIRST_PAUSE_MS, this.#pauseMs * 2), LONGEST_PAUSE_MS);
  }

  async #try(): Promise<void> {
    try {
      this.#hasConnected = false;
      const link = await this.connect();
      this.#hasConnected = this.#use(link);
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      this.#lastReason = error.message;
    }
    this.#attempt = null;
    this.#schedule();
  }

  #use(link: NbdLink): boolean {
    const refusal = this.#isStopped ? 'the device is being closed' : this.#host.refusal(link.terms);
    if (refusal === undefined) {
      this.#host.connected(link);
      return true;
    }
    link.stream.close();
    if (this.#isStopped) return false;
    this.#lastReason = refusal;
    // Another server in place of ours will not become ours by waiting.
    if (this.#host.sessionCount() === 0) this.#giveUp(refusal);
    return false;
  }

  #timeIsUp(): void {
    this.#limit = null;
    if (this.#host.sessionCount() > 0) return;
    this.#giveUp(
      `no connection for ${this.#reconnectMs / 1000} seconds; the last reason: ${this.#lastReason}`,
    );
  }

  #giveUp(reason: string): void {
    this.#isStopped = true;
    this.#lastReason = reason;
    this.#pause?.cancel();
    this.#limit?.cancel();
    this.#abort.abort();
    this.#host.gaveUp(reason);
  }
}
