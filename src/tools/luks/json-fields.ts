// Fields of a header's JSON: each is taken by its type, or refused by its path with what was expected.

import { integerOf } from './exact-json.ts';
import { damaged } from './luks-error.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

export const U64_MAX = 2n ** 64n - 1n;
const U32_MAX = 2n ** 32n - 1n;

export function isObject(value: unknown): value is JsonObject {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    integerOf(value) === undefined
  );
}

export function wrong(path: string, expected: string): Error {
  return damaged(`${path}: expected ${expected}`);
}

export function objectIn(parent: JsonObject, key: string, path: string): JsonObject {
  const value = parent[key];
  if (Object.hasOwn(parent, key) && isObject(value)) return value;
  throw wrong(`${path}${key}`, 'an object');
}

/** Text that is not empty. */
export function textIn(parent: JsonObject, key: string, path: string): string {
  const value = parent[key];
  if (Object.hasOwn(parent, key) && typeof value === 'string' && value !== '') return value;
  throw wrong(`${path}${key}`, 'text');
}

/** An integer of 0 to 2^32 - 1. */
export function countIn(parent: JsonObject, key: string, path: string): number {
  const value = integerIn(parent, key, path);
  if (value < 0n || value > U32_MAX) throw wrong(`${path}${key}: ${value}`, 'at most 2^32 - 1');
  return Number(value);
}

export function integerIn(parent: JsonObject, key: string, path: string): bigint {
  const value = Object.hasOwn(parent, key) ? integerOf(parent[key]) : undefined;
  if (value === undefined) throw wrong(`${path}${key}`, 'an integer');
  return value;
}

export function arrayIn(parent: JsonObject, key: string, path: string): readonly string[] {
  const value = parent[key];
  if (Object.hasOwn(parent, key) && Array.isArray(value)) {
    if (value.every((item) => typeof item === 'string')) return value;
  }
  throw wrong(`${path}${key}`, 'an array of text');
}

/** Decimal text of 64 bits, digits alone. */
export function sizeIn(parent: JsonObject, key: string, path: string): bigint {
  const text = textIn(parent, key, path);
  const value = /^\d+$/.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value > U64_MAX) throw wrong(`${path}${key}: ${text}`, 'a number of 64 bits');
  return value;
}

/** As `sizeIn`, but as C reads numbers: space and a sign may be before the digits. */
export function looseSizeIn(parent: JsonObject, key: string, path: string): bigint {
  const text = textIn(parent, key, path);
  const match = /^[ \t\n\v\f\r]*([+-]?)(\d+)$/.exec(text);
  const value = match === null ? -1n : BigInt(match[2] ?? '');
  if (value < 0n || value > U64_MAX) throw wrong(`${path}${key}: ${text}`, 'a number of 64 bits');
  return match?.[1] === '-' ? BigInt.asUintN(64, -value) : value;
}

/** Pairs whose keys are digits. */
export function numbered(parent: JsonObject, path: string): [string, JsonObject][] {
  return Object.entries(parent).map(([id, value]) => {
    if (!/^\d*$/.test(id)) throw wrong(`${path}.${id}`, 'a number as its name');
    if (!isObject(value)) throw wrong(`${path}.${id}`, 'an object');
    return [id, value];
  });
}
