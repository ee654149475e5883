// Key material in memory of its own: locked (never swapped) where the limits allow it, left out of core
// dumps, wiped when it goes. Strings cannot be wiped, so keys are turned into bytes as early as possible.

import { assert } from '../../base/assert.ts';
import { MADV_DONTDUMP, madvise, mapAddress, mlock, mmap, munmap } from '../../io/posix.ts';

const PAGE_BYTES = 4096;
const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;

export class Secret {
  readonly lenBytes: number;
  #address: number;
  #bytes: Uint8Array;

  /** Takes a copy of `bytes` and wipes them. */
  constructor(bytes: Uint8Array) {
    this.lenBytes = bytes.length;
    const mapped = Math.max(1, Math.ceil(bytes.length / PAGE_BYTES)) * PAGE_BYTES;
    this.#address = mmap(0, mapped, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    assert(this.#address > 0, `secret: no memory for ${mapped} bytes`);
    // Refused above RLIMIT_MEMLOCK: then it may be swapped, as all else.
    mlock(this.#address, mapped);
    madvise(this.#address, mapped, MADV_DONTDUMP);
    this.#bytes = new Uint8Array(mapAddress(this.#address, mapped));
    this.#bytes.set(bytes);
    bytes.fill(0);
  }

  /** The bytes themselves: look, do not keep. */
  get bytes(): Uint8Array {
    assert(this.#address !== 0, 'secret: used after it was wiped');
    return this.#bytes.subarray(0, this.lenBytes);
  }

  wipe(): void {
    if (this.#address === 0) return;
    const mapped = this.#bytes.length;
    this.#bytes.fill(0);
    this.#bytes = new Uint8Array(0);
    munmap(this.#address, mapped);
    this.#address = 0;
  }
}
