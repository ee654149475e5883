// The rules that metadata of a LUKS2 header must keep to be a header at all. They are cryptsetup's: what a key slot,
// a segment or a digest of an unknown kind may hold is not their matter, and a key slot that cannot be used is
// not damage (see slot-use.ts). Sizes and places are decimal text of 64 bits.
//
// Numbers are bigints until they are known to be small.

import {
  arrayIn,
  countIn,
  integerIn,
  isObject,
  type JsonObject,
  looseSizeIn,
  numbered,
  objectIn,
  sizeIn,
  textIn,
  U64_MAX,
  wrong,
} from './json-fields.ts';
import {
  LUKS2_ALIGN_BYTES,
  LUKS2_BINARY_BYTES,
  LUKS2_HEADER_SIZES,
  LUKS2_KEY_SLOTS_BYTES_MAX,
} from './luks2.format.ts';
import { checkReencryption, isBackup } from './luks2-reencryption.ts';
import { damaged } from './luks-error.ts';

const SECTOR = 512n;
const I64_MAX = 2n ** 63n - 1n;
const DYNAMIC = 'dynamic';

/** Throws a DmError that names the field, without the name of the file. */
export function checkRules(json: unknown, headerBytes: number): void {
  if (!isObject(json)) throw damaged('expected an object');
  const parts = {
    keyslots: objectIn(json, 'keyslots', ''),
    tokens: objectIn(json, 'tokens', ''),
    segments: objectIn(json, 'segments', ''),
    digests: objectIn(json, 'digests', ''),
    config: objectIn(json, 'config', ''),
  };
  const required = requirementsOf(parts.config);
  checkTokens(parts.tokens, parts.keyslots);
  checkDigests(parts.digests, parts);
  checkSegments(parts.segments, parts.digests);
  for (const [id, slot] of numbered(parts.keyslots, 'keyslots')) checkKeySlot(id, slot);
  const config = checkConfig(parts.config, parts.segments, headerBytes);
  checkAreas(parts.keyslots, config);
  for (const [id, slot] of Object.entries(parts.keyslots)) {
    if ((slot as JsonObject)['type'] === 'luks2')
      checkLuks2Slot(id, slot as JsonObject, parts.digests);
  }
  checkReencryption({ ...parts, required });
}

function checkReferences(ids: readonly string[], there: JsonObject, path: string): void {
  for (const id of ids) {
    if (Object.hasOwn(there, id) && isObject(there[id])) continue;
    throw damaged(`${path}: ${id} is not there`);
  }
}

function requirementsOf(config: JsonObject): readonly string[] {
  if (!Object.hasOwn(config, 'requirements')) return [];
  const requirements = objectIn(config, 'requirements', 'config.');
  if (!Object.hasOwn(requirements, 'mandatory')) return [];
  return arrayIn(requirements, 'mandatory', 'config.requirements.');
}

function checkTokens(tokens: JsonObject, keyslots: JsonObject): void {
  for (const [id, token] of numbered(tokens, 'tokens')) {
    const path = `tokens.${id}.`;
    textIn(token, 'type', path);
    checkReferences(arrayIn(token, 'keyslots', path), keyslots, `${path}keyslots`);
  }
}

function checkDigests(
  digests: JsonObject,
  there: { readonly keyslots: JsonObject; readonly segments: JsonObject },
): void {
  for (const [id, digest] of numbered(digests, 'digests')) {
    const path = `digests.${id}.`;
    textIn(digest, 'type', path);
    checkReferences(arrayIn(digest, 'keyslots', path), there.keyslots, `${path}keyslots`);
    checkReferences(arrayIn(digest, 'segments', path), there.segments, `${path}segments`);
  }
}

interface Range {
  readonly at: bigint;
  /** Undefined: up to the end of the device. */
  readonly size: bigint | undefined;
}

/** Segments are 0, 1 and so on without a gap, those of the data first, backups behind. */
function checkSegments(segments: JsonObject, digests: JsonObject): void {
  const all = numbered(segments, 'segments');
  if (all.length === 0) throw wrong('segments', 'one or more');
  const ranges: Range[] = [];
  let isBehindData = false;
  for (const [i] of all.entries()) {
    const id = String(i);
    const segment = segments[id];
    if (!isObject(segment)) throw damaged(`segments: ${id} is missing of ${all.length}`);
    const range = checkSegment(id, segment, digests);
    if (isBackup(segment)) {
      if (i === 0) throw damaged('segments.0: is a backup: there is no segment of data');
      isBehindData = true;
    } else if (isBehindData) {
      throw damaged(`segments.${id}: is data behind a backup segment`);
    } else ranges.push(range);
  }
  checkRanges(ranges);
}

function checkSegment(id: string, segment: JsonObject, digests: JsonObject): Range {
  const path = `segments.${id}.`;
  const type = textIn(segment, 'type', path);
  const at = sizeIn(segment, 'offset', path);
  const isDynamic = textIn(segment, 'size', path) === DYNAMIC;
  const size = isDynamic ? 0n : sizeIn(segment, 'size', path);
  if (!isDynamic && size === 0n) throw wrong(`${path}size: 0`, 'more than none');
  for (const [key, value] of Object.entries({ offset: at, size })) {
    if (value % SECTOR !== 0n) throw wrong(`${path}${key}: ${value}`, 'whole sectors of 512 bytes');
  }
  if (Object.hasOwn(segment, 'flags')) arrayIn(segment, 'flags', path);
  if (type === 'crypt') checkCryptSegment(id, segment, digests, size);
  return { at, size: isDynamic ? undefined : size };
}

function checkCryptSegment(
  id: string,
  segment: JsonObject,
  digests: JsonObject,
  size: bigint,
): void {
  const path = `segments.${id}.`;
  sizeIn(segment, 'iv_tweak', path);
  textIn(segment, 'encryption', path);
  const sector = BigInt(countIn(segment, 'sector_size', path));
  if (Object.hasOwn(segment, 'integrity')) {
    const integrity = objectIn(segment, 'integrity', path);
    for (const key of ['type', 'journal_encryption', 'journal_integrity']) {
      textIn(integrity, key, `${path}integrity.`);
    }
  }
  if (sector === 0n || sector % SECTOR !== 0n) {
    throw wrong(`${path}sector_size: ${sector}`, 'a multiple of 512');
  }
  if (size % sector !== 0n) throw wrong(`${path}size: ${size}`, `whole sectors of ${sector} bytes`);
  const has = ({ segments }: JsonObject): boolean => (segments as string[]).includes(id);
  if (Object.values(digests).some((digest) => has(digest as JsonObject))) return;
  throw damaged(`segments.${id}: belongs to no digest`);
}

function checkRanges(ranges: readonly Range[]): void {
  for (const [i, own] of ranges.entries()) {
    if (own.size === undefined && i + 1 < ranges.length) {
      throw damaged(`segments.${i}.size: only the last segment of data may be ${DYNAMIC}`);
    }
    for (const [j, other] of ranges.entries()) {
      if (i === j) continue;
      const end = other.size === undefined ? undefined : other.at + other.size;
      if (end !== undefined && end > U64_MAX) throw wrong(`segments.${j}`, 'an end of 64 bits');
      if (own.at < other.at || (end !== undefined && own.at >= end)) continue;
      throw damaged(`segments.${i}: overlaps segment ${j}`);
    }
  }
}

function checkKeySlot(id: string, slot: JsonObject): void {
  const path = `keyslots.${id}.`;
  textIn(slot, 'type', path);
  countIn(slot, 'key_size', path);
}

interface Sizes {
  readonly headerBytes: bigint;
  readonly keySlotsBytes: bigint;
}

function checkConfig(config: JsonObject, segments: JsonObject, headerBytes: number): Sizes {
  const path = 'config.';
  const json = looseSizeIn(config, 'json_size', path);
  const own = BigInt(headerBytes - LUKS2_BINARY_BYTES);
  if (json !== own) throw wrong(`${path}json_size: ${json}`, `${own}, as the binary header says`);
  if (!LUKS2_HEADER_SIZES.includes(headerBytes)) {
    throw damaged(`header size ${headerBytes} is not one of LUKS2`);
  }
  const keySlotsBytes = looseSizeIn(config, 'keyslots_size', path);
  const isWhole = keySlotsBytes % BigInt(LUKS2_ALIGN_BYTES) === 0n;
  if (!isWhole || keySlotsBytes > BigInt(LUKS2_KEY_SLOTS_BYTES_MAX)) {
    throw wrong(
      `${path}keyslots_size: ${keySlotsBytes}`,
      `a multiple of ${LUKS2_ALIGN_BYTES}, at most ${LUKS2_KEY_SLOTS_BYTES_MAX}`,
    );
  }
  if (Object.hasOwn(config, 'flags')) arrayIn(config, 'flags', path);
  const end = 2n * BigInt(headerBytes) + keySlotsBytes;
  const dataAt = leastOffset(segments);
  // Data at 0 is on another device than the header.
  if (dataAt !== 0n && dataAt < end) {
    throw damaged(
      `${path}keyslots_size: ${keySlotsBytes}: key slots end at ${end}, the data is at ${dataAt}`,
    );
  }
  return { headerBytes: BigInt(headerBytes), keySlotsBytes };
}

function leastOffset(segments: JsonObject): bigint {
  let least: bigint | undefined;
  for (const segment of Object.values(segments)) {
    if (isBackup(segment as JsonObject)) continue;
    const at = BigInt((segment as { offset: string }).offset);
    if (least === undefined || at < least) least = at;
  }
  return least ?? 0n;
}

/** Key slot areas lie behind both copies, within the area for them, and apart. */
function checkAreas(keyslots: JsonObject, { headerBytes, keySlotsBytes }: Sizes): void {
  const [low, high] = [2n * headerBytes, 2n * headerBytes + keySlotsBytes];
  const areas = Object.entries(keyslots).map(([id, slot]) => {
    const path = `keyslots.${id}.area.`;
    const area = objectIn(slot as JsonObject, 'area', `keyslots.${id}.`);
    textIn(area, 'type', path);
    const [at, size] = [sizeIn(area, 'offset', path), sizeIn(area, 'size', path)];
    return { id, at, end: at + size };
  });
  areas.sort((a, b) => (a.at < b.at ? -1 : 1));
  let before: (typeof areas)[number] | undefined;
  for (const area of areas) {
    const { id, at, end } = area;
    const name = `key slot ${id}: area of bytes ${at} to ${end}`;
    if (at === end) throw damaged(`${name}: is empty`);
    if (at < low || end > high) throw damaged(`${name}: expected within ${low} to ${high}`);
    if (before !== undefined && at < before.end) {
      throw damaged(`${name}: overlaps that of slot ${before.id}`);
    }
    before = area;
  }
}

/** Fields of each known key derivation, besides its type. */
const KDF_FIELDS: Readonly<Record<string, readonly string[]>> = {
  pbkdf2: ['iterations'],
  argon2i: ['time', 'memory', 'cpus'],
  argon2id: ['time', 'memory', 'cpus'],
};

/** As C reads digits into 32 bits. */
function intOf(digits: string): bigint {
  const value = BigInt(digits);
  return BigInt.asIntN(32, value > I64_MAX ? I64_MAX : value);
}

/** Every part is there, whether or not it can be used; and exactly one digest tells its key. */
function checkLuks2Slot(id: string, slot: JsonObject, digests: JsonObject): void {
  const path = `keyslots.${id}.`;
  const kdf = objectIn(slot, 'kdf', path);
  const type = textIn(kdf, 'type', `${path}kdf.`);
  const fields = Object.hasOwn(KDF_FIELDS, type) ? KDF_FIELDS[type] : undefined;
  for (const field of fields ?? []) integerIn(kdf, field, `${path}kdf.`);
  if (type === 'pbkdf2') textIn(kdf, 'hash', `${path}kdf.`);
  if (fields !== undefined) textIn(kdf, 'salt', `${path}kdf.`);
  const af = objectIn(slot, 'af', path);
  if (textIn(af, 'type', `${path}af.`) !== 'luks1') throw wrong(`${path}af.type`, 'luks1');
  textIn(af, 'hash', `${path}af.`);
  integerIn(af, 'stripes', `${path}af.`);
  const area = objectIn(slot, 'area', path);
  if (textIn(area, 'type', `${path}area.`) !== 'raw') throw wrong(`${path}area.type`, 'raw');
  textIn(area, 'encryption', `${path}area.`);
  integerIn(area, 'key_size', `${path}area.`);
  // The digest names the slot by its number, not by how the header spells it.
  const number = String(intOf(id));
  const count = Object.values(digests).filter((digest) =>
    (digest as { keyslots: string[] }).keyslots.includes(number),
  ).length;
  if (count !== 1) throw damaged(`key slot ${id}: ${count} digests have it: expected one`);
}
