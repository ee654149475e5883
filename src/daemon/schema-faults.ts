// What a schema did not like, in words: the field, what was expected, what was found, and which field may have
// been meant.

import type { z } from 'zod';

/** Characters of a value shown in an error. */
const SHOWN_MAX = 40;

export interface SchemaFault {
  /** Of the field that is wrong; of the object, where a field is one that there is not. */
  readonly path: readonly PropertyKey[];
  /** Where that is in what was checked; for what is missing, where it should be. */
  readonly at: readonly PropertyKey[];
  readonly text: string;
}

/**
 * What to tell of, the main thing first: a field that there is not is mostly why another one is
 * missing, which is told behind it. `value` is what was checked; `schema` has the fields.
 */
export function describeFaults(
  issues: readonly z.core.$ZodIssue[],
  value: unknown,
  schema: z.core.$ZodType,
): SchemaFault[] {
  const unknown = issues.find((issue) => issue.code === 'unrecognized_keys');
  if (unknown === undefined) {
    return issues.slice(0, 1).map((issue) => describeIssue(issue, value));
  }
  const { path } = unknown;
  const isBeside = (issue: z.core.$ZodIssue): boolean =>
    issue.path.length === path.length + 1 && path.every((key, i) => issue.path[i] === key);
  const missing = issues.filter(
    (issue) => isBeside(issue) && valueAt(value, issue.path) === undefined,
  );
  return [
    ...unknown.keys.map((key) => ({
      path,
      at: [...path, key],
      text: `unknown field '${key}'${hint(key, fieldsAt(schema, path))}`,
    })),
    ...missing.map((issue) => describeIssue(issue, value)),
  ];
}

function hint(key: string, fields: readonly string[]): string {
  const near = nearest(key, fields);
  return near === undefined ? '' : `; did you mean '${near}'?`;
}

function describeIssue(issue: z.core.$ZodIssue, value: unknown): SchemaFault {
  const { path } = issue;
  const found = valueAt(value, path);
  const wanted = issue.code === 'invalid_type' ? `expected ${kind(issue.expected)}` : issue.message;
  const text = found === undefined ? `missing; ${wanted}` : `${wanted}, found ${shown(found)}`;
  return { path, at: path, text };
}

/** A type of zod's in words. */
function kind(type: string): string {
  if (type === 'int') return 'a whole number';
  return `${/^[aeiou]/.test(type) ? 'an' : 'a'} ${type}`;
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let at = value;
  for (const key of path) at = (at as Readonly<Record<PropertyKey, unknown>> | undefined)?.[key];
  return at;
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? typeof value;
  return text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}...` : text;
}

interface SchemaShape {
  readonly type: string;
  readonly shape?: Readonly<Record<string, z.core.$ZodType>>;
  readonly element?: z.core.$ZodType;
  readonly innerType?: z.core.$ZodType;
}

/** Names of the fields of the object that a schema has at a path. */
function fieldsAt(schema: z.core.$ZodType, path: readonly PropertyKey[]): string[] {
  let at: z.core.$ZodType | undefined = schema;
  for (const key of path) {
    const shape: SchemaShape | undefined = unwrapped(at);
    at = typeof key === 'number' ? shape?.element : shape?.shape?.[String(key)];
  }
  return Object.keys(unwrapped(at)?.shape ?? {});
}

/** Without what says that it may be left out. */
function unwrapped(schema: z.core.$ZodType | undefined): SchemaShape | undefined {
  let shape = schema?._zod.def as SchemaShape | undefined;
  while (shape?.innerType !== undefined) shape = shape.innerType._zod.def as unknown as SchemaShape;
  return shape;
}

/** The word that was meant, if there is one close enough. */
export function nearest(word: string, words: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of words) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance >= least) continue;
    least = distance;
    best = candidate;
  }
  return best;
}

/** Letters to add, drop, change, or swap with their neighbour. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const isSame = a[i - 1] === b[j - 1];
      const change = (last[j - 1] ?? 0) + (isSame ? 0 : 1);
      let least = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, change);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) least = Math.min(least, (before[j - 2] ?? 0) + 1);
      row.push(least);
    }
    before = last;
    last = row;
  }
  return last[b.length] ?? 0;
}
