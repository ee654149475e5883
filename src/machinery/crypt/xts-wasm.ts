// XTS around a batch of ECB: the tweaks of all blocks, and the two XORs. In WebAssembly, 16 bytes a step,
// because JavaScript needs six times as long.
//
// XTS (IEEE 1619): tweak of a sector's first block = E(key 2, IV); each next block's is the last one's,
// doubled in GF(2^128); C = E(key 1, P ^ T) ^ T. Done for many sectors at once it is one long ECB.

import { instantiate, type SharedMemory } from '../../base/wasm.ts';

export interface XtsMixer {
  /**
   * For `sectors` sectors of `blocks` 16-byte blocks: writes the tweak of each block to `tweaks` and
   * source ^ tweak to `dst`. `first` holds the tweak of each sector's first block. Arena places.
   */
  mix(
    first: number,
    tweaks: number,
    src: number,
    dst: number,
    sectors: number,
    blocks: number,
  ): void;
  /** `dst` ^= `tweaks`, over `lenBytes`, a multiple of 16 above 0. */
  unmix(tweaks: number, dst: number, lenBytes: number): void;
}

// ---- just enough of an assembler ----

type Code = readonly number[];

function unsigned(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  do {
    const low = rest & 127;
    rest >>>= 7;
    out.push(rest === 0 ? low : low | 128);
  } while (rest !== 0);
  return out;
}

const code = (...parts: readonly Code[]): Code => parts.flat();

const I32 = 0x7f;
const V128 = 0x7b;
const EMPTY_BLOCK = 0x40;
const get = (local: number): Code => [0x20, ...unsigned(local)];
const set = (local: number): Code => [0x21, ...unsigned(local)];
const tee = (local: number): Code => [0x22, ...unsigned(local)];
/** One byte of signed LEB128: -64 to 63. */
const i32 = (value: number): Code => [0x41, value];
const ADD: Code = [0x6a];
const SUB: Code = [0x6b];
const simd = (op: number): Code => [0xfd, ...unsigned(op)];
const MEMORY_ARGUMENT = [4, 0] as const;
const LOAD: Code = [...simd(0), ...MEMORY_ARGUMENT];
const STORE: Code = [...simd(11), ...MEMORY_ARGUMENT];
const constant = (bytes: readonly number[]): Code => [...simd(12), ...bytes];
const shuffle = (lanes: readonly number[]): Code => [...simd(13), ...lanes];
const AND = simd(78);
const XOR = simd(81);
const SHIFT_LEFT_64 = simd(203);
const SHIFT_RIGHT_SIGNED_64 = simd(204);

/** Repeats `body` until local `count`, less `by` each time, is 0. */
function loop(count: number, by: Code, body: Code): Code {
  const again = [0x0d, 0, 0x0b];
  return code([0x03, EMPTY_BLOCK], body, get(count), by, SUB, tee(count), again);
}

const step = (local: number): Code => [...get(local), ...i32(16), ...ADD, ...set(local)];

/** Doubles a tweak: each half one bit up; the bit that falls out of one goes into the other. */
function double(tweak: number): Code {
  const swapHalves = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
  const carries = [0x87, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
  // All ones where a half's top bit is set.
  const topBits = code(get(tweak), i32(63), SHIFT_RIGHT_SIGNED_64);
  return code(
    code(get(tweak), i32(1), SHIFT_LEFT_64),
    // A shuffle takes from two vectors.
    code(topBits, topBits, shuffle(swapHalves), constant(carries), AND),
    code(XOR, set(tweak)),
  );
}

function mixBody(): Code {
  const [first, tweaks, src, dst, sectors, blocks, left, tweak] = [0, 1, 2, 3, 4, 5, 6, 7] as const;
  const block = code(
    code(get(tweaks), get(tweak), STORE),
    code(get(dst), get(src), LOAD, get(tweak), XOR, STORE),
    double(tweak),
    code(step(tweaks), step(src), step(dst)),
  );
  const sector = code(
    code(get(first), LOAD, set(tweak)),
    code(get(blocks), set(left), loop(left, i32(1), block)),
    step(first),
  );
  return loop(sectors, i32(1), sector);
}

function unmixBody(): Code {
  const [tweaks, dst, left] = [0, 1, 2] as const;
  const body = code(
    code(get(dst), get(dst), LOAD, get(tweaks), LOAD, XOR, STORE),
    code(step(tweaks), step(dst)),
  );
  return loop(left, i32(16), body);
}

const section = (id: number, bytes: Code): Code => [id, ...unsigned(bytes.length), ...bytes];
const text = (s: string): Code => [s.length, ...Array.from(s, (c) => c.charCodeAt(0))];

function functionBody(locals: Code, code: Code): Code {
  const body = [...locals, ...code, 0x0b];
  return [...unsigned(body.length), ...body];
}

const PAGES_MAX = 65536;
const MAGIC_AND_VERSION: Code = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];

function assemble(): Uint8Array {
  const parameters = (count: number): Code => [0x60, count, ...Array<number>(count).fill(I32), 0];
  return new Uint8Array([
    ...MAGIC_AND_VERSION,
    ...section(1, [2, ...parameters(6), ...parameters(3)]),
    // Imports memory.shared: shared, 0 pages or more.
    ...section(2, [1, ...text('memory'), ...text('shared'), 2, 3, 0, ...unsigned(PAGES_MAX)]),
    ...section(3, [2, 0, 1]),
    ...section(7, [2, ...text('mix'), 0, 0, ...text('unmix'), 0, 1]),
    ...section(10, [
      2,
      ...functionBody([2, 1, I32, 1, V128], mixBody()),
      ...functionBody([0], unmixBody()),
    ]),
  ]);
}

let assembled: Uint8Array | null = null;
const mixers = new WeakMap<SharedMemory, XtsMixer>();

export function xtsMixer(memory: SharedMemory): XtsMixer {
  const made = mixers.get(memory);
  if (made !== undefined) return made;
  assembled ??= assemble();
  const mixer = instantiate(assembled, memory) as XtsMixer;
  mixers.set(memory, mixer);
  return mixer;
}
