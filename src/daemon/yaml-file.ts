// A YAML file checked against a schema: every refusal names the file, the line, the field, what was expected and
// what was found.

import { readFileSync } from 'node:fs';
import { type Document, isMap, isScalar, parseDocument } from 'yaml';
import type { z } from 'zod';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { describeFaults } from './schema-faults.ts';

/** Throws DmError. */
export function loadYamlFile<T extends z.ZodType>(path: string, schema: T): z.output<T> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot read: ${errorText(error)}`);
  }
  return parseYaml(path, text, schema);
}

/** As `loadYamlFile`, with what is in the file. */
export function parseYaml<T extends z.ZodType>(path: string, text: string, schema: T): z.output<T> {
  const document = parseDocument(text, { prettyErrors: false });
  const problem = document.errors[0];
  if (problem !== undefined) {
    throw invalid(`${path}:${lineAt(text, problem.pos[0])}: ${problem.message}`);
  }
  const value: unknown = document.toJS();
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [first, ...more] = describeFaults(parsed.error.issues, value, schema).map((fault) => {
    const line = lineAt(text, placeOf(document, fault.at));
    const field = fault.path.map(String).join('.');
    return `${line}: ${field === '' ? '' : `${field}: `}${fault.text}`;
  });
  if (first === undefined) throw invalid(`${path}: refused`);
  throw invalid(`${path}:${[first, ...more.map((fault) => `(line ${fault})`)].join(' ')}`);
}

/** Where a field is; for one that is not there, what it should be in. */
function placeOf(document: Document, path: readonly PropertyKey[]): number {
  for (let length = path.length; length > 0; length--) {
    const offset = offsetOf(document, path.slice(0, length));
    if (offset !== undefined) return offset;
  }
  return document.contents?.range?.[0] ?? 0;
}

function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length;
}

function offsetOf(document: Document, path: readonly PropertyKey[]): number | undefined {
  const above = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true);
  const last = path.at(-1);
  if (isMap(above)) {
    const pair = above.items.find(({ key }) => isScalar(key) && String(key.value) === String(last));
    return isScalar(pair?.key) ? pair.key.range?.[0] : undefined;
  }
  const node = document.getIn(path, true) as { readonly range?: readonly number[] } | undefined;
  return node?.range?.[0];
}
