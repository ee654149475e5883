// Data to compress, as storage has it: repeats near and far, runs, text, random bytes and zeroes,
// mixed; and a piece of shared memory in which every range has guards.

import assert from 'node:assert/strict';
import type { Prng } from '../base/prng.ts';
import { allocateShared, type SharedMemory } from '../base/wasm.ts';

const PAGE_BYTES = 65536;
const PIECE_BYTES_MAX = 600;
const WORDS = 'a block of the device is what the table says it is, and no more than that. '.split(
  ' ',
);

type Piece = (prng: Prng, data: Uint8Array, at: number, len: number) => void;

const PIECES: readonly Piece[] = [
  // What was there before, near or far.
  (prng, data, at, len) => {
    const distance = prng.between(1, Math.max(1, prng.chance(0.5) ? Math.min(at, 40) : at));
    for (let i = at; i < at + len; i++) data[i] = at === 0 ? 7 : (data[i - distance] as number);
  },
  (prng, data, at, len) => data.fill(prng.below(256), at, at + len),
  (_prng, data, at, len) => data.fill(0, at, at + len),
  (prng, data, at, len) => prng.fill(data.subarray(at, at + len)),
  (prng, data, at, len) => {
    let text = '';
    while (text.length < len) text += `${prng.pick(WORDS)} `;
    data.set(Buffer.from(text.slice(0, len), 'latin1'), at);
  },
  // Records that count up.
  (prng, data, at, len) => {
    const record = prng.between(4, 48);
    for (let i = 0; i < len; i++) {
      data[at + i] = i % record === 0 ? Math.floor(i / record) : (i % record) * 5;
    }
  },
];

/** Of one kind throughout now and then, mixed as a rule. */
export function sampleData(prng: Prng, lenBytes: number): Uint8Array {
  const data = new Uint8Array(lenBytes);
  const only = prng.chance(0.3) ? prng.pick(PIECES) : null;
  const longest = prng.chance(0.2) ? lenBytes : PIECE_BYTES_MAX;
  for (let at = 0; at < lenBytes; ) {
    const len = Math.min(prng.between(1, longest), lenBytes - at);
    (only ?? prng.pick(PIECES))(prng, data, at, len);
    at += len;
  }
  return data;
}

const GUARD_BYTES = 64;
const GUARD = 0xa5;
const isGuard = (value: number): boolean => value === GUARD;

/**
 * Shared memory for a codec's two ranges. What is taken with `atEnd` ends where the memory ends:
 * behind it are addresses without memory, so even a read beyond it ends the process.
 */
export class CodecMemory {
  readonly memory: SharedMemory;
  readonly u8: Uint8Array;
  readonly #half: number;

  /** Each of the two halves has `halfBytes`, guards included. */
  constructor(halfBytes: number) {
    this.#half = Math.ceil(halfBytes / PAGE_BYTES) * PAGE_BYTES;
    this.memory = allocateShared(this.#half * 2);
    this.u8 = new Uint8Array(this.memory.buffer);
  }

  /**
   * A range of the lower half that begins `skew` bytes behind a multiple of 64, with guards
   * around.
   */
  low(lenBytes: number, skew = 0): Range {
    return new Range(this.u8, GUARD_BYTES * 2 + skew, lenBytes, GUARD_BYTES);
  }

  atEnd(lenBytes: number): Range {
    return new Range(this.u8, this.#half * 2 - lenBytes, lenBytes, 0);
  }
}

export class Range {
  readonly at: number;
  readonly lenBytes: number;
  readonly #u8: Uint8Array;
  readonly #behind: number;

  constructor(u8: Uint8Array, at: number, lenBytes: number, behind: number) {
    this.#u8 = u8;
    this.at = at;
    this.lenBytes = lenBytes;
    this.#behind = behind;
    u8.fill(GUARD, at - GUARD_BYTES, at + lenBytes + behind);
  }

  set(data: Uint8Array): this {
    this.#u8.set(data, this.at);
    return this;
  }

  /** A copy of the first `lenBytes`. */
  get(lenBytes: number): Buffer {
    return Buffer.from(this.#u8.subarray(this.at, this.at + lenBytes));
  }

  /** Fails when anything around the range has changed. */
  check(what: string): void {
    const end = this.at + this.lenBytes;
    const before = this.#u8.subarray(this.at - GUARD_BYTES, this.at);
    assert.ok(before.every(isGuard), `${what}: bytes before the range changed`);
    const behind = this.#u8.subarray(end, end + this.#behind);
    assert.ok(behind.every(isGuard), `${what}: bytes behind the range changed`);
  }
}
