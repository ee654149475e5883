// The JSON of a LUKS2 header: its schema, and the rules that a schema cannot say. Fields that are not known here
// stay as they are. Source: LUKS2 On-Disk Format Specification 1.1.1, section 3.

import { z } from 'zod';
import { isPowerOfTwo, SECTOR_BYTES } from '../../base/units.ts';
import { LUKS_STRIPES } from './luks1.format.ts';
import {
  LUKS2_ALIGN_BYTES,
  LUKS2_BINARY_BYTES,
  LUKS2_KEY_SLOTS_BYTES_MAX,
  LUKS2_SLOTS,
} from './luks2.format.ts';
import { damaged } from './luks-error.ts';

/** Ends the branch of a union: the other one is meant, and its complaint is the one to tell. */
const OTHER_TYPE = { abort: true };
const KEY_BYTES_MAX = 1024;
const U32_MAX = 2 ** 32 - 1;

/** 64-bit numbers are decimal text; above 2^53 - 1 none of ours can be right. */
const BigNumber = z
  .string()
  .refine((s) => /^(0|[1-9]\d{0,15})$/.test(s) && Number.isSafeInteger(Number(s)), {
    error: 'expected a decimal number below 2^53 as text',
  });
const Count = z.number().int().min(0).max(U32_MAX);
const Positive = z.number().int().min(1).max(U32_MAX);
const KeyBytes = z.number().int().min(1).max(KEY_BYTES_MAX);
const Salt = z.base64().max(4096);

function ids(count: number): z.ZodType<string> {
  return z.string().refine((s) => /^(0|[1-9]\d{0,9})$/.test(s) && Number(s) < count, {
    error: `expected a number of 0 to ${count - 1}`,
  });
}

const Id = ids(LUKS2_SLOTS);
const SegmentId = ids(LUKS2_SLOTS);

const Kdf = z.discriminatedUnion('type', [
  z.looseObject({
    type: z.literal('pbkdf2'),
    hash: z.string(),
    iterations: Positive,
    salt: Salt,
  }),
  z.looseObject({
    type: z.enum(['argon2i', 'argon2id']),
    time: Positive,
    memory: Positive,
    cpus: Positive,
    salt: Salt,
  }),
]);

const Luks2KeySlot = z.looseObject({
  type: z.literal('luks2'),
  key_size: KeyBytes,
  priority: z.number().int().min(0).max(2).optional(),
  area: z.looseObject({
    type: z.literal('raw'),
    offset: BigNumber,
    size: BigNumber,
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

/** Of re-encryption, or of tools to come: only its area is looked at. */
const OtherKeySlot = z.looseObject({
  type: z.string().refine((s) => s !== 'luks2', OTHER_TYPE),
  key_size: Count,
  priority: z.number().int().min(0).max(2).optional(),
  area: z.looseObject({ type: z.string(), offset: BigNumber, size: BigNumber }),
});

const CryptSegment = z.looseObject({
  type: z.literal('crypt'),
  offset: BigNumber,
  size: z.union([z.literal('dynamic'), BigNumber]),
  iv_tweak: BigNumber,
  encryption: z.string().max(128),
  sector_size: z.number().int(),
  flags: z.array(z.string()).optional(),
  integrity: z.looseObject({ type: z.string() }).optional(),
});

const OtherSegment = z.looseObject({
  type: z.string().refine((s) => s !== 'crypt', OTHER_TYPE),
  offset: BigNumber,
  size: z.union([z.literal('dynamic'), BigNumber]),
  flags: z.array(z.string()).optional(),
});

const Pbkdf2Digest = z.looseObject({
  type: z.literal('pbkdf2'),
  keyslots: z.array(Id),
  segments: z.array(SegmentId),
  hash: z.string(),
  iterations: Positive,
  salt: Salt,
  digest: z.base64().min(24).max(4096),
});

const OtherDigest = z.looseObject({
  type: z.string().refine((s) => s !== 'pbkdf2', OTHER_TYPE),
  keyslots: z.array(Id),
  segments: z.array(SegmentId),
});

const Token = z.looseObject({ type: z.string(), keyslots: z.array(Id) });

const Schema = z.looseObject({
  keyslots: z.record(Id, z.union([Luks2KeySlot, OtherKeySlot])),
  tokens: z.record(Id, Token),
  segments: z.record(SegmentId, z.union([CryptSegment, OtherSegment])),
  digests: z.record(Id, z.union([Pbkdf2Digest, OtherDigest])),
  config: z.looseObject({
    json_size: BigNumber,
    keyslots_size: BigNumber,
    flags: z.array(z.string()).optional(),
    requirements: z.looseObject({ mandatory: z.array(z.string()).optional() }).optional(),
  }),
});

export type Luks2Metadata = z.infer<typeof Schema>;
export type Luks2KeySlot = z.infer<typeof Luks2KeySlot>;
export type Luks2Kdf = z.infer<typeof Kdf>;
export type CryptSegment = z.infer<typeof CryptSegment>;
export type Pbkdf2Digest = z.infer<typeof Pbkdf2Digest>;

export function isLuks2Slot(slot: Luks2Metadata['keyslots'][string]): slot is Luks2KeySlot {
  return slot.type === 'luks2';
}

export function isCryptSegment(
  segment: Luks2Metadata['segments'][string],
): segment is CryptSegment {
  return segment.type === 'crypt';
}

export function isPbkdf2Digest(digest: Luks2Metadata['digests'][string]): digest is Pbkdf2Digest {
  return digest.type === 'pbkdf2';
}

/** Pairs in the order of their numbers. */
export function byNumber<T>(record: Readonly<Record<string, T>>): [number, T][] {
  return Object.entries(record)
    .map(([id, value]): [number, T] => [Number(id), value])
    .sort(([a], [b]) => a - b);
}

/** The first number of a slot, token or digest that is not in use. */
export function freeNumber(record: Readonly<Record<string, unknown>>): number | undefined {
  for (let id = 0; id < LUKS2_SLOTS; id++) if (!Object.hasOwn(record, id)) return id;
  return undefined;
}

/** The text of a JSON area. Throws DmError naming `where`, the field and what is wrong with it. */
export function parseMetadata(area: Uint8Array, where: string): Luks2Metadata {
  const end = area.indexOf(0);
  if (end === -1) throw damaged(`${where}: the JSON area does not end with a zero byte`);
  if (area.subarray(end).some((byte) => byte !== 0)) {
    throw damaged(`${where}: something follows the JSON text`);
  }
  let json: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(area.subarray(0, end));
    json = JSON.parse(text);
  } catch {
    // The parser's own message quotes the text, whatever that is.
    throw damaged(`${where}: the JSON area holds no JSON`);
  }
  checkMetadata(json, { where, headerBytes: area.length + LUKS2_BINARY_BYTES });
  return json;
}

/** Throws DmError unless it is metadata of a header whose copies have `headerBytes` each. */
export function checkMetadata(
  json: unknown,
  options: { readonly where: string; readonly headerBytes: number },
): asserts json is Luks2Metadata {
  const { where, headerBytes } = options;
  const parsed = Schema.safeParse(json);
  if (!parsed.success) throw damaged(`${where}: ${firstIssue(parsed.error)}`);
  const metadata = json as Luks2Metadata;
  const { json_size: jsonSize } = metadata.config;
  if (Number(jsonSize) !== headerBytes - LUKS2_BINARY_BYTES) {
    const expected = headerBytes - LUKS2_BINARY_BYTES;
    throw damaged(`${where}: config.json_size: ${jsonSize}: expected ${expected}`);
  }
  checkAreas(metadata, headerBytes, where);
  checkSegments(metadata, where);
  checkReferences(metadata, where);
}

function firstIssue(error: z.ZodError): string {
  let issue = error.issues[0];
  const path = [...(issue?.path ?? [])];
  // Of a union, the branch that came furthest is the one that was meant.
  while (issue?.code === 'invalid_union' && issue.errors.length > 0) {
    const branches: z.core.$ZodIssue[][] = issue.errors;
    const meant = branches.reduce((a, b) => (isTypeIssue(a) ? b : a));
    issue = meant[0];
    path.push(...(issue?.path ?? []));
  }
  return `${path.map(String).join('.')}: ${issue?.message ?? 'not as expected'}`;
}

function isTypeIssue(issues: readonly z.core.$ZodIssue[]): boolean {
  return issues.some((i) => i.path.length === 1 && i.path[0] === 'type');
}

/** Key slot areas lie behind both copies, within the area for them, apart, and hold their keys. */
function checkAreas(metadata: Luks2Metadata, headerBytes: number, where: string): void {
  const size = Number(metadata.config.keyslots_size);
  if (size % LUKS2_ALIGN_BYTES !== 0 || size > LUKS2_KEY_SLOTS_BYTES_MAX) {
    throw damaged(
      `${where}: config.keyslots_size: ${size}: expected a multiple of ${LUKS2_ALIGN_BYTES}, ` +
        `at most ${LUKS2_KEY_SLOTS_BYTES_MAX}`,
    );
  }
  const [low, high] = [2 * headerBytes, 2 * headerBytes + size];
  const areas = areasOf(metadata);
  let before: { readonly slot: number; readonly end: number } | undefined;
  for (const { slot, at, end } of areas) {
    const name = `${where}: key slot ${slot}: area of bytes ${at} to ${end}`;
    if (at < low || end > high) throw damaged(`${name}: expected within ${low} to ${high}`);
    if (before !== undefined && at < before.end) {
      throw damaged(`${name} overlaps that of slot ${before.slot}`);
    }
    before = { slot, end };
  }
  for (const [slot, keySlot] of byNumber(metadata.keyslots)) {
    if (!isLuks2Slot(keySlot)) continue;
    const need = Math.ceil((keySlot.key_size * LUKS_STRIPES) / SECTOR_BYTES) * SECTOR_BYTES;
    if (Number(keySlot.area.size) >= need) continue;
    throw damaged(
      `${where}: key slot ${slot}: area of ${keySlot.area.size} bytes: its key needs ${need}`,
    );
  }
}

/** In the order of their places. Bytes. */
export function areasOf(
  metadata: Luks2Metadata,
): { readonly slot: number; readonly at: number; readonly end: number }[] {
  return byNumber(metadata.keyslots)
    .map(([slot, { area }]) => {
      const at = Number(area.offset);
      return { slot, at, end: at + Number(area.size) };
    })
    .sort((a, b) => a.at - b.at);
}

function checkSegments(metadata: Luks2Metadata, where: string): void {
  const all = byNumber(metadata.segments);
  for (const [id, segment] of all) {
    const name = `${where}: segment ${id}`;
    const { offset, size } = segment;
    if (Number(offset) % SECTOR_BYTES !== 0) {
      throw damaged(`${name}: offset ${offset}: expected whole sectors`);
    }
    if (size !== 'dynamic' && (Number(size) === 0 || Number(size) % SECTOR_BYTES !== 0)) {
      throw damaged(`${name}: size ${size}: expected whole sectors, more than none`);
    }
    if (!isCryptSegment(segment)) continue;
    const { sector_size: sector } = segment;
    if (!isPowerOfTwo(sector) || sector < SECTOR_BYTES || sector > 4096) {
      throw damaged(`${name}: sector_size ${sector}: expected 512, 1024, 2048 or 4096`);
    }
    if (size !== 'dynamic' && Number(size) % sector !== 0) {
      throw damaged(`${name}: size ${size}: expected a multiple of sector_size ${sector}`);
    }
  }
}

/** What is referred to is there. */
function checkReferences(metadata: Luks2Metadata, where: string): void {
  const { keyslots, segments, digests, tokens } = metadata;
  const owner = new Map<string, string>();
  for (const [id, digest] of Object.entries(digests)) {
    for (const slot of digest.keyslots) {
      const name = `${where}: digests.${id}: key slot ${slot}`;
      if (!Object.hasOwn(keyslots, slot)) throw damaged(`${name} is not there`);
      const other = owner.get(slot);
      if (other !== undefined) throw damaged(`${name} belongs to digest ${other}, too`);
      owner.set(slot, id);
    }
    for (const segment of digest.segments) {
      if (Object.hasOwn(segments, segment)) continue;
      throw damaged(`${where}: digests.${id}: segment ${segment} is not there`);
    }
  }
  for (const [id, token] of Object.entries(tokens)) {
    for (const slot of token.keyslots) {
      if (Object.hasOwn(keyslots, slot)) continue;
      throw damaged(`${where}: tokens.${id}: key slot ${slot} is not there`);
    }
  }
}
