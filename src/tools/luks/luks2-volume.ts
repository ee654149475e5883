// A LUKS2 volume: its slots, digests and segments, and what can be done with them.
//
// Key material is on the disk before a header refers to it, and is overwritten only after no header does.

import { randomBytes, timingSafeEqual } from 'node:crypto';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { hashSpec } from './hashes.ts';
import { defaultLimits, deriveKey, type KdfLimits, type KdfParams } from './key-derivation.ts';
import { checkKeyArea, type KeyArea, readKeyArea, wipeRandom, writeKeyArea } from './key-area.ts';
import { LUKS_STRIPES } from './luks1.format.ts';
import { LUKS2_ALIGN_BYTES, LUKS2_SLOTS } from './luks2.format.ts';
import { describeLuks2, dumpLuks2 } from './luks2-dump.ts';
import {
  type Luks2Changes,
  type Luks2Copy,
  type Luks2Fields,
  type Luks2Found,
  mendCopies,
  readLuks2,
  updateLuks2,
} from './luks2-header.ts';
import {
  areasOf,
  byNumber,
  type CryptSegment,
  isCryptSegment,
  isLuks2Slot,
  isPbkdf2Digest,
  type Luks2Kdf,
  type Luks2KeySlot,
  type Luks2Metadata,
  type Pbkdf2Digest,
} from './luks2-metadata.ts';
import type { JsonText } from './json-text.ts';
import { damaged, unsupported, WrongPassphrase } from './luks-error.ts';
import type { LuksIo } from './luks-io.ts';
import type {
  LuksSegment,
  LuksVolume,
  NewKeyOptions,
  Unlocked,
  UnlockOptions,
} from './luks-volume.ts';
import { trySlots } from './try-slots.ts';

const SALT_BYTES = 32;
/** Priorities of slots: only by number, as others, before others. */
const IGNORED = 0;
const NORMAL = 1;

export class Luks2Volume implements LuksVolume {
  readonly version = 2;
  readonly io: LuksIo;
  readonly notes: readonly string[];
  readonly #found: Luks2Found;
  readonly #isDetached: boolean;
  #copy: Luks2Copy;
  #isMended = false;

  constructor(io: LuksIo, isDetached: boolean) {
    this.io = io;
    this.#isDetached = isDetached;
    this.#found = readLuks2(io);
    this.#copy = this.#found.copy;
    this.notes = this.#found.notes.map((note) => `${io.path}: ${note}`);
  }

  get fields(): Luks2Fields {
    return this.#copy;
  }

  get metadata(): Luks2Metadata {
    return this.#copy.metadata;
  }

  /** The metadata in the words that it has on the disk. */
  get json(): JsonText {
    return this.#copy.json;
  }

  get uuid(): string {
    return this.#copy.uuid;
  }

  get headerBytes(): number {
    return 2 * this.#copy.headerBytes + Number(this.metadata.config.keyslots_size);
  }

  get slots(): readonly number[] {
    return byNumber(this.metadata.keyslots).map(([slot]) => slot);
  }

  get flags(): readonly string[] {
    return (this.metadata.config.flags ?? []).map((flag) => flag.replaceAll('-', '_'));
  }

  /** Of the key of the data, if a slot or a cipher tells. */
  get volumeKeyBytes(): number {
    for (const slot of this.#dataDigest()?.digest.keyslots ?? []) {
      const keySlot = this.metadata.keyslots[slot];
      if (keySlot !== undefined) return keySlot.key_size;
    }
    throw damaged(`${this.io.path}: no key slot belongs to the data`);
  }

  async unlock(passphrase: Uint8Array, options: UnlockOptions = {}): Promise<Unlocked> {
    this.#refuseRequirements();
    const { slot, exceptSlot, onTry } = options;
    if (slot !== undefined) this.#slot(slot);
    const limits = options.limits ?? defaultLimits();
    const slots = slot === undefined ? this.#slotsToTry().filter((i) => i !== exceptSlot) : [slot];
    const open = (i: number): Promise<Buffer | undefined> => this.#open(i, passphrase, limits);
    return await trySlots(this.io.path, slots, open, onTry);
  }

  async checkVolumeKey(volumeKey: Uint8Array): Promise<void> {
    const data = this.#dataDigest();
    if (data !== undefined && (await this.#fits(data.digest, volumeKey, defaultLimits()))) return;
    throw new WrongPassphrase(Status.Perm, `${this.io.path}: this is not the volume key`);
  }

  async addKey(
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<number> {
    await this.#prepare();
    await this.checkVolumeKey(volumeKey);
    const slot = options.slot ?? this.#freeSlot();
    this.#checkNumber(slot);
    if (Object.hasOwn(this.metadata.keyslots, slot)) {
      throw new DmError(Status.Exists, `${this.io.path}: key slot ${slot} is in use`);
    }
    const keySlot = await this.#newSlot(slot, volumeKey, passphrase, options);
    const metadata = structuredClone(this.metadata);
    metadata.keyslots[slot] = keySlot;
    const digest = metadata.digests[this.#dataDigest()?.id ?? ''];
    digest?.keyslots.push(String(slot));
    await this.update(metadata);
    return slot;
  }

  /**
   * The new key material goes to an area of its own; one update of the header puts it in the slot's
   * place.
   */
  async changeKey(
    slot: number,
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<number> {
    await this.#prepare();
    const old = this.#slot(slot);
    await this.#checkKeyOf(slot, volumeKey);
    const fresh = await this.#newSlot(slot, volumeKey, passphrase, {
      ...options,
      cipher: options.cipher ?? old.area.encryption,
      cipherKeyBytes: options.cipherKeyBytes ?? old.area.key_size,
      hash: options.hash ?? old.af.hash,
    });
    const metadata = structuredClone(this.metadata);
    metadata.keyslots[slot] = { ...old, ...fresh };
    await this.update(metadata);
    await wipeRandom(this.io, Number(old.area.offset), Number(old.area.size));
    return slot;
  }

  async removeKey(slot: number): Promise<void> {
    await this.#prepare();
    this.#checkNumber(slot);
    const id = String(slot);
    const old = this.metadata.keyslots[id];
    if (old === undefined) throw this.#notInUse(slot);
    const metadata = structuredClone(this.metadata);
    delete metadata.keyslots[id];
    const without = (ids: readonly string[]): string[] => ids.filter((other) => other !== id);
    for (const token of Object.values(metadata.tokens)) token.keyslots = without(token.keyslots);
    for (const [key, digest] of Object.entries(metadata.digests)) {
      digest.keyslots = without(digest.keyslots);
      // The digest of an unbound key has no more use; that of the data stays, to tell its key.
      if (digest.keyslots.length === 0 && digest.segments.length === 0)
        delete metadata.digests[key];
    }
    await this.update(metadata);
    await wipeRandom(this.io, Number(old.area.offset), Number(old.area.size));
  }

  kdfOf(slot: number): KdfParams {
    return kdfParams(this.#slot(slot).kdf);
  }

  segments(): LuksSegment[] {
    this.#refuseRequirements();
    const all = byNumber(this.metadata.segments).filter(
      ([, s]) => !(s.flags ?? []).some((flag) => flag.startsWith('backup-')),
    );
    if (all.length === 0) throw damaged(`${this.io.path}: it has no data segment`);
    return all.map(([id, segment], i) => {
      const name = `${this.io.path}: segment ${id}`;
      const { type, offset, size } = segment;
      const isCrypt = isCryptSegment(segment);
      if (!isCrypt && type !== 'linear') throw unsupported(`${name}: type '${type}'`);
      if (size === 'dynamic' && i + 1 < all.length) {
        throw damaged(`${name}: only the last one may have a dynamic size`);
      }
      if (isCrypt) this.#checkCrypt(id, segment);
      if (!this.#isDetached && Number(offset) < this.headerBytes) {
        throw damaged(
          `${name}: at byte ${offset}, in the header, which ends at ${this.headerBytes}; ` +
            'is this the header of another device (--header)?',
        );
      }
      return {
        type: isCrypt ? 'crypt' : 'linear',
        offsetBytes: Number(offset),
        sizeBytes: size === 'dynamic' ? undefined : Number(size),
        cipher: isCrypt ? segment.encryption : '',
        ivOffset: isCrypt ? Number(segment.iv_tweak) : 0,
        sectorBytes: isCrypt ? segment.sector_size : 512,
      };
    });
  }

  dump(): string {
    return dumpLuks2(this.fields, this.metadata);
  }

  describe(): Record<string, unknown> {
    return describeLuks2(this.fields, this.metadata);
  }

  /** Writes an update of the metadata, or of the fields beside it. Throws DmError. */
  async update(metadata: Luks2Metadata, changes: Luks2Changes = {}): Promise<void> {
    await this.#prepare();
    this.#copy = await updateLuks2(this.io, this.#copy, metadata, changes);
  }

  /** Before the first change: nothing unknown is required, both copies of the header are whole. */
  async #prepare(): Promise<void> {
    this.#refuseRequirements();
    if (!this.#isDetached) this.segments();
    if (this.headerBytes > this.io.sizeBytes) {
      throw damaged(
        `${this.io.path}: key slots go up to byte ${this.headerBytes}, the device ends at ` +
          `${this.io.sizeBytes}`,
      );
    }
    if (this.#isMended) return;
    await mendCopies(this.io, this.#found);
    this.#isMended = true;
  }

  #refuseRequirements(): void {
    const required = this.metadata.config.requirements?.mandatory ?? [];
    if (required.length === 0) return;
    const isReencryption = required.some((r) => r.startsWith('online-reencrypt'));
    throw unsupported(
      isReencryption
        ? `${this.io.path}: is being re-encrypted: finish that with cryptsetup reencrypt first`
        : `${this.io.path}: requires ${required.join(', ')}, which is unknown here`,
    );
  }

  #checkCrypt(id: number, segment: CryptSegment): void {
    if (segment.integrity !== undefined) {
      throw unsupported(`${this.io.path}: segment ${id}: authenticated encryption`);
    }
    if (!/^[\x21-\x7e]+$/.test(segment.encryption)) {
      throw damaged(`${this.io.path}: segment ${id}: encryption is no cipher`);
    }
  }

  #dataDigest(): { readonly id: string; readonly digest: Pbkdf2Digest } | undefined {
    for (const [segment, { flags = [] }] of byNumber(this.metadata.segments)) {
      if (flags.some((flag) => flag.startsWith('backup-'))) continue;
      for (const [id, digest] of Object.entries(this.metadata.digests)) {
        if (digest.segments.includes(String(segment)) && isPbkdf2Digest(digest)) {
          return { id, digest };
        }
      }
    }
    return undefined;
  }

  #slotsToTry(): number[] {
    const belong = new Set(this.#dataDigest()?.digest.keyslots ?? []);
    const priorityOf = (slot: number): number => this.metadata.keyslots[slot]?.priority ?? NORMAL;
    return this.slots
      .filter((slot) => belong.has(String(slot)) && priorityOf(slot) !== IGNORED)
      .sort((a, b) => priorityOf(b) - priorityOf(a) || a - b);
  }

  #checkNumber(slot: number): void {
    if (Number.isInteger(slot) && slot >= 0 && slot < LUKS2_SLOTS) return;
    throw invalid(`${this.io.path}: key slot ${slot}: LUKS2 has 0 to ${LUKS2_SLOTS - 1}`);
  }

  #notInUse(slot: number): DmError {
    return new DmError(Status.NoEntry, `${this.io.path}: key slot ${slot} is not in use`);
  }

  #slot(slot: number): Luks2KeySlot {
    this.#checkNumber(slot);
    const found = this.metadata.keyslots[slot];
    if (found === undefined) throw this.#notInUse(slot);
    if (isLuks2Slot(found)) return found;
    throw unsupported(`${this.io.path}: key slot ${slot}: type '${found.type}'`);
  }

  #freeSlot(): number {
    for (let slot = 0; slot < LUKS2_SLOTS; slot++) {
      if (!Object.hasOwn(this.metadata.keyslots, slot)) return slot;
    }
    throw new DmError(Status.NoSpace, `${this.io.path}: all key slots are in use`);
  }

  #digestOf(slot: number): Pbkdf2Digest {
    const id = String(slot);
    const digest = Object.values(this.metadata.digests).find((d) => d.keyslots.includes(id));
    if (digest === undefined) throw damaged(`${this.io.path}: key slot ${slot} has no digest`);
    if (isPbkdf2Digest(digest)) return digest;
    throw unsupported(`${this.io.path}: key slot ${slot}: digest of type '${digest.type}'`);
  }

  async #checkKeyOf(slot: number, volumeKey: Uint8Array): Promise<void> {
    if (await this.#fits(this.#digestOf(slot), volumeKey, defaultLimits())) return;
    throw new WrongPassphrase(Status.Perm, `${this.io.path}: not the key of slot ${slot}`);
  }

  async #fits(digest: Pbkdf2Digest, key: Uint8Array, limits: KdfLimits): Promise<boolean> {
    const { hash, iterations } = digest;
    const expected = Buffer.from(digest.digest, 'base64');
    const found = await deriveKey({ type: 'pbkdf2', hash, iterations }, key, bytesOf(digest.salt), {
      keyBytes: expected.length,
      limits,
      where: `${this.io.path}: volume key digest`,
    });
    return timingSafeEqual(found, expected);
  }

  async #open(
    slot: number,
    passphrase: Uint8Array,
    limits: KdfLimits,
  ): Promise<Buffer | undefined> {
    const keySlot = this.#slot(slot);
    const { kdf, area, key_size: keyBytes } = keySlot;
    const digest = this.#digestOf(slot);
    const where = `${this.io.path}: key slot ${slot}`;
    const material = keyAreaOf(keySlot, where);
    checkKeyArea(this.io, material, keyBytes);
    const options = { keyBytes: area.key_size, limits, where };
    const areaKey = await deriveKey(kdfParams(kdf), passphrase, bytesOf(kdf.salt), options);
    try {
      const key = readKeyArea(this.io, material, areaKey, keyBytes);
      if (await this.#fits(digest, key, limits)) return key;
      key.fill(0);
      return undefined;
    } finally {
      areaKey.fill(0);
    }
  }

  /** A slot whose key material is on the disk, in an area that nothing refers to. */
  async #newSlot(
    slot: number,
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<Luks2KeySlot> {
    const where = `${this.io.path}: key slot ${slot}`;
    const keySlot = newKeySlot(options, {
      volumeKeyBytes: volumeKey.length,
      like: this.slots
        .map((i) => this.metadata.keyslots[i])
        .find((s) => s !== undefined && isLuks2Slot(s)),
      offset: 0,
    });
    keySlot.area.offset = String(this.#freeArea(Number(keySlot.area.size)));
    await fillKeySlot(
      this.io,
      keySlot,
      { volumeKey, passphrase },
      {
        limits: options.limits ?? defaultLimits(),
        where,
      },
    );
    return keySlot;
  }

  #freeArea(sizeBytes: number): number {
    const { headerBytes } = this.#copy;
    let at = 2 * headerBytes;
    for (const area of areasOf(this.metadata)) {
      if (area.at - at >= sizeBytes) break;
      at = Math.ceil(area.end / LUKS2_ALIGN_BYTES) * LUKS2_ALIGN_BYTES;
    }
    if (at + sizeBytes <= this.headerBytes) return at;
    const text = `${this.io.path}: no room for ${sizeBytes} bytes of key material`;
    throw new DmError(Status.NoSpace, text);
  }
}

function bytesOf(base64: string): Buffer {
  return Buffer.from(base64, 'base64');
}

function kdfParams(kdf: Luks2Kdf): KdfParams {
  if (kdf.type === 'pbkdf2') return { type: kdf.type, hash: kdf.hash, iterations: kdf.iterations };
  return { type: kdf.type, time: kdf.time, memoryKib: kdf.memory, cpus: kdf.cpus };
}

function keyAreaOf({ area, af }: Luks2KeySlot, where: string): KeyArea {
  const hash = hashSpec(af.hash, where);
  const { encryption: cipher } = area;
  return { at: Number(area.offset), stripes: LUKS_STRIPES, hash, cipher, where };
}

/** A slot in words; `fillKeySlot` makes it one. `like` lends cipher and hash that are not given. */
export function newKeySlot(
  options: NewKeyOptions,
  what: {
    readonly volumeKeyBytes: number;
    readonly like: Luks2KeySlot | undefined;
    readonly offset: number;
  },
): Luks2KeySlot {
  const { kdf } = options;
  const { volumeKeyBytes, like, offset } = what;
  const size = Math.ceil((volumeKeyBytes * LUKS_STRIPES) / LUKS2_ALIGN_BYTES) * LUKS2_ALIGN_BYTES;
  const salt = randomBytes(SALT_BYTES).toString('base64');
  return {
    type: 'luks2',
    key_size: volumeKeyBytes,
    af: {
      type: 'luks1',
      stripes: LUKS_STRIPES,
      hash: options.hash ?? like?.af.hash ?? 'sha256',
    },
    area: {
      type: 'raw',
      offset: String(offset),
      size: String(size),
      encryption: options.cipher ?? like?.area.encryption ?? 'aes-xts-plain64',
      key_size: options.cipherKeyBytes ?? like?.area.key_size ?? 64,
    },
    kdf:
      kdf.type === 'pbkdf2'
        ? { type: kdf.type, hash: kdf.hash, iterations: kdf.iterations, salt }
        : { type: kdf.type, time: kdf.time, memory: kdf.memoryKib, cpus: kdf.cpus, salt },
  };
}

/** Writes the key material of a slot, durably. */
export async function fillKeySlot(
  io: LuksIo,
  keySlot: Luks2KeySlot,
  secrets: { readonly volumeKey: Uint8Array; readonly passphrase: Uint8Array },
  options: { readonly limits: KdfLimits; readonly where: string },
): Promise<void> {
  const { kdf, area } = keySlot;
  const { volumeKey, passphrase } = secrets;
  const areaKey = await deriveKey(kdfParams(kdf), passphrase, bytesOf(kdf.salt), {
    ...options,
    keyBytes: area.key_size,
  });
  try {
    await writeKeyArea(io, keyAreaOf(keySlot, options.where), { volumeKey, areaKey });
  } finally {
    areaKey.fill(0);
  }
}
