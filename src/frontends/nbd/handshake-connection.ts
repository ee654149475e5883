// One connection from its acceptance to the end of its handshake: carries bytes between the socket
// and the state machine, switches to TLS, and hands the socket to transmission. Reads only when the
// state machine asks, so a client's backlog stays in the kernel, bounded.
//
// A timer bounds the whole handshake. The socket ends in one of two ways: given to transmission,
// paused, without listeners of ours, nothing read from it that is not passed along; or destroyed.

import type { Socket } from 'node:net';
import { assert } from '../../base/assert.ts';
import { errorText } from '../../base/errors.ts';
import { opensslText } from '../../base/system-error.ts';
import type { Clock, Timer } from '../../base/clock.ts';
import type { ExportLookup } from '../../exports/control.ts';
import type { Negotiated } from './negotiated.ts';
import type { Step } from './handshake-step.ts';
import { Handshake } from './handshake.ts';
import { SocketReader } from './socket-reader.ts';
import type { TlsServer } from './tls.ts';

export interface HandshakeOptions {
  readonly catalog: ExportLookup;
  /** Gives the socket to transmission. */
  readonly handOver: (socket: Socket, negotiated: Negotiated, rest: Uint8Array) => Promise<void>;
  readonly tls: TlsServer | undefined;
  readonly clock: Clock;
  readonly handshakeMs: number;
  /** For logs: `unix:3` or `127.0.0.1:40312`. */
  readonly peer: string;
  readonly log: (line: string) => void;
}

type End = Exclude<Step, { kind: 'input' } | { kind: 'reply' } | { kind: 'starttls' }>;

export class HandshakeConnection {
  readonly #options: HandshakeOptions;
  readonly #handshake: Handshake;
  readonly #plain: Socket;
  #socket: Socket;
  #reader: SocketReader;
  #timer: Timer | undefined;
  #isHandedOver = false;
  /** Resolves when the connection is closed, by whomever. */
  readonly #gone: Promise<undefined>;

  constructor(socket: Socket, options: HandshakeOptions) {
    this.#options = options;
    this.#plain = socket;
    this.#socket = socket;
    this.#reader = new SocketReader(socket);
    this.#gone = new Promise((resolve) => socket.once('close', () => resolve(undefined)));
    this.#handshake = new Handshake(options.catalog, {
      tls: options.tls?.mode ?? 'off',
      peer: options.peer,
      onLookupFailure: (error) => this.#log(`looking an export up failed: ${errorText(error)}`),
    });
  }

  /** Resolves when transmission has the connection, or it is gone. No client can make it reject. */
  async run(): Promise<void> {
    const { clock, handshakeMs } = this.#options;
    this.#timer = clock.after(handshakeMs, () => {
      this.#drop(`the handshake took more than ${handshakeMs / 1000} s`);
    });
    try {
      const end = await this.#negotiate();
      if (end !== undefined) await this.#finish(end);
    } finally {
      this.#timer.cancel();
    }
  }

  /** Refuses whatever the client still asks for, and closes after `graceMs`. */
  shutDown(graceMs: number): void {
    // A connection that is being handed over is transmission's to end.
    if (this.#isHandedOver) return;
    this.#handshake.shutDown();
    this.#timer?.cancel();
    this.#timer = this.#options.clock.after(graceMs, () => this.#destroy());
  }

  /** Undefined: the connection was lost. */
  async #negotiate(): Promise<End | undefined> {
    if (!(await this.#reader.write(this.#handshake.greeting()))) return this.#lost();
    for (;;) {
      // A lookup may never end; the connection's end, by the timer too, ends the wait for it.
      const step = await Promise.race([this.#handshake.next(), this.#gone]);
      if (step === undefined) return this.#lost();
      if (step.kind === 'input') {
        const bytes = await this.#reader.read();
        if (bytes === undefined) return this.#lost();
        this.#handshake.feed(bytes);
        continue;
      }
      if (step.kind === 'fatal') return step;
      const isSent = await this.#reader.write(step.send);
      // A client may close behind its ABORT without waiting for the answer: no loss.
      if (step.kind === 'abort') return step;
      if (!isSent) return this.#lost();
      if (step.kind === 'starttls') {
        if (!(await this.#startTls())) return undefined;
      } else if (step.kind !== 'reply') return step;
    }
  }

  async #finish(end: End): Promise<void> {
    if (end.kind === 'fatal') {
      this.#drop(end.why);
      return;
    }
    if (end.kind === 'abort') {
      this.#socket.destroySoon();
      await this.#gone;
      return;
    }
    this.#isHandedOver = true;
    this.#timer?.cancel();
    await this.#reader.detach();
    try {
      await this.#options.handOver(this.#socket, end.negotiated, end.rest);
    } catch (error) {
      // A client may be gone before the data plane has its connection.
      if (this.#socket.destroyed) this.#destroy();
      else this.#drop(`transmission did not begin: ${errorText(error)}`);
    }
  }

  async #startTls(): Promise<boolean> {
    const { tls } = this.#options;
    assert(tls !== undefined, 'nbd handshake: TLS began on a server without TLS');
    await this.#reader.detach();
    const early = this.#plain.readableLength;
    if (early > 0) {
      this.#drop(`${early} bytes of plain text behind STARTTLS`);
      return false;
    }
    try {
      this.#socket = await tls.accept(this.#plain);
    } catch (error) {
      if (!isGone(error)) this.#log(`TLS: ${tlsReason(error)}`);
      return false;
    }
    this.#reader = new SocketReader(this.#socket);
    return true;
  }

  #lost(): undefined {
    const { failure } = this.#reader;
    if (failure !== undefined && !isGone(failure)) this.#log(failure.message);
    this.#destroy();
    return undefined;
  }

  #drop(why: string): void {
    this.#log(`closed: ${why}`);
    this.#destroy();
  }

  #destroy(): void {
    this.#socket.destroy();
    this.#plain.destroy();
  }

  #log(line: string): void {
    this.#options.log(`nbd ${this.#options.peer}: ${line}`);
  }
}

/** A client went away: nothing that an operator must know. */
function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ECONNRESET' || code === 'EPIPE';
}

/** What OpenSSL says went wrong, where there is such a word, in place of its line of numbers. */
function tlsReason(error: unknown): string {
  const { reason } = error as { readonly reason?: unknown };
  return typeof reason === 'string' && reason !== '' ? opensslText(reason) : errorText(error);
}
