// What is outstanding on a stream of the node engine: at most one receive and one send, each ended
// once.

import { assert } from '../base/assert.ts';
import type { IoDone } from './engine.ts';

export class PendingRecv {
  #done: IoDone | null = null;
  #arg: object | null = null;
  #mem = 0;
  #lenBytes = 0;
  #isAll = false;
  filledBytes = 0;

  begin(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    assert(this.#done === null, 'stream: two receives at a time');
    this.#done = done;
    this.#arg = arg;
    this.#mem = mem;
    this.#lenBytes = lenBytes;
    this.#isAll = waitAll;
    this.filledBytes = 0;
  }

  get isPending(): boolean {
    return this.#done !== null;
  }

  /** Where the next byte goes. */
  get mem(): number {
    return this.#mem + this.filledBytes;
  }

  /** Bytes there is still room for. */
  get roomBytes(): number {
    return this.#lenBytes - this.filledBytes;
  }

  /** True when the receive may end with what it has. */
  get isEnough(): boolean {
    return this.roomBytes === 0 || (this.filledBytes > 0 && !this.#isAll);
  }

  end(result: number): void {
    const done = this.#done;
    if (done === null) return;
    const arg = this.#arg as object;
    this.#done = null;
    this.#arg = null;
    done.ioDone(arg, result);
  }

  /**
   * Bytes that came before the failure count, as they do in the kernel; the next receive gets the
   * error.
   */
  fail(failure: number): void {
    this.end(this.filledBytes > 0 ? this.filledBytes : failure);
  }
}

export class PendingSend {
  #done: IoDone | null = null;
  #arg: object | null = null;
  lenBytes = 0;

  begin(lenBytes: number, done: IoDone, arg: object): void {
    assert(this.#done === null, 'stream: two sends at a time');
    this.#done = done;
    this.#arg = arg;
    this.lenBytes = lenBytes;
  }

  end(result: number): void {
    const done = this.#done;
    if (done === null) return;
    const arg = this.#arg as object;
    this.#done = null;
    this.#arg = null;
    done.ioDone(arg, result);
  }
}
