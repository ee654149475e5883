// JSON whose values keep the text they were read as. JavaScript rounds 18446744073709551615, makes 1.5 of 1.50
// and puts keys that look like numbers first; what another program wrote must not change for that.

import { numberText } from './exact-json.ts';

/** A scalar as its text, with the quotes of a string; or what holds others. */
export type JsonText = string | readonly JsonText[] | JsonMembers;

/** Members of an object by name, in the order of the text. Of a name twice, the last one counts. */
export type JsonMembers = ReadonlyMap<string, { readonly key: string; readonly value: JsonText }>;

interface Frame {
  readonly items: JsonText[];
  /** Of an object: its members, and the text of the key whose value comes next. */
  readonly members: Map<string, { key: string; value: JsonText }> | undefined;
  key: string | undefined;
}

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[^\s"[\]{},:]+|[[\]{}]/gs;

/** The texts of a value that JSON.parse accepts; of others the answer is undefined behaviour. */
export function readJsonText(text: string): JsonText {
  const top: Frame = { items: [], members: undefined, key: undefined };
  const open: Frame[] = [top];
  const put = (value: JsonText): void => {
    const frame = open.at(-1) ?? top;
    if (frame.members === undefined) frame.items.push(value);
    else if (frame.key !== undefined) {
      frame.members.set(JSON.parse(frame.key) as string, { key: frame.key, value });
      frame.key = undefined;
    }
  };
  for (const [token] of text.matchAll(TOKEN)) {
    const frame = open.at(-1) ?? top;
    if (token === '[' || token === '{') {
      open.push({ items: [], members: token === '{' ? new Map() : undefined, key: undefined });
    } else if (token === ']' || token === '}') {
      open.pop();
      put(frame.members ?? frame.items);
    } else if (frame.members !== undefined && frame.key === undefined) {
      frame.key = token;
    } else {
      put(token);
    }
  }
  return top.items[0] ?? 'null';
}

/** Members of `text`, if that is an object's. */
export function membersOf(text: JsonText | undefined): JsonMembers | undefined {
  return text instanceof Map ? text : undefined;
}

/**
 * JSON without blanks: values that are as `was` has them in its words and its order, others as
 * JSON.stringify has them.
 */
export function writeJsonText(value: unknown, was?: JsonText): string {
  if (Array.isArray(value)) {
    const texts = Array.isArray(was) ? (was as readonly JsonText[]) : [];
    return `[${value.map((item, i) => writeJsonText(item ?? null, texts[i])).join(',')}]`;
  }
  const number = typeof value === 'object' ? numberText(value) : undefined;
  if (number !== undefined) return number;
  if (typeof value === 'object' && value !== null) return writeObject(value, membersOf(was));
  const isSame = typeof was === 'string' && Object.is(JSON.parse(was), value);
  return isSame ? was : JSON.stringify(value);
}

function writeObject(value: object, was: JsonMembers | undefined): string {
  const own = new Map(Object.entries(value).filter(([, v]) => v !== undefined));
  const kept = [...(was?.keys() ?? [])].filter((name) => own.has(name));
  const names = new Set([...kept, ...own.keys()]);
  const texts = [...names].map((name) => {
    const old = was?.get(name);
    return `${old?.key ?? JSON.stringify(name)}:${writeJsonText(own.get(name), old?.value)}`;
  });
  return `{${texts.join(',')}}`;
}

/** How many arrays and objects are around the innermost value, be that an empty one of them. */
export function depthOf(text: string): number {
  let [depth, most] = [0, 0];
  for (const [token] of text.matchAll(TOKEN)) {
    if (token === ']' || token === '}') {
      depth--;
      continue;
    }
    most = Math.max(most, depth);
    if (token === '[' || token === '{') depth++;
  }
  return most;
}

/** Strings and names in their shortest words; numbers stay as they are. */
export function plainJsonText(text: JsonText): JsonText {
  if (typeof text === 'string') return text.startsWith('"') ? shortest(text) : text;
  if (Array.isArray(text)) return (text as readonly JsonText[]).map(plainJsonText);
  const members = text as JsonMembers;
  return new Map(
    [...members].map(([name, { key, value }]) => [
      name,
      { key: shortest(key), value: plainJsonText(value) },
    ]),
  );
}

function shortest(text: string): string {
  return JSON.stringify(JSON.parse(text));
}
