// File I/O done in the calling thread, where that is cheaper than handing it over and does not wait
// for a disk: reads that the page cache can answer, small writes of whole pages into it.

import type { Arena } from './arena.ts';
import { Status } from '../base/status.ts';
import type { IoFile } from './engine.ts';
import { addressOf, errno, preadAt, pwriteAt, syscall6 } from './posix.ts';

const SYS_PREADV2 = process.arch === 'arm64' ? 286 : 327;
const RWF_NOWAIT = 8;
/** Larger I/O is worth a hop, and would keep everybody else waiting. */
const BYTES_MAX = 65536;
/** Most bytes done inline in one batch. */
const BATCH_BYTES_MAX = 1 << 20;
const PAGE_BYTES = 4096;

export class InlineIo {
  readonly #arenaAddress: number;
  /** The one struct iovec of the reads: address and length, 64 bits each. */
  readonly #iov = new Int32Array(4);
  readonly #iovAddress: number;
  readonly #canNowait = process.platform === 'linux';
  #left = BATCH_BYTES_MAX;
  #isResetting = false;

  constructor(arena: Arena) {
    this.#arenaAddress = arena.address;
    this.#iovAddress = addressOf(this.#iov);
  }

  /** A new batch: the budget starts over. */
  beginBatch(): void {
    this.#left = BATCH_BYTES_MAX;
  }

  /** Bytes read (fewer at the end of the file), a negative errno, or -EAGAIN: not inline. */
  tryRead(file: IoFile, offBytes: number, mem: number, lenBytes: number): number {
    if (file.isDirect || lenBytes > BYTES_MAX || !this.#hasRoom(lenBytes)) return -Status.Again;
    const address = this.#arenaAddress + mem;
    if (file.isMemory) {
      this.#left -= lenBytes;
      const result = preadAt(file.fd, address, lenBytes, offBytes);
      return result >= 0 ? result : -errno();
    }
    if (!this.#canNowait) return -Status.Again;
    const iov = this.#iov;
    iov[0] = address;
    iov[1] = address / 4294967296;
    iov[2] = lenBytes;
    // The offset is one word on 64-bit systems; the second is ignored there.
    const result = syscall6(SYS_PREADV2, file.fd, this.#iovAddress, 1, offBytes, 0, RWF_NOWAIT);
    // Only a part cached, the end of the file, an error, a file system without NOWAIT: the long way
    // does it whole and says what is wrong.
    if (result !== lenBytes) return -Status.Again;
    this.#left -= lenBytes;
    return result;
  }

  /** Bytes written, a negative errno, or -EAGAIN: not inline. */
  tryWrite(file: IoFile, offBytes: number, mem: number, lenBytes: number): number {
    if (file.isDirect || lenBytes > BYTES_MAX || !this.#hasRoom(lenBytes)) return -Status.Again;
    // A part of a page that is not cached would be read from the disk first.
    const isWhole = offBytes % PAGE_BYTES === 0 && lenBytes % PAGE_BYTES === 0;
    if (!isWhole && !file.isMemory) return -Status.Again;
    this.#left -= lenBytes;
    const result = pwriteAt(file.fd, this.#arenaAddress + mem, lenBytes, offBytes);
    return result >= 0 ? result : -errno();
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
}
