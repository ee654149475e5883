// I/O context: on whose account a bio runs.
//
// Every bio has one. The bio that starts an I/O (a front end's, or a journal's own) takes a reference; a
// clone borrows its source's, which is legal because a clone ends before its source. What may outlive
// the bio it came from (metadata, copies, checksum work) must take a reference of its own.

import { bug } from '../base/assert.ts';
import type { Op } from './bio.ts';

export interface IoContextOptions {
  readonly name: string;
  /** Scheduling priority as in ionice: class (0 none, 1 real-time, 2 best-effort, 3 idle) << 13 | level. */
  readonly ioprio?: number;
}

/** The class of a priority. */
const REALTIME = 1;

export class IoContext {
  readonly name: string;
  readonly ioprio: number;
  /** Work for it goes before that for others. */
  readonly isRealtime: boolean;
  /** Bios ended so far and their bytes, indexed by Op. */
  readonly ios: Float64Array = new Float64Array(5);
  readonly bytes: Float64Array = new Float64Array(5);
  #refs = 1;

  constructor(options: IoContextOptions) {
    this.name = options.name;
    this.ioprio = options.ioprio ?? 0;
    this.isRealtime = this.ioprio >> 13 === REALTIME;
  }

  get refs(): number {
    return this.#refs;
  }

  get(): this {
    if (this.#refs <= 0) bug(`io context ${this.name}: reference taken after the last was dropped`);
    this.#refs++;
    return this;
  }

  put(): void {
    if (this.#refs <= 0) bug(`io context ${this.name}: more references dropped than taken`);
    this.#refs--;
  }

  charge(op: Op, bytes: number): void {
    (this.ios[op] as number)++;
    this.bytes[op] = (this.bytes[op] as number) + bytes;
  }
}

/** I/O that the program does for itself, on nobody's account. */
export const systemContext = new IoContext({ name: 'system' });
