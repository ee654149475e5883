// The LUKS1 header in memory: read, checked, and written such that a crash leaves the old or the new one.

import { Buffer } from 'node:buffer';
import { SECTOR_BYTES } from '../../base/units.ts';
import { damaged } from './luks-error.ts';
import { endsEarly, type LuksIo } from './luks-io.ts';
import {
  LUKS_MAGIC,
  LUKS_STRIPES,
  LUKS1_ALIGN_BYTES,
  LUKS1_DIGEST_BYTES,
  LUKS1_REENCRYPT_MAGIC,
  LUKS1_SALT_BYTES,
  LUKS1_SLOT_DISABLED,
  LUKS1_SLOT_ENABLED,
  LUKS1_SLOTS,
  Luks1Header,
  Luks1KeySlot,
} from './luks1.format.ts';

export interface Luks1Slot {
  isEnabled: boolean;
  /** A state that is neither of the two: such a slot is kept as it is, and never used. */
  readonly oddState?: number | undefined;
  iterations: number;
  salt: Uint8Array;
  /** Sectors. */
  keyMaterialOffset: number;
  stripes: number;
}

export interface Luks1Fields {
  cipherName: string;
  cipherMode: string;
  hashSpec: string;
  /** Sectors; 0 when the data is elsewhere. */
  payloadOffset: number;
  keyBytes: number;
  mkDigest: Uint8Array;
  mkDigestSalt: Uint8Array;
  mkDigestIterations: number;
  uuid: string;
  slots: Luks1Slot[];
}

/** Bytes on disk of one slot's area: whole sectors. */
export function luks1AreaBytes(keyBytes: number, stripes: number): number {
  return Math.ceil((keyBytes * stripes) / SECTOR_BYTES) * SECTOR_BYTES;
}

/** From one slot's area to the next in a fresh header. Bytes. */
export function luks1AreaStep(keyBytes: number): number {
  const area = luks1AreaBytes(keyBytes, LUKS_STRIPES);
  return Math.ceil(area / LUKS1_ALIGN_BYTES) * LUKS1_ALIGN_BYTES;
}

export function isLuks1(first: Uint8Array): boolean {
  const view = viewOf(first);
  return (
    first.length >= Luks1Header.$sizeBytes &&
    Buffer.compare(Luks1Header.magic.get(view, 0), LUKS_MAGIC) === 0 &&
    Luks1Header.version.get(view, 0) === 1
  );
}

function viewOf(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.length);
}

/** Where cryptsetup re-encrypted LUKS1 and did not come to the end, the magic is another. */
export function isLuks1Reencrypting(first: Uint8Array): boolean {
  return (
    first.length >= Luks1Header.$sizeBytes &&
    Buffer.compare(first.subarray(0, LUKS_MAGIC.length), LUKS1_REENCRYPT_MAGIC) === 0
  );
}

/**
 * Throws DmError for what no LUKS1 header may hold. What its hash, cipher and costs are is looked
 * at when they are needed.
 */
export function readLuks1(io: LuksIo): Luks1Fields {
  const data = new Uint8Array(Luks1Header.$sizeBytes);
  if (io.sizeBytes < data.length) throw endsEarly(io.path, data.length, io.sizeBytes);
  io.read(0, data);
  const {
    keySlots,
    magic: _magic,
    version: _version,
    ...rest
  } = Luks1Header.$decode(viewOf(data), 0);
  const where = `${io.path}: LUKS1 header`;
  const slots: Luks1Slot[] = [];
  for (let i = 0; i < LUKS1_SLOTS; i++) {
    const { active, ...slot } = Luks1KeySlot.$decode(viewOf(keySlots), i * Luks1KeySlot.$sizeBytes);
    const isEnabled = active === LUKS1_SLOT_ENABLED;
    const isOdd = !isEnabled && active !== LUKS1_SLOT_DISABLED;
    slots.push({ ...slot, isEnabled, ...(isOdd ? { oddState: active } : {}) });
  }
  const fields = { ...rest, ...endedText(rest), slots };
  if (fields.keyBytes === 0) throw damaged(`${where}: key of 0 bytes`);
  checkAreas(fields, io.sizeBytes, where);
  return fields;
}

/** Text that fills its field loses its last character to the zero that ends text in C. */
function endedText(
  text: Pick<Luks1Fields, 'cipherName' | 'cipherMode' | 'hashSpec' | 'uuid'>,
): typeof text {
  const { cipherName, cipherMode, hashSpec, uuid } = text;
  return {
    cipherName: cipherName.slice(0, Luks1Header.cipherName.sizeBytes - 1),
    cipherMode: cipherMode.slice(0, Luks1Header.cipherMode.sizeBytes - 1),
    hashSpec: hashSpec.slice(0, Luks1Header.hashSpec.sizeBytes - 1),
    uuid: uuid.slice(0, Luks1Header.uuid.sizeBytes - 1),
  };
}

/**
 * Areas of slots, also of those that are not in use: behind the header, before the data, apart, on
 * the device.
 */
function checkAreas(fields: Luks1Fields, sizeBytes: number, where: string): void {
  const dataAt = fields.payloadOffset * SECTOR_BYTES;
  const areas = fields.slots.map(({ keyMaterialOffset, stripes }, slot) => {
    if (stripes !== LUKS_STRIPES) {
      throw damaged(`${where}: key slot ${slot}: ${stripes} stripes: expected ${LUKS_STRIPES}`);
    }
    const at = keyMaterialOffset * SECTOR_BYTES;
    return { slot, at, end: at + luks1AreaBytes(fields.keyBytes, stripes) };
  });
  areas.sort((a, b) => a.at - b.at);
  let before = { slot: -1, end: Luks1Header.$sizeBytes };
  for (const area of areas) {
    const { slot, at, end } = area;
    const name =
      `${where}: key slot ${slot}: area of sectors ${at / SECTOR_BYTES} to ` +
      `${end / SECTOR_BYTES}`;
    if (at < before.end) {
      const whose = before.slot === -1 ? 'the header' : `that of slot ${before.slot}`;
      throw damaged(`${name} overlaps ${whose}`);
    }
    if (dataAt !== 0 && end > dataAt) {
      throw damaged(`${name} overlaps the data, at sector ${fields.payloadOffset}`);
    }
    if (end > sizeBytes) throw damaged(`${name} ends behind the device of ${sizeBytes} bytes`);
    before = area;
  }
}

/** Text of the header that must be plain to be used or written. Throws DmError. */
export function checkLuks1Text(fields: Luks1Fields, where: string): void {
  const { cipherName, cipherMode, hashSpec, uuid } = fields;
  for (const [field, value] of Object.entries({ cipherName, cipherMode, hashSpec, uuid })) {
    if (/^[\x21-\x7e]+$/.test(value)) continue;
    throw damaged(`${where}: ${field} ${JSON.stringify(value)}: expected printable text`);
  }
}

export function encodeLuks1(fields: Luks1Fields): Uint8Array {
  const keySlots = new Uint8Array(LUKS1_SLOTS * Luks1KeySlot.$sizeBytes);
  for (const [i, { isEnabled, oddState, ...slot }] of fields.slots.entries()) {
    const active = isEnabled ? LUKS1_SLOT_ENABLED : (oddState ?? LUKS1_SLOT_DISABLED);
    Luks1KeySlot.$encode(viewOf(keySlots), i * Luks1KeySlot.$sizeBytes, { active, ...slot });
  }
  const { slots: _slots, ...rest } = fields;
  const data = new Uint8Array(Luks1Header.$sizeBytes);
  Luks1Header.$encode(viewOf(data), 0, { ...rest, magic: LUKS_MAGIC, version: 1, keySlots });
  return data;
}

/**
 * Writes a header that differs in one slot that is being enabled or disabled, durably. Slot 6 lies
 * in two sectors, its state in the first one: that one is written last to enable, first to disable,
 * so at any crash the slot is as before or as after, or disabled with bytes that nobody reads.
 */
export async function writeLuks1(
  io: LuksIo,
  fields: Luks1Fields,
  isEnabling: boolean,
): Promise<void> {
  const data = encodeLuks1(fields);
  const parts = [
    { at: SECTOR_BYTES, data: data.subarray(SECTOR_BYTES) },
    { at: 0, data: data.subarray(0, SECTOR_BYTES) },
  ];
  if (!isEnabling) parts.reverse();
  for (const part of parts) {
    io.write(part.at, part.data);
    await io.flush();
  }
}

/** A header without a key. */
export function emptyLuks1(
  what: Pick<
    Luks1Fields,
    'cipherName' | 'cipherMode' | 'hashSpec' | 'payloadOffset' | 'keyBytes' | 'uuid'
  >,
): Luks1Fields {
  const step = luks1AreaStep(what.keyBytes);
  const slots = Array.from({ length: LUKS1_SLOTS }, (_, i) => ({
    isEnabled: false,
    iterations: 0,
    salt: new Uint8Array(LUKS1_SALT_BYTES),
    keyMaterialOffset: (LUKS1_ALIGN_BYTES + i * step) / SECTOR_BYTES,
    stripes: LUKS_STRIPES,
  }));
  return {
    ...what,
    mkDigest: new Uint8Array(LUKS1_DIGEST_BYTES),
    mkDigestSalt: new Uint8Array(LUKS1_SALT_BYTES),
    mkDigestIterations: 0,
    slots,
  };
}
