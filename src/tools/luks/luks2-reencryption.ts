// What a LUKS2 header says of a re-encryption that is unfinished: requirements, a key slot of its own, and copies of
// the segments as they were and will be. Here only whether these belong together; nothing of it is carried out.

import { countIn, isObject, type JsonObject, textIn } from './json-fields.ts';
import { damaged } from './luks-error.ts';

/** Requirements of a re-encryption as some version of cryptsetup has them. */
const KNOWN: ReadonlySet<string> = new Set([
  'online-reencrypt',
  'online-reencrypt-v2',
  'online-reencrypt-v3',
]);
const ANY = /^online-reencrypt(-v\d+)?$/;
const MODES: readonly string[] = ['reencrypt', 'encrypt', 'decrypt'];
const DIRECTIONS: readonly string[] = ['forward', 'backward'];

/** Flags of segments that are no part of the data. */
const BACKUP = 'backup-';

interface Parts {
  readonly keyslots: JsonObject;
  readonly segments: JsonObject;
  readonly required: readonly string[];
}

/** Whether a requirement is that of a re-encryption, by whatever version or tool. */
export function isReencryption(requirement: string): boolean {
  return requirement.startsWith('online-reencrypt') || requirement === 'offline-reencrypt';
}

export function isBackup(segment: JsonObject): boolean {
  const { flags } = segment;
  return Array.isArray(flags) && flags.some((f) => typeof f === 'string' && f.startsWith(BACKUP));
}

/** Names of the segments that are no backups, in their order. */
export function segmentsOfData(segments: JsonObject): string[] {
  return Object.keys(segments).filter((id) => !isBackup(segments[id] as JsonObject));
}

/** Throws DmError; everything else of the metadata is checked already. */
export function checkReencryption({ keyslots, segments, required }: Parts): void {
  const marks = required.filter((name) => ANY.test(name));
  if (marks.length > 1) {
    throw damaged(`config.requirements.mandatory: ${marks.join(' and ')}: expected one of them`);
  }
  const isKnown = required.some((name) => KNOWN.has(name));
  if (isKnown) checkBackups(segments);
  const slots = Object.entries(keyslots).filter(
    ([, slot]) => (slot as JsonObject)['type'] === 'reencrypt',
  );
  for (const [id, slot] of slots) checkSlot(`keyslots.${id}.`, slot as JsonObject);
  if (isKnown && slots.length === 0)
    throw damaged('keyslots: that of the re-encryption is missing');
  if (slots.length > 0 && marks.length === 0) {
    throw damaged('config.requirements: a key slot of a re-encryption, and no requirement of it');
  }
  if (slots.length > 1) throw damaged(`keyslots: ${slots.length} of a re-encryption: expected one`);
}

function checkBackups(segments: JsonObject): void {
  const all = Object.values(segments).filter(isObject);
  const flagged = (flag: string): JsonObject | undefined =>
    all.findLast((segment) => isBackup(segment) && has(segment, flag));
  const final = flagged('backup-final');
  const previous = all.findLast(
    (s) => isBackup(s) && has(s, 'backup-previous') && !has(s, 'backup-final'),
  );
  if (final === undefined || previous === undefined) {
    throw damaged(
      'segments: backups of a re-encryption are missing (backup-final, backup-previous)',
    );
  }
  for (const [id, segment] of Object.entries(segments)) {
    if (!isObject(segment) || isBackup(segment)) continue;
    if (isLike(segment, final)) continue;
    if (!has(segment, 'in-reencryption') && isLike(segment, previous)) continue;
    throw damaged(`segments.${id}: is like none of the backup segments`);
  }
}

function has({ flags }: JsonObject, flag: string): boolean {
  return Array.isArray(flags) && flags.includes(flag);
}

/** Same type, and of crypt same cipher and sectors. */
function isLike(a: JsonObject, b: JsonObject): boolean {
  if (a['type'] !== b['type']) return false;
  if (a['type'] !== 'crypt') return true;
  return a['encryption'] === b['encryption'] && a['sector_size'] === b['sector_size'];
}

function checkSlot(path: string, slot: JsonObject): void {
  if (countIn(slot, 'key_size', path) !== 1) throw damaged(`${path}key_size: expected 1`);
  oneOf(textIn(slot, 'mode', path), MODES, `${path}mode`);
  oneOf(textIn(slot, 'direction', path), DIRECTIONS, `${path}direction`);
  const area = slot['area'] as JsonObject;
  const type = String(area['type']);
  if (type === 'checksum' || type === 'datashift-checksum') {
    textIn(area, 'hash', `${path}area.`);
    const sector = countIn(area, 'sector_size', `${path}area.`);
    if (sector >= 512 && Number.isInteger(Math.log2(sector))) return;
    throw damaged(`${path}area.sector_size: ${sector}: expected a power of two, 512 or more`);
  }
  if (type !== 'datashift' && type !== 'datashift-journal') return;
  const text = textIn(area, 'shift_size', `${path}area.`);
  const shift = /^\d+$/.test(text) ? BigInt(text) : 0n;
  if (shift > 0n && shift % 512n === 0n) return;
  throw damaged(`${path}area.shift_size: ${text}: expected whole sectors of 512 bytes`);
}

function oneOf(value: string, among: readonly string[], path: string): void {
  if (!among.includes(value)) throw damaged(`${path}: ${value}: expected ${among.join(', ')}`);
}
