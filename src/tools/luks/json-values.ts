// Values of a header's JSON in words, as cryptsetup's library converts them: a field of a wrong kind has a meaning
// there, too, and is printed.

import { numberText } from './exact-json.ts';

const I64_MAX = 2n ** 63n - 1n;
const U64_MAX = 2n ** 64n - 1n;

/** Text as it is; anything else as JSON with spaces; what is missing as C prints it. */
export function spaced(value: unknown): string {
  if (typeof value === 'string') return value;
  if (value === undefined || value === null) return '(null)';
  return inner(value);
}

function inner(value: unknown): string {
  const number = numberText(value);
  if (number !== undefined) return number;
  if (typeof value === 'string') return JSON.stringify(value).replaceAll('/', '\\/');
  if (typeof value !== 'object' || value === null) return String(value);
  const isArray = Array.isArray(value);
  const items = isArray
    ? value.map(inner)
    : Object.entries(value).map(([key, item]) => `${inner(key)}: ${inner(item)}`);
  const [open, close] = isArray ? ['[', ']'] : ['{', '}'];
  return items.length === 0 ? `${open} ${close}` : `${open} ${items.join(', ')} ${close}`;
}

/** A signed number of 64 bits, cut off at its ends. */
function signed64(value: unknown): bigint {
  if (typeof value === 'boolean') return value ? 1n : 0n;
  const text = typeof value === 'string' ? value.trimStart() : numberText(value);
  const digits = /^[+-]?\d+/.exec(text ?? '')?.[0] ?? '0';
  const whole =
    text === undefined || /[.eE]/.test(text) ? BigInt(Math.trunc(clamp(text))) : BigInt(digits);
  return whole > I64_MAX ? I64_MAX : whole < -I64_MAX - 1n ? -I64_MAX - 1n : whole;
}

function clamp(text: string | undefined): number {
  const value = Number(text ?? 0);
  if (Number.isNaN(value)) return 0;
  return Math.max(-(2 ** 63), Math.min(2 ** 63, value));
}

/** 64 bits, printed without a sign. */
export function int64(value: unknown): bigint {
  return BigInt.asUintN(64, signed64(value));
}

/** 64 bits read from the text of an integer; 0 where there are more. */
export function uint64(value: unknown): bigint {
  const text = typeof value === 'string' ? value : (numberText(value) ?? '');
  const match = /^([+-]?)(\d+)$/.exec(text);
  const digits = BigInt(match?.[2] ?? 0);
  if (digits > U64_MAX) return 0n;
  return BigInt.asUintN(64, match?.[1] === '-' ? -digits : digits);
}

/** The lower 32 bits. */
export function uint32(value: unknown): number {
  return Number(BigInt.asUintN(32, signed64(value)));
}

/** A signed number of 32 bits, cut off at its ends. */
export function int32(value: unknown): number {
  const wide = signed64(value);
  const most = 2n ** 31n - 1n;
  return Number(wide > most ? most : wide < -most - 1n ? -most - 1n : wide);
}

const PADDING = /={1,2}$/;

/** The bytes of base64 with its padding; undefined if it is none. Space between is skipped. */
export function decodeBase64(text: string): Buffer | undefined {
  const dense = text.replaceAll(/[ \t\n\r]/g, '');
  if (dense.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(dense)) return undefined;
  if (PADDING.test(dense) && !PADDING.test(text)) return undefined;
  const data = Buffer.from(dense, 'base64');
  // Bits behind the last byte must be zero.
  return data.toString('base64') === dense ? data : undefined;
}
