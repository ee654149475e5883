// The JSON of a LUKS2 header: its types, and what of it can be used here. Fields that are not known stay as they are.
// Source: LUKS2 On-Disk Format Specification 1.1.1, section 3.
//
// Whether it is metadata at all, luks2-rules.ts says. A key slot or a digest that keeps those rules may still be of
// a kind that is unknown here: it has the plain type then, and is never taken for one that can be used.

import { z } from 'zod';
import { DmError } from '../../base/errors.ts';
import { parseExact } from './exact-json.ts';
import { strictJson } from './json-dialect.ts';
import { depthOf } from './json-text.ts';
import { LUKS_STRIPES } from './luks1.format.ts';
import { LUKS2_BINARY_BYTES } from './luks2.format.ts';
import { checkRules } from './luks2-rules.ts';
import { damaged } from './luks-error.ts';

const KEY_BYTES_MAX = 1024;
const U32_MAX = 2 ** 32 - 1;
/** How deep cryptsetup's parser goes. */
const DEPTH_MAX = 31;
const OPEN = 0x7b;

const Positive = z.number().int().min(1).max(U32_MAX);
const KeyBytes = z.number().int().min(1).max(KEY_BYTES_MAX);
const Salt = z.base64().max(4096);

const Pbkdf2 = z.looseObject({
  type: z.literal('pbkdf2'),
  hash: z.string(),
  iterations: Positive,
  salt: Salt,
});
const Argon2 = z.looseObject({
  type: z.enum(['argon2i', 'argon2id']),
  time: Positive,
  memory: Positive,
  cpus: Positive,
  salt: Salt,
});
const Kdf = z.discriminatedUnion('type', [Pbkdf2, Argon2], {
  error: ({ input }) =>
    `'${String((input as { type?: unknown } | undefined)?.type)}' is unknown here`,
});

const UsableKeySlot = z.looseObject({
  type: z.literal('luks2', { error: ({ input }) => `'${String(input)}' is unknown here` }),
  key_size: KeyBytes,
  priority: z.number().int().min(0).max(2).optional().catch(undefined),
  area: z.looseObject({
    type: z.literal('raw'),
    offset: z.string(),
    size: z.string(),
    encryption: z.string().max(128),
    key_size: KeyBytes,
  }),
  af: z.looseObject({
    type: z.literal('luks1'),
    stripes: z.literal(LUKS_STRIPES),
    hash: z.string(),
  }),
  kdf: Kdf,
});

const UsableDigest = z.looseObject({
  type: z.literal('pbkdf2', { error: ({ input }) => `'${String(input)}' is unknown here` }),
  keyslots: z.array(z.string()),
  segments: z.array(z.string()),
  hash: z.string(),
  iterations: Positive,
  salt: Salt,
  digest: z.base64().min(24).max(4096),
});

export type Luks2KeySlot = z.infer<typeof UsableKeySlot>;
export type Luks2Kdf = z.infer<typeof Kdf>;
export type Pbkdf2Digest = z.infer<typeof UsableDigest>;

/** A key slot of any kind: its area is known, what is in the area need not be. */
export interface AnyKeySlot {
  [other: string]: unknown;
  type: string;
  key_size: number;
  priority?: unknown;
  area: { [other: string]: unknown; type: string; offset: string; size: string };
}

export interface AnySegment {
  [other: string]: unknown;
  type: string;
  /** Decimal text of 64 bits. */
  offset: string;
  /** Decimal text of 64 bits, or `dynamic`. */
  size: string;
  flags?: string[] | undefined;
}

export interface CryptSegment extends AnySegment {
  type: 'crypt';
  /** Decimal text of 64 bits. */
  iv_tweak: string;
  encryption: string;
  sector_size: number;
  integrity?: { type: string } | undefined;
}

export interface AnyDigest {
  [other: string]: unknown;
  type: string;
  keyslots: string[];
  segments: string[];
}

export interface Luks2Token {
  [other: string]: unknown;
  type: string;
  keyslots: string[];
}

/** Keys of the records are numbers as text; several spellings of one may be there. */
export interface Luks2Metadata {
  [other: string]: unknown;
  keyslots: Record<string, AnyKeySlot | Luks2KeySlot>;
  tokens: Record<string, Luks2Token>;
  segments: Record<string, AnySegment | CryptSegment>;
  digests: Record<string, AnyDigest | Pbkdf2Digest>;
  config: {
    [other: string]: unknown;
    json_size: string;
    keyslots_size: string;
    flags?: string[] | undefined;
    requirements?: { mandatory?: string[] | undefined } | undefined;
  };
}

/** Whether a key slot is of the kind that is known here, in all its parts. */
export function isLuks2Slot(slot: AnyKeySlot | Luks2KeySlot): slot is Luks2KeySlot {
  return UsableKeySlot.safeParse(slot).success;
}

export function isCryptSegment(segment: AnySegment | CryptSegment): segment is CryptSegment {
  return segment.type === 'crypt';
}

export function isPbkdf2Digest(digest: AnyDigest | Pbkdf2Digest): digest is Pbkdf2Digest {
  return UsableDigest.safeParse(digest).success;
}

/** Which part of a key slot is not known here; undefined if all are. */
export function unknownInSlot(slot: AnyKeySlot | Luks2KeySlot): string | undefined {
  return firstIssue(UsableKeySlot.safeParse(slot).error);
}

/** Which part of a digest is not known here; undefined if all are. */
export function unknownInDigest(digest: AnyDigest | Pbkdf2Digest): string | undefined {
  return firstIssue(UsableDigest.safeParse(digest).error);
}

function firstIssue(error: z.ZodError | undefined): string | undefined {
  const issue = error?.issues[0];
  return issue && `${issue.path.map(String).join('.')}: ${issue.message}`;
}

/** Pairs in the order of their numbers; a key that spells its number in another way is left out. */
export function byNumber<T>(record: Readonly<Record<string, T>>): [number, T][] {
  return Object.entries(record)
    .map(([id, value]): [number, T] => [/^(0|[1-9]\d*)$/.test(id) ? Number(id) : -1, value])
    .filter(([id]) => id >= 0)
    .sort(([a], [b]) => a - b);
}

/** The first number below `count` that is not in use; `count` is LUKS2_SLOTS, _TOKENS or _DIGESTS. */
export function freeNumber(
  record: Readonly<Record<string, unknown>>,
  count: number,
): number | undefined {
  for (let id = 0; id < count; id++) if (!Object.hasOwn(record, id)) return id;
  return undefined;
}

/** The text of a JSON area up to its zero byte, in strict JSON. Throws when it is no text. */
export function textOfArea(area: Uint8Array): string {
  const bytes = area.subarray(0, area.indexOf(0));
  return strictJson(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
}

/** The metadata of a JSON area. Throws DmError naming `where`, the field and what is wrong with it. */
export function parseMetadata(area: Uint8Array, where: string): Luks2Metadata {
  const end = area.indexOf(0);
  if (end === -1) throw damaged(`${where}: the JSON area does not end with a zero byte`);
  if (area[0] !== OPEN) throw damaged(`${where}: the JSON area does not begin with {`);
  if (area.subarray(end).some((byte) => byte !== 0)) {
    throw damaged(`${where}: something follows the JSON text`);
  }
  let json: unknown;
  let isDeep = false;
  try {
    const text = textOfArea(area);
    isDeep = depthOf(text) > DEPTH_MAX;
    if (!isDeep) json = parseExact(text);
  } catch {
    // The parser's own message quotes the text, whatever that is.
    throw damaged(`${where}: the JSON area holds no JSON`);
  }
  if (isDeep) throw damaged(`${where}: objects lie more than ${DEPTH_MAX} deep`);
  checkMetadata(json, { where, headerBytes: area.length + LUKS2_BINARY_BYTES });
  return json;
}

/** Throws DmError unless it is metadata of a header whose copies have `headerBytes` each. */
export function checkMetadata(
  json: unknown,
  options: { readonly where: string; readonly headerBytes: number },
): asserts json is Luks2Metadata {
  const { where, headerBytes } = options;
  try {
    checkRules(json, headerBytes);
  } catch (error) {
    if (error instanceof DmError) throw damaged(`${where}: ${error.message}`);
    throw error;
  }
}

/** In the order of their places, of all key slots of whatever kind. Bytes. */
export function areasOf(
  metadata: Luks2Metadata,
): { readonly slot: number; readonly at: number; readonly end: number }[] {
  return Object.entries(metadata.keyslots)
    .map(([slot, { area }]) => {
      const at = Number(area.offset);
      return { slot: Number(slot), at, end: at + Number(area.size) };
    })
    .sort((a, b) => a.at - b.at);
}
