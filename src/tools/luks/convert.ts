// LUKS1 to LUKS2 and back, in place. Key material that is in use is not moved except to free space, and no
// header that is in use is overwritten before another one is whole, so a crash leaves either version, with
// every passphrase. The data stays where it is.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import {
  type Arrangement,
  arrangeSlots,
  firstGap,
  planArrangement,
  type Range,
} from './arrange-slots.ts';
import { wipeRandom, wipeZero } from './key-area.ts';
import {
  LUKS_STRIPES,
  LUKS1_ALIGN_BYTES,
  LUKS1_DIGEST_BYTES,
  LUKS1_SALT_BYTES,
  LUKS1_SLOTS,
} from './luks1.format.ts';
import {
  emptyLuks1,
  encodeLuks1,
  type Luks1Fields,
  luks1AreaBytes,
  luks1AreaStep,
  type Luks1Slot,
  writeLuks1,
} from './luks1-header.ts';
import { Luks1Volume } from './luks1-volume.ts';
import {
  LUKS2_BINARY_BYTES,
  LUKS2_HEADER_BYTES,
  LUKS2_KEY_SLOTS_BYTES_MAX,
} from './luks2.format.ts';
import { encodeCopy, type Luks2Fields, writeCopy } from './luks2-header.ts';
import {
  areasOf,
  byNumber,
  type CryptSegment,
  checkMetadata,
  isCryptSegment,
  isLuks2Slot,
  isPbkdf2Digest,
  type Luks2KeySlot,
  type Luks2Metadata,
  type Pbkdf2Digest,
} from './luks2-metadata.ts';
import { Luks2Volume } from './luks2-volume.ts';
import { splitCipherSpec } from './sector-cipher.ts';
import type { LuksIo } from './luks-io.ts';

/** Where key slots of the new LUKS2 header may be, at first. */
const SLOTS_AT = 2 * LUKS2_HEADER_BYTES;
/** Slots that are wholly in the first sector of a LUKS1 header. */
const SLOTS_IN_SECTOR = 6;

/** Throws DmError, having written nothing, when this header cannot become LUKS2. */
export async function convertToLuks2(volume: Luks1Volume, isDetached: boolean): Promise<void> {
  const { io } = volume;
  const dataAt = volume.fields.payloadOffset * SECTOR_BYTES;
  const end = isDetached || dataAt === 0 ? volume.headerBytes + SLOTS_AT : dataAt;
  const room = Math.min(end, io.sizeBytes, SLOTS_AT + LUKS2_KEY_SLOTS_BYTES_MAX);
  const limit = room - (room % LUKS1_ALIGN_BYTES);
  const moves = planMoves(volume, limit);
  const moved = structuredClone(volume.fields);
  for (const { slot, to } of moves) {
    const keySlot = moved.slots[slot];
    if (keySlot !== undefined) keySlot.keyMaterialOffset = to / SECTOR_BYTES;
  }
  const metadata = metadataOf(moved, limit);
  const fields = newFields(volume.uuid);
  checkMetadata(metadata, { where: `${io.path}: new metadata`, headerBytes: LUKS2_HEADER_BYTES });
  const primary = encodeCopy(fields, metadata, 0);
  await applyMoves(volume, moves);
  await writeCopy(io, fields, metadata, LUKS2_HEADER_BYTES);
  // All but the first sector: LUKS1 has the end of its slots 6 and 7 in the second one, so from here until
  // the first sector is written the second one must wait.
  io.write(LUKS2_BINARY_BYTES, primary.subarray(LUKS2_BINARY_BYTES));
  await io.flush();
  io.write(0, primary.subarray(0, SECTOR_BYTES));
  await io.flush();
  io.write(SECTOR_BYTES, primary.subarray(SECTOR_BYTES, LUKS2_BINARY_BYTES));
  await io.flush();
  const used = areasOf(metadata).map(({ at, end: stop }) => ({ at, end: stop }));
  for (const { from, sizeBytes } of moves) {
    for (const rest of without({ at: from, end: from + sizeBytes }, used)) {
      const at = Math.max(rest.at, SLOTS_AT);
      if (at < rest.end) await wipeRandom(io, at, rest.end - at);
    }
  }
  // cryptsetup converts back only what lies as its own conversion would have put it.
  const step = luks1AreaStep(volume.volumeKeyBytes);
  const luks2 = new Luks2Volume(io, isDetached);
  await arrangeSlots(
    luks2,
    planArrangement(luks2, (slot) => SLOTS_AT + slot * step),
  );
}

interface Move {
  readonly slot: number;
  readonly from: number;
  readonly to: number;
  readonly sizeBytes: number;
}

/** Slots in use that lie where the two copies go, and free places for them. */
function planMoves(volume: Luks1Volume, limit: number): Move[] {
  const { keyBytes, slots } = volume.fields;
  const sizeBytes = luks1AreaBytes(keyBytes, LUKS_STRIPES);
  const step = luks1AreaStep(keyBytes);
  const used: Range[] = [{ at: 0, end: SLOTS_AT }];
  const inTheWay: { readonly slot: number; readonly from: number }[] = [];
  for (const [slot, { isEnabled, keyMaterialOffset }] of slots.entries()) {
    if (!isEnabled) continue;
    const from = keyMaterialOffset * SECTOR_BYTES;
    if (from % LUKS1_ALIGN_BYTES !== 0) {
      throw invalid(`${volume.io.path}: key slot ${slot} at byte ${from}: LUKS2 needs whole 4 KiB`);
    }
    used.push({ at: from, end: from + step });
    if (from < SLOTS_AT) inTheWay.push({ slot, from });
  }
  return inTheWay.map(({ slot, from }) => {
    const to = firstGap(used, step, limit);
    if (to === undefined) {
      throw new DmError(
        Status.NoSpace,
        `${volume.io.path}: no free space to move key slot ${slot} to: remove a key, convert, add it again`,
      );
    }
    used.push({ at: to, end: to + step });
    const { displaced } = displacedBy(volume.fields, { slot, to });
    const isAtomic = [...displaced, slots[slot]].every(
      (s) => s !== undefined && slots.indexOf(s) < SLOTS_IN_SECTOR,
    );
    if (displaced.length > 1 || !isAtomic) {
      throw new DmError(
        Status.NoSpace,
        `${volume.io.path}: key slot ${slot} can be moved safely only to the place of a free slot below ` +
          `${SLOTS_IN_SECTOR}: remove one of these, convert, add it again`,
      );
    }
    return { slot, from, to, sizeBytes };
  });
}

/** Parts of a range that none of `used` covers. */
function without(range: Range, used: readonly Range[]): Range[] {
  let rest = [range];
  for (const { at, end } of used) {
    rest = rest.flatMap((r) => [
      { at: r.at, end: Math.min(r.end, at) },
      { at: Math.max(r.at, end), end: r.end },
    ]);
    rest = rest.filter((r) => r.at < r.end);
  }
  return rest;
}

/**
 * Copies key material and then lets the LUKS1 header refer to it; a crash leaves a LUKS1 that is
 * whole.
 */
async function applyMoves(volume: Luks1Volume, moves: readonly Move[]): Promise<void> {
  const { io, fields } = volume;
  for (const { slot, from, to, sizeBytes } of moves) {
    const material = new Uint8Array(sizeBytes);
    io.read(from, material);
    io.write(to, material);
    await io.flush();
    await swapArea(io, fields, { slot, to });
  }
}

/**
 * Points a slot elsewhere. The unused slot that has its area there takes the old one, so that no
 * two overlap. Both must be in the first sector of the header, which is written as a whole or not
 * at all.
 */
async function swapArea(
  io: LuksIo,
  fields: Luks1Fields,
  move: { readonly slot: number; readonly to: number },
): Promise<void> {
  const { keySlot, displaced } = displacedBy(fields, move);
  const from = keySlot.keyMaterialOffset;
  keySlot.keyMaterialOffset = move.to / SECTOR_BYTES;
  for (const slot of displaced) slot.keyMaterialOffset = from;
  await writeLuks1(io, fields, true);
}

function displacedBy(
  fields: Luks1Fields,
  { slot, to }: { readonly slot: number; readonly to: number },
): { readonly keySlot: Luks1Slot; readonly displaced: Luks1Slot[] } {
  const keySlot = fields.slots[slot] as Luks1Slot;
  const at = to / SECTOR_BYTES;
  const step = luks1AreaStep(fields.keyBytes) / SECTOR_BYTES;
  const displaced = fields.slots.filter(
    (s) => s !== keySlot && s.keyMaterialOffset < at + step && at < s.keyMaterialOffset + step,
  );
  return { keySlot, displaced };
}

function newFields(uuid: string): Luks2Fields {
  return {
    headerBytes: LUKS2_HEADER_BYTES,
    sequenceId: 1,
    label: '',
    subsystem: '',
    checksumAlgorithm: 'sha256',
    uuid,
  };
}

function metadataOf(fields: Luks1Fields, limit: number): Luks2Metadata {
  const { keyBytes, hashSpec: hash, cipherName, cipherMode } = fields;
  const encryption = `${cipherName}-${cipherMode}`;
  const keyslots: Luks2Metadata['keyslots'] = {};
  for (const [i, slot] of fields.slots.entries()) {
    if (!slot.isEnabled) continue;
    keyslots[i] = {
      type: 'luks2',
      key_size: keyBytes,
      af: { type: 'luks1', stripes: LUKS_STRIPES, hash },
      area: {
        type: 'raw',
        offset: String(slot.keyMaterialOffset * SECTOR_BYTES),
        size: String(luks1AreaStep(keyBytes)),
        encryption,
        key_size: keyBytes,
      },
      kdf: { type: 'pbkdf2', hash, iterations: slot.iterations, salt: base64(slot.salt) },
    };
  }
  return {
    keyslots,
    tokens: {},
    segments: {
      0: {
        type: 'crypt',
        offset: String(fields.payloadOffset * SECTOR_BYTES),
        size: 'dynamic',
        iv_tweak: '0',
        encryption,
        sector_size: SECTOR_BYTES,
      },
    },
    digests: {
      0: {
        type: 'pbkdf2',
        keyslots: Object.keys(keyslots),
        segments: ['0'],
        hash,
        iterations: fields.mkDigestIterations,
        salt: base64(fields.mkDigestSalt),
        digest: base64(fields.mkDigest),
      },
    },
    config: {
      json_size: String(LUKS2_HEADER_BYTES - LUKS2_BINARY_BYTES),
      keyslots_size: String(limit - SLOTS_AT),
    },
  };
}

function base64(data: Uint8Array): string {
  return Buffer.from(data).toString('base64');
}

/** Throws DmError, having written nothing, naming what LUKS1 cannot hold. */
export async function convertToLuks1(volume: Luks2Volume): Promise<void> {
  const { io } = volume;
  const arrangement = planHome(volume);
  luks1Of(volume, arrangement.metadata);
  await volume.update(volume.metadata);
  await arrangeSlots(volume, arrangement);
  const fields = luks1Of(volume, volume.metadata);
  const header = encodeLuks1(fields);
  // The secondary LUKS2 header counts until the first sector says LUKS1.
  io.write(SECTOR_BYTES, header.subarray(SECTOR_BYTES));
  await io.flush();
  io.write(0, header.subarray(0, SECTOR_BYTES));
  await io.flush();
  wipeZero(io, LUKS2_BINARY_BYTES, 2 * volume.fields.headerBytes - LUKS2_BINARY_BYTES);
  await io.flush();
  await homeSlot0(new Luks1Volume(io));
}

/**
 * Slots go where LUKS1 has them, but slot 0: that is where the LUKS2 header is, so until later it
 * takes the place of a free slot. Without room for that all stay where they are.
 */
function planHome(volume: Luks2Volume): Arrangement {
  const stay = { moves: [], metadata: volume.metadata };
  const step = luks1AreaStep(volume.volumeKeyBytes);
  const home = (slot: number): number => LUKS1_ALIGN_BYTES + slot * step;
  let guest = SLOTS_IN_SECTOR - 1;
  while (guest > 0 && volume.slots.includes(guest)) guest--;
  if (guest === 0) return stay;
  const plan = planArrangement(volume, (slot) => home(slot === 0 ? guest : slot));
  try {
    luks1Of(volume, plan.metadata);
    return plan;
  } catch (error) {
    if (error instanceof DmError) return stay;
    throw error;
  }
}

/** Slot 0 belongs where the LUKS2 header was. It stays where it is when that is not safely done. */
async function homeSlot0(volume: Luks1Volume): Promise<void> {
  const { keyBytes, slots } = volume.fields;
  const [first] = slots;
  const from = (first?.keyMaterialOffset ?? 0) * SECTOR_BYTES;
  if (first?.isEnabled !== true || from === LUKS1_ALIGN_BYTES) return;
  const { displaced } = displacedBy(volume.fields, { slot: 0, to: LUKS1_ALIGN_BYTES });
  const sizeBytes = luks1AreaBytes(keyBytes, LUKS_STRIPES);
  if (displaced.length > 1 || from < LUKS1_ALIGN_BYTES + sizeBytes) return;
  if (displaced.some((s) => s.isEnabled || slots.indexOf(s) >= SLOTS_IN_SECTOR)) return;
  await applyMoves(volume, [{ slot: 0, from, to: LUKS1_ALIGN_BYTES, sizeBytes }]);
  await wipeRandom(volume.io, from, sizeBytes);
}

/**
 * The LUKS1 header of a volume with this metadata. Throws DmError naming what LUKS1 cannot hold.
 */
function luks1Of(volume: Luks2Volume, metadata: Luks2Metadata): Luks1Fields {
  const cannot = (why: string): DmError =>
    invalid(`${volume.io.path}: cannot become LUKS1: ${why}`);
  const { encryption, offset } = onlySegment(metadata, cannot);
  if (Object.keys(metadata.tokens).length > 0) throw cannot('it has tokens');
  if ((metadata.config.flags ?? []).length > 0) throw cannot('it has persistent flags');
  const digest = onlyDigest(metadata, cannot);
  volume.segments();
  const { name: cipherName, mode: cipherMode } = splitCipherSpec(encryption);
  const fields = emptyLuks1({
    cipherName,
    cipherMode,
    hashSpec: digest.hash,
    payloadOffset: Number(offset) / SECTOR_BYTES,
    keyBytes: volume.volumeKeyBytes,
    uuid: volume.uuid,
  });
  fields.mkDigest = bytesOf(digest.digest).subarray(0, LUKS1_DIGEST_BYTES);
  fields.mkDigestSalt = bytesOf(digest.salt);
  fields.mkDigestIterations = digest.iterations;
  const used: Range[] = [{ at: 0, end: LUKS1_ALIGN_BYTES }];
  const want = { hash: digest.hash, encryption, keyBytes: fields.keyBytes };
  for (const [id, slot] of byNumber(metadata.keyslots)) {
    const name = `key slot ${id}`;
    const target = fields.slots[id];
    if (target === undefined) throw cannot(`${name}: LUKS1 has 0 to ${LUKS1_SLOTS - 1}`);
    if (!isLuks2Slot(slot)) throw cannot(`${name} is of type '${slot.type}'`);
    if (!digest.keyslots.includes(String(id))) throw cannot(`${name} is unbound`);
    const why = slotMismatch(slot, want);
    if (why !== undefined || slot.kdf.type !== 'pbkdf2') throw cannot(`${name}: ${why}`);
    const at = Number(slot.area.offset);
    target.isEnabled = true;
    target.iterations = slot.kdf.iterations;
    target.salt = bytesOf(slot.kdf.salt);
    target.keyMaterialOffset = at / SECTOR_BYTES;
    used.push({ at, end: at + Number(slot.area.size) });
  }
  placeUnused(fields, used, Number(offset) === 0 ? volume.headerBytes : Number(offset), cannot);
  return fields;
}

function onlySegment(metadata: Luks2Metadata, cannot: (why: string) => DmError): CryptSegment {
  const [segment, ...more] = Object.values(metadata.segments);
  if (segment === undefined || more.length > 0 || !isCryptSegment(segment)) {
    throw cannot('it has not one encrypted segment');
  }
  const { sector_size: sector, iv_tweak: tweak, size } = segment;
  if (sector !== SECTOR_BYTES) throw cannot(`sectors of ${sector} bytes`);
  if (tweak !== '0' || size !== 'dynamic') throw cannot('its segment has a size or an IV offset');
  return segment;
}

function onlyDigest(metadata: Luks2Metadata, cannot: (why: string) => DmError): Pbkdf2Digest {
  const [digest, ...more] = Object.values(metadata.digests);
  if (digest === undefined || more.length > 0 || !isPbkdf2Digest(digest)) {
    throw cannot('it has not one digest by pbkdf2');
  }
  if (bytesOf(digest.salt).length !== LUKS1_SALT_BYTES) {
    throw cannot(`the salt of its digest is not of ${LUKS1_SALT_BYTES} bytes`);
  }
  if (bytesOf(digest.digest).length < LUKS1_DIGEST_BYTES) {
    throw cannot(`its digest is shorter than ${LUKS1_DIGEST_BYTES} bytes`);
  }
  return digest;
}

function bytesOf(text: string): Buffer {
  return Buffer.from(text, 'base64');
}

function slotMismatch(
  slot: Luks2KeySlot,
  want: { readonly hash: string; readonly encryption: string; readonly keyBytes: number },
): string | undefined {
  const { kdf, af, area } = slot;
  if (kdf.type !== 'pbkdf2') return `derives its key by ${kdf.type}; change it to pbkdf2 first`;
  if (bytesOf(kdf.salt).length !== LUKS1_SALT_BYTES) return `salt not of ${LUKS1_SALT_BYTES} bytes`;
  if (kdf.hash !== want.hash || af.hash !== want.hash) return `hash other than ${want.hash}`;
  if (area.encryption !== want.encryption || area.key_size !== want.keyBytes) {
    return `cipher other than that of the data, ${want.encryption}`;
  }
  return slot.key_size === want.keyBytes ? undefined : 'key of another size';
}

/** Slots that are not in use have their areas, too. */
function placeUnused(
  fields: Luks1Fields,
  used: Range[],
  limit: number,
  cannot: (why: string) => DmError,
): void {
  const step = luks1AreaStep(fields.keyBytes);
  const isFree = (at: number): boolean => used.every((r) => at >= r.end || at + step <= r.at);
  for (const [i, slot] of fields.slots.entries()) {
    if (slot.isEnabled) continue;
    const home = LUKS1_ALIGN_BYTES + i * step;
    const at = isFree(home) ? home : firstGap(used, step, limit);
    if (at === undefined) throw cannot('no room for eight key slots before the data');
    slot.keyMaterialOffset = at / SECTOR_BYTES;
    used.push({ at, end: at + step });
  }
}
