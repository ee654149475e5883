// Reads a socket piece by piece, on demand, so that it can be given away between two reads.
//
// A plain socket here must have a readable high-water mark of 0: Node then stops reading the
// kernel's buffer after every piece and goes on only when asked, so whatever was not read is still
// in the kernel when the descriptor is handed over. A TLS socket reads ahead; those bytes stay in
// its own buffer and go with it.

import type { Duplex } from 'node:stream';

export class SocketReader {
  readonly #socket: Duplex;
  #failure: Error | undefined;
  #isEnded = false;
  #wake: (() => void) | undefined;

  constructor(socket: Duplex) {
    this.#socket = socket;
    socket.on('readable', this.#onChange);
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onEnd);
    socket.on('error', this.#onError);
  }

  /** The next bytes; undefined at the end of the stream or when the connection was lost. */
  async read(): Promise<Uint8Array | undefined> {
    for (;;) {
      if (this.#isEnded) return undefined;
      const bytes = this.#socket.read() as Buffer | null;
      if (bytes !== null) return bytes;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Resolves when the bytes have been handed to the kernel; false when the connection was lost. */
  write(bytes: Uint8Array): Promise<boolean> {
    if (this.#isEnded || bytes.length === 0) return Promise.resolve(!this.#isEnded);
    return new Promise((resolve) => {
      this.#socket.write(bytes, (error) => resolve(error === null || error === undefined));
    });
  }

  /** Why the connection was lost, where there is a reason. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** Takes every listener off and leaves the socket paused. No read may be waiting. */
  async detach(): Promise<void> {
    this.#socket.off('readable', this.#onChange);
    // Node notes in the next tick that nobody waits for 'readable' any more; a pause before would
    // be undone by that.
    await new Promise<void>((resolve) => process.nextTick(resolve));
    this.#socket.pause();
    this.#socket.off('end', this.#onEnd);
    this.#socket.off('close', this.#onEnd);
    this.#socket.off('error', this.#onError);
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
    this.#isEnded = true;
    this.#onChange();
  };
}
