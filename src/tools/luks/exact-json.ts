// JSON whose numbers are exact: one that JavaScript would round or spell in another way (2^53 and above, `1.0`,
// `1e400`) stays the text it was, for 1.0 is no integer to other programs, and 2^64 - 1 is one.
//
// Such a number is an object with one property of a reserved name; `structuredClone` keeps it. Text is strict JSON.

/** The property of a number that is kept as its text. */
const NUMBER_KEY = '\u0000number';
const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
/** A string, or a number outside of strings. */
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

/** Throws SyntaxError unless `text` is one JSON value. */
export function parseExact(text: string): unknown {
  const plain: unknown = JSON.parse(text);
  let isPlain = true;
  const marked = text.replace(TOKENS, (token) => {
    if (token.startsWith('"') || String(Number(token)) === token) return token;
    isPlain = false;
    return JSON.stringify({ [NUMBER_KEY]: token });
  });
  return isPlain ? plain : (JSON.parse(marked) as unknown);
}

/** The JSON text of a number, or undefined for any other value. */
export function numberText(value: unknown): string | undefined {
  if (typeof value === 'number') return Number.isFinite(value) ? String(value) : undefined;
  if (typeof value !== 'object' || value === null) return undefined;
  const [pair, ...more] = Object.entries(value) as [string, unknown][];
  if (pair === undefined || more.length > 0 || pair[0] !== NUMBER_KEY) return undefined;
  return typeof pair[1] === 'string' && NUMBER.test(pair[1]) ? pair[1] : undefined;
}

/** A number without fraction and exponent, of any size; undefined for any other value. */
export function integerOf(value: unknown): bigint | undefined {
  const text = numberText(value);
  return text !== undefined && /^-?\d+$/.test(text) ? BigInt(text) : undefined;
}
