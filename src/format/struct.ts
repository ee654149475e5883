// The struct codec: a disk format is declared once, as a table of fields with explicit offsets, and the
// declaration is checked when the module loads: a gap, an overlap or a wrong total is a bug. Numbers are
// little-endian; those whose name ends in `be` are big-endian. `$decode` and `$encode` move whole structs; in loops, use one field's get and set.

import { assert, bug } from '../base/assert.ts';

const HIGH_UNIT = 4294967296;
/** Upper halves at or above this make a number that is not a safe integer. */
const HIGH_LIMIT = 0x200000;

export interface Field<T> {
  readonly offset: number;
  readonly sizeBytes: number;
  get(view: DataView, base: number): T;
  set(view: DataView, base: number, value: T): void;
}

type Fields = Readonly<Record<string, Field<unknown>>>;
export type ValuesOf<F> = { [K in keyof F]: F[K] extends Field<infer T> ? T : never };

export interface StructMethods<F> {
  readonly $name: string;
  readonly $sizeBytes: number;
  $decode(view: DataView, base: number): ValuesOf<F>;
  $encode(view: DataView, base: number, values: ValuesOf<F>): void;
}

export type Struct<F> = F & StructMethods<F>;

/**
 * The integer at `offset`; a value above 2^53 - 1 throws a RangeError, because it cannot be right.
 */
export function getU64(view: DataView, offset: number): number {
  const high = view.getUint32(offset + 4, true);
  if (high >= HIGH_LIMIT) {
    throw new RangeError(
      `u64 at byte ${offset} is 2^53 or more: ${view.getBigUint64(offset, true)}`,
    );
  }
  const low = view.getUint32(offset, true);
  // So that small ones stay integers for V8: a product of doubles is one.
  return high === 0 ? low : high * HIGH_UNIT + low;
}

export function setU64(view: DataView, offset: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) bug(`u64 field set to ${value}`);
  const high = Math.floor(value / HIGH_UNIT);
  view.setUint32(offset + 4, high, true);
  view.setUint32(offset, value - high * HIGH_UNIT, true);
}

export function u8(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 1,
    get: (view, base) => view.getUint8(base + offset),
    set: (view, base, value) => view.setUint8(base + offset, value),
  };
}

export function u16(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 2,
    get: (view, base) => view.getUint16(base + offset, true),
    set: (view, base, value) => view.setUint16(base + offset, value, true),
  };
}

export function u32(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 4,
    get: (view, base) => view.getUint32(base + offset, true),
    set: (view, base, value) => view.setUint32(base + offset, value, true),
  };
}

/** A 64-bit number that is a safe integer; reading or writing another one throws. */
export function u64(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 8,
    get: (view, base) => getU64(view, base + offset),
    set: (view, base, value) => setU64(view, base + offset, value),
  };
}

/** True 64 bits: hashes, magics. */
export function u64big(offset: number): Field<bigint> {
  return {
    offset,
    sizeBytes: 8,
    get: (view, base) => view.getBigUint64(base + offset, true),
    set: (view, base, value) => view.setBigUint64(base + offset, value, true),
  };
}

export function u16be(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 2,
    get: (view, base) => view.getUint16(base + offset),
    set: (view, base, value) => view.setUint16(base + offset, value),
  };
}

export function u32be(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 4,
    get: (view, base) => view.getUint32(base + offset),
    set: (view, base, value) => view.setUint32(base + offset, value),
  };
}

/** Like `u64`: a safe integer; reading another one throws a RangeError, writing one is a bug. */
export function u64be(offset: number): Field<number> {
  return {
    offset,
    sizeBytes: 8,
    get(view, base) {
      const value = view.getBigUint64(base + offset);
      if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
        throw new RangeError(`u64 at byte ${base + offset} is 2^53 or more: ${value}`);
      }
      return Number(value);
    },
    set(view, base, value) {
      assert(Number.isSafeInteger(value) && value >= 0, `u64 field set to ${value}`);
      view.setBigUint64(base + offset, BigInt(value));
    },
  };
}

/**
 * UTF-8 that ends with a zero byte, or with the field. A longer one is a bug; the rest is zeroed.
 */
export function text(offset: number, sizeBytes: number): Field<string> {
  const run = bytes(offset, sizeBytes);
  return {
    offset,
    sizeBytes,
    get(view, base) {
      const all = run.get(view, base);
      const end = all.indexOf(0);
      return new TextDecoder().decode(end === -1 ? all : all.subarray(0, end));
    },
    set(view, base, value) {
      const encoded = new TextEncoder().encode(value);
      assert(encoded.length < sizeBytes, `text field of ${sizeBytes} bytes set to '${value}'`);
      const all = new Uint8Array(sizeBytes);
      all.set(encoded);
      run.set(view, base, all);
    },
  };
}

/** A fixed run of bytes: identifiers, embedded structs, padding. `get` returns a copy. */
export function bytes(offset: number, sizeBytes: number): Field<Uint8Array> {
  return {
    offset,
    sizeBytes,
    get: (view, base) =>
      new Uint8Array(view.buffer, view.byteOffset + base + offset, sizeBytes).slice(),
    set(view, base, value) {
      assert(value.length === sizeBytes, `field of ${sizeBytes} bytes set to ${value.length}`);
      new Uint8Array(view.buffer, view.byteOffset + base + offset, sizeBytes).set(value);
    },
  };
}

/** Declares a format. `sizeBytes` is the whole; the fields must cover it without gap or overlap. */
export function struct<const F extends Fields>(
  name: string,
  sizeBytes: number,
  fields: F,
): Struct<F> {
  let end = 0;
  const entries = Object.entries(fields);
  for (const [field, { offset, sizeBytes }] of entries) {
    assert(
      offset === end,
      `${name}.${field} is at byte ${offset}, the field before ends at ${end}`,
    );
    end = offset + sizeBytes;
  }
  assert(end === sizeBytes, `${name} is ${sizeBytes} bytes, its fields cover ${end}`);
  const methods: StructMethods<F> = {
    $name: name,
    $sizeBytes: sizeBytes,
    $decode: (view, base) =>
      Object.fromEntries(entries.map(([k, f]) => [k, f.get(view, base)])) as ValuesOf<F>,
    $encode(view, base, values) {
      const given = values as Readonly<Record<string, unknown>>;
      for (const [key, field] of entries) field.set(view, base, given[key]);
    },
  };
  return { ...fields, ...methods };
}
