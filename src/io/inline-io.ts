// File I/O done in the calling thread, where that is cheaper than handing it over and never waits for a
// disk: reads that the page cache can answer, small writes into it.

import { Status } from '../base/status.ts';
import { type Arena, NONE } from './arena.ts';
import type { IoFile } from './engine.ts';
import { errno, preadAt, pwriteAt, syscall6 } from './posix.ts';

const SYS_PREADV2 = process.arch === 'arm64' ? 286 : 327;
const RWF_NOWAIT = 8;
/** Larger I/O is worth a hop, and would keep everybody else waiting. */
const BYTES_MAX = 65536;
/** Most bytes done inline in one batch. */
const BATCH_BYTES_MAX = 1 << 20;

export class InlineIo {
  readonly #arena: Arena;
  /** An iovec (16 bytes). */
  readonly #iov: number;
  readonly #canNowait = process.platform === 'linux';
  #left = BATCH_BYTES_MAX;
  #isResetting = false;

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#iov = arena.tryAlloc(16);
  }

  /** A new batch: the budget starts over. */
  beginBatch(): void {
    this.#left = BATCH_BYTES_MAX;
  }

  #hasRoom(lenBytes: number): boolean {
    if (lenBytes <= this.#left) return true;
    // Callers without batches get a new budget with the next turn of the event loop.
    if (!this.#isResetting) {
      this.#isResetting = true;
      setImmediate(() => {
        this.#isResetting = false;
        this.beginBatch();
      });
    }
    return false;
  }

  /** Bytes, a negative errno, or -EAGAIN: not inline. */
  tryRead(file: IoFile, offBytes: number, mem: number, lenBytes: number): number {
    if (file.isDirect || lenBytes > BYTES_MAX || !this.#hasRoom(lenBytes)) return -Status.Again;
    const address = this.#arena.address + mem;
    this.#left -= lenBytes;
    if (file.isMemory) {
      const result = preadAt(file.fd, address, lenBytes, offBytes);
      return result >= 0 ? result : -errno();
    }
    if (!this.#canNowait || this.#iov === NONE) return -Status.Again;
    const { i32 } = this.#arena;
    const at = this.#iov >> 2;
    i32[at] = address;
    i32[at + 1] = address / 4294967296;
    i32[at + 2] = lenBytes;
    i32[at + 3] = 0;
    const iov = this.#arena.address + this.#iov;
    // The offset is split in two on 32-bit systems only; the high word is ignored on 64-bit ones.
    const result = syscall6(SYS_PREADV2, file.fd, iov, 1, offBytes, 0, RWF_NOWAIT);
    // A part of the range cached, or a file system without NOWAIT: the long way does it whole.
    return result === lenBytes ? result : -Status.Again;
  }

  tryWrite(file: IoFile, offBytes: number, mem: number, lenBytes: number): number {
    if (file.isDirect || lenBytes > BYTES_MAX || !this.#hasRoom(lenBytes)) return -Status.Again;
    this.#left -= lenBytes;
    const result = pwriteAt(file.fd, this.#arena.address + mem, lenBytes, offBytes);
    return result >= 0 ? result : -errno();
  }
}
