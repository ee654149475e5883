// What a schema did not like, in words: the field, what was expected, what was found, and which field may have
// been meant.

import type { z } from 'zod';

/** Characters of a value shown in an error. */
const SHOWN_MAX = 40;

export interface SchemaFault {
  /** Of the field: where it is, or would be. */
  readonly path: readonly PropertyKey[];
  readonly text: string;
}

/** The issue to tell of: a field that there is not is mostly why another one is not there. */
export function mainIssue(issues: readonly z.core.$ZodIssue[]): z.core.$ZodIssue | undefined {
  return issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0];
}

/** `value` is what was checked; `schema`, if given, tells which fields there are. */
export function describeIssue(
  issue: z.core.$ZodIssue,
  value: unknown,
  schema?: z.core.$ZodType,
): SchemaFault {
  if (issue.code === 'unrecognized_keys') {
    const [key = ''] = issue.keys;
    const near = schema === undefined ? undefined : nearest(key, fieldsAt(schema, issue.path));
    const hint = near === undefined ? '' : `; did you mean '${near}'?`;
    return { path: [...issue.path, key], text: `unknown field${hint}` };
  }
  const found = shown(valueAt(value, issue.path));
  if (issue.code === 'invalid_type') {
    return { path: issue.path, text: `expected ${issue.expected}, found ${found}` };
  }
  return { path: issue.path, text: `${issue.message}, found ${found}` };
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let at = value;
  for (const key of path) at = (at as Readonly<Record<PropertyKey, unknown>> | undefined)?.[key];
  return at;
}

function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
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
