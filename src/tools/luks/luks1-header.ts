// The LUKS1 header in memory: read, checked, and written such that a crash leaves the old or the new one.

import { Buffer } from 'node:buffer';
import { SECTOR_BYTES } from '../../base/units.ts';
import { hashSpec } from './hashes.ts';
import { damaged } from './luks-error.ts';
import { endsEarly, type LuksIo } from './luks-io.ts';
import {
  LUKS_MAGIC,
  LUKS_STRIPES,
  LUKS1_ALIGN_BYTES,
  LUKS1_DIGEST_BYTES,
  LUKS1_SALT_BYTES,
  LUKS1_SLOT_DISABLED,
  LUKS1_SLOT_ENABLED,
  LUKS1_SLOTS,
  Luks1Header,
  Luks1KeySlot,
} from './luks1.format.ts';

const KEY_BYTES_MAX = 1024;

export interface Luks1Slot {
  isEnabled: boolean;
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

/**
 * Throws DmError for what no LUKS1 header may hold. Where the data is elsewhere (`isDetached`),
 * areas of slots may lie where it would begin.
 */
export function readLuks1(io: LuksIo, isDetached: boolean): Luks1Fields {
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
    if (active !== LUKS1_SLOT_ENABLED && active !== LUKS1_SLOT_DISABLED) {
      throw damaged(`${where}: key slot ${i}: state ${active} is neither enabled nor disabled`);
    }
    slots.push({ ...slot, isEnabled: active === LUKS1_SLOT_ENABLED });
  }
  const fields = { ...rest, slots };
  checkLuks1(fields, where);
  checkAreas(fields, io.sizeBytes, isDetached ? 0 : fields.payloadOffset * SECTOR_BYTES, where);
  return fields;
}

function checkLuks1(fields: Luks1Fields, where: string): void {
  const { keyBytes, mkDigestIterations, cipherName, cipherMode, uuid } = fields;
  if (keyBytes < 1 || keyBytes > KEY_BYTES_MAX) {
    throw damaged(`${where}: key of ${keyBytes} bytes: expected 1 to ${KEY_BYTES_MAX}`);
  }
  if (mkDigestIterations === 0) throw damaged(`${where}: digest of 0 iterations`);
  for (const [field, value] of Object.entries({ cipherName, cipherMode, uuid })) {
    if (!/^[\x21-\x7e]+$/.test(value)) {
      throw damaged(`${where}: ${field} ${JSON.stringify(value)}: expected printable text`);
    }
  }
  hashSpec(fields.hashSpec, where);
}

/** Areas of slots, also of those that are not in use: behind the header, before the data, apart. */
function checkAreas(fields: Luks1Fields, sizeBytes: number, dataAt: number, where: string): void {
  const areas = fields.slots.map(({ keyMaterialOffset, stripes, isEnabled }, slot) => {
    if (stripes !== LUKS_STRIPES) {
      throw damaged(`${where}: key slot ${slot}: ${stripes} stripes: expected ${LUKS_STRIPES}`);
    }
    const at = keyMaterialOffset * SECTOR_BYTES;
    const end = at + luks1AreaBytes(fields.keyBytes, stripes);
    return { slot, at, end, isEnabled };
  });
  areas.sort((a, b) => a.at - b.at);
  let before = { slot: -1, end: Luks1Header.$sizeBytes };
  for (const area of areas) {
    const { slot, at, end } = area;
    const name = `${where}: key slot ${slot}: area of bytes ${at} to ${end}`;
    if (at < before.end) {
      const whose = before.slot === -1 ? 'the header' : `that of slot ${before.slot}`;
      throw damaged(`${name} overlaps ${whose}`);
    }
    if (dataAt !== 0 && end > dataAt) throw damaged(`${name} overlaps the data, at ${dataAt}`);
    if (area.isEnabled && end > sizeBytes) {
      throw damaged(`${name} ends behind the device of ${sizeBytes} bytes`);
    }
    before = area;
  }
}

export function encodeLuks1(fields: Luks1Fields): Uint8Array {
  const keySlots = new Uint8Array(LUKS1_SLOTS * Luks1KeySlot.$sizeBytes);
  for (const [i, { isEnabled, ...slot }] of fields.slots.entries()) {
    const active = isEnabled ? LUKS1_SLOT_ENABLED : LUKS1_SLOT_DISABLED;
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
