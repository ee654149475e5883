// A socket during the handshake: exact reads, whole writes. A plain socket must have a readable
// high-water mark of 0: Node then reads only when asked, so what was not asked for is still in the
// kernel when the socket is given to TLS or to an engine.

import type { Duplex } from 'node:stream';
import { DmError, errorText } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';

export class HandshakeSocket {
  readonly duplex: Duplex;
  #unread: Buffer = Buffer.alloc(0);
  #failure: Error | undefined;
  #isEnded = false;
  #wake: (() => void) | undefined;

  constructor(duplex: Duplex) {
    this.duplex = duplex;
    duplex.on('readable', this.#onChange);
    duplex.on('end', this.#onEnd);
    duplex.on('close', this.#onEnd);
    duplex.on('error', this.#onError);
  }

  /** Exactly so many bytes of `what`. Throws DmError when the connection ends before. */
  async read(lenBytes: number, what: string): Promise<Buffer> {
    while (this.#unread.length < lenBytes) {
      // Without a count: a count would raise the stream's mark, and Node would read ahead.
      const chunk = this.duplex.read() as Buffer | null;
      if (chunk !== null) this.#unread = Buffer.concat([this.#unread, chunk]);
      else if (this.#isEnded) throw this.#ended(`${this.#unread.length} of ${lenBytes}`, what);
      else await this.#change();
    }
    const bytes = this.#unread.subarray(0, lenBytes);
    this.#unread = this.#unread.subarray(lenBytes);
    return bytes;
  }

  async write(bytes: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.duplex.write(bytes, (error) => {
        if (error === null || error === undefined) resolve();
        else {
          const text = `connection lost: ${errorText(error)}`;
          reject(new DmError(statusOfError(error), text, { cause: error }));
        }
      });
    });
  }

  /** Bytes that have come and that nobody has asked for. */
  get unreadBytes(): number {
    return this.#unread.length + this.duplex.readableLength;
  }

  /**
   * Leaves the socket paused and without listeners, except one that keeps its errors from being
   * thrown.
   */
  async detach(): Promise<void> {
    this.duplex.off('readable', this.#onChange);
    // Node notes in the next tick that nobody waits for 'readable' any more; a pause before would
    // be undone by that.
    await new Promise<void>((resolve) => process.nextTick(resolve));
    this.duplex.pause();
    this.duplex.off('end', this.#onEnd);
    this.duplex.off('close', this.#onEnd);
    this.duplex.off('error', this.#onError);
    this.duplex.on('error', ignore);
    if (this.#isEnded) throw this.#ended('0', 'transmission');
  }

  #ended(count: string, what: string): DmError {
    const cause = this.#failure;
    const found = `connection lost after ${count} bytes of ${what}`;
    if (cause === undefined) return new DmError(Status.Io, `${found}: the server closed it`);
    return new DmError(statusOfError(cause), `${found}: ${cause.message}`, { cause });
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  readonly #onChange = (): void => {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  };

  readonly #onEnd = (): void => {
    this.#isEnded = true;
    this.#onChange();
  };

  readonly #onError = (error: Error): void => {
    this.#failure = error;
    this.#onEnd();
  };
}

/** Whoever has the socket next sees its end. */
function ignore(): void {}
