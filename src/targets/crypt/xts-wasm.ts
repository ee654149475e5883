// XTS around a batch of ECB: the tweaks of all blocks, and the two XORs. In WebAssembly, 16 bytes a step,
// because JavaScript needs six times as long.
//
// XTS (IEEE 1619): tweak of a sector's first block = E(key 2, IV); each next block's is the last one's,
// doubled in GF(2^128); C = E(key 1, P ^ T) ^ T. Done for many sectors at once it is one long ECB.

import { instantiate, type SharedMemory } from '../../base/wasm.ts';

export interface XtsMixer {
  /**
   * For `sectors` sectors: writes the tweak of each 16-byte block to `tweaks` and source ^ tweak to
   * `dst`. `first` holds the tweak of each sector's first block. Arena places.
   */
  mix(first: number, tweaks: number, src: number, dst: number, sectors: number): void;
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
/** Any constant that is not negative. */
const large = (value: number): Code => {
  const bytes = unsigned(value);
  // The top bit of the last group is the sign.
  const last = bytes.pop() as number;
  return [0x41, ...bytes, ...(last < 64 ? [last] : [last | 128, 0])];
};
const ADD: Code = [0x6a];
const SUB: Code = [0x6b];
const LESS_UNSIGNED: Code = [0x49];
const simd = (op: number): Code => [0xfd, ...unsigned(op)];
/** At the address on the stack plus `offset`; the 4 says aligned to 16 bytes. */
const load = (offset = 0): Code => [...simd(0), 4, ...unsigned(offset)];
const store = (offset = 0): Code => [...simd(11), 4, ...unsigned(offset)];
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

// Locals of `mix`: its parameters, then its own.
const FIRST = 0;
const TWEAKS = 1;
const SRC = 2;
const DST = 3;
const SECTORS = 4;
const LEFT = 5;
/** The tweaks of the sectors that are done side by side. */
const LANES = [6, 7, 8, 9] as const;

/** One block of each lane: lane i is i sectors further on. */
function mixBlocks(lanes: readonly number[], sectorBytes: number): Code {
  const blocks = lanes.map((tweak, lane) => {
    const offset = lane * sectorBytes;
    return code(
      code(get(TWEAKS), get(tweak), store(offset)),
      code(get(DST), get(SRC), load(offset), get(tweak), XOR, store(offset)),
      double(tweak),
    );
  });
  return code(...blocks, step(TWEAKS), step(SRC), step(DST));
}

/**
 * While there are so many sectors left: takes as many at once as there are lanes. A tweak
 * depends on the one before it, so one sector at a time leaves the processor waiting.
 */
function mixLanes(lanes: readonly number[], sectorBytes: number): Code {
  const count = i32(lanes.length);
  const begin = lanes.map((tweak) => code(get(FIRST), load(), set(tweak), step(FIRST)));
  const others = large((lanes.length - 1) * sectorBytes);
  const skip = [TWEAKS, SRC, DST].map((base) => code(get(base), others, ADD, set(base)));
  const sectors = code(
    code(...begin, large(sectorBytes / 16), set(LEFT)),
    loop(LEFT, i32(1), mixBlocks(lanes, sectorBytes)),
    code(...skip, get(SECTORS), count, SUB, set(SECTORS)),
  );
  // block { loop { if fewer are left: leave; ...; again } }
  const leave = code(get(SECTORS), count, LESS_UNSIGNED, [0x0d, 1]);
  return code([0x02, EMPTY_BLOCK, 0x03, EMPTY_BLOCK], leave, sectors, [0x0c, 0, 0x0b, 0x0b]);
}

function unmixBody(): Code {
  const [tweaks, dst, left] = [0, 1, 2] as const;
  const body = code(
    code(get(dst), get(dst), load(), get(tweaks), load(), XOR, store()),
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

function assemble(sectorBytes: number): Uint8Array {
  const mix = code(mixLanes(LANES, sectorBytes), mixLanes(LANES.slice(0, 1), sectorBytes));
  const parameters = (count: number): Code => [0x60, count, ...Array<number>(count).fill(I32), 0];
  return new Uint8Array([
    ...MAGIC_AND_VERSION,
    ...section(1, [2, ...parameters(5), ...parameters(3)]),
    // Imports memory.shared: shared, 0 pages or more.
    ...section(2, [1, ...text('memory'), ...text('shared'), 2, 3, 0, ...unsigned(PAGES_MAX)]),
    ...section(3, [2, 0, 1]),
    ...section(7, [2, ...text('mix'), 0, 0, ...text('unmix'), 0, 1]),
    ...section(10, [
      2,
      ...functionBody([2, 1, I32, LANES.length, V128], mix),
      ...functionBody([0], unmixBody()),
    ]),
  ]);
}

const mixers = new WeakMap<SharedMemory, Map<number, XtsMixer>>();

/** The mixer for sectors of this size, made once a memory and thread. */
export function xtsMixer(memory: SharedMemory, sectorBytes: number): XtsMixer {
  let sizes = mixers.get(memory);
  if (sizes === undefined) mixers.set(memory, (sizes = new Map<number, XtsMixer>()));
  let mixer = sizes.get(sectorBytes);
  if (mixer === undefined) {
    mixer = instantiate(assemble(sectorBytes), memory) as XtsMixer;
    sizes.set(sectorBytes, mixer);
  }
  return mixer;
}
