// A seeded pseudo-random generator (xoshiro128**, Blackman and Vigna, public domain): the same seed
// gives the same numbers everywhere, which is what makes a failing test repeatable.

export class Prng {
  #a: number;
  #b: number;
  #c: number;
  #d: number;

  constructor(seed: number) {
    // splitmix32 spreads a small seed over the state; an all-zero state would stay zero.
    let s = seed >>> 0;
    const next = (): number => {
      s = (s + 0x9e3779b9) >>> 0;
      let z = s;
      z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
      z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
      return (z ^ (z >>> 16)) >>> 0;
    };
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#d = next() | 1;
  }

  /** Uniform in 0 .. 2^32-1. */
  u32(): number {
    const r = Math.imul(this.#b, 5);
    const result = Math.imul((r << 7) | (r >>> 25), 9) >>> 0;
    const t = this.#b << 9;
    this.#c ^= this.#a;
    this.#d ^= this.#b;
    this.#b ^= this.#c;
    this.#a ^= this.#d;
    this.#c ^= t;
    this.#d = (this.#d << 11) | (this.#d >>> 21);
    return result;
  }

  /** Uniform in 0 .. 1, 1 excluded. */
  unit(): number {
    return this.u32() / 4294967296;
  }

  /** Uniform integer in 0 .. n-1 (n below 2^53). */
  below(n: number): number {
    if (n <= 4294967296) return Math.floor(this.unit() * n);
    return Math.floor(((this.u32() >>> 11) * 4294967296 + this.u32()) / (9007199254740992 / n));
  }

  /** Uniform integer in low .. high, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  chance(probability: number): boolean {
    return this.unit() < probability;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.u32();
  }
}
