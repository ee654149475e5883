// A LUKS1 volume: its slots and what can be done with them.

import { randomBytes, timingSafeEqual } from 'node:crypto';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { hashSpec } from './hashes.ts';
import {
  defaultLimits,
  deriveKey,
  type KdfLimits,
  type KdfParams,
  type Pbkdf2Params,
} from './key-derivation.ts';
import { checkKeyArea, type KeyArea, readKeyArea, wipeRandom, writeKeyArea } from './key-area.ts';
import { dumpLuks1, describeLuks1 } from './luks1-dump.ts';
import { LUKS1_DIGEST_BYTES, LUKS1_SALT_BYTES, LUKS1_SLOTS } from './luks1.format.ts';
import {
  checkLuks1Text,
  type Luks1Fields,
  type Luks1Slot,
  luks1AreaBytes,
  readLuks1,
  writeLuks1,
} from './luks1-header.ts';
import { unsupported, WrongPassphrase } from './luks-error.ts';
import type { LuksIo } from './luks-io.ts';
import type {
  LuksSegment,
  LuksVolume,
  NewKeyOptions,
  Unlocked,
  UnlockOptions,
} from './luks-volume.ts';
import { trySlots } from './try-slots.ts';

const KEY_BYTES_MAX = 1024;

export class Luks1Volume implements LuksVolume {
  readonly version = 1;
  readonly io: LuksIo;
  readonly notes: readonly string[];
  readonly flags: readonly string[] = [];
  /** As on the disk; changed only by what writes it there. */
  readonly fields: Luks1Fields;

  constructor(io: LuksIo) {
    this.io = io;
    this.fields = readLuks1(io);
    this.notes = this.fields.slots.flatMap(({ oddState }, slot) =>
      oddState === undefined
        ? []
        : [`${io.path}: key slot ${slot} cannot be used: its state is ${oddState}`],
    );
  }

  get uuid(): string {
    return this.fields.uuid;
  }

  get volumeKeyBytes(): number {
    return this.fields.keyBytes;
  }

  get headerBytes(): number {
    const { slots, keyBytes } = this.fields;
    const ends = slots.map(
      (s) => s.keyMaterialOffset * SECTOR_BYTES + luks1AreaBytes(keyBytes, s.stripes),
    );
    return Math.max(...ends);
  }

  get slots(): readonly number[] {
    return this.fields.slots.flatMap((slot, i) => (slot.isEnabled ? [i] : []));
  }

  /** LUKS1 has no other keys. */
  get dataSlots(): readonly number[] {
    return this.slots;
  }

  get cipher(): string {
    return `${this.fields.cipherName}-${this.fields.cipherMode}`;
  }

  async unlock(passphrase: Uint8Array, options: UnlockOptions = {}): Promise<Unlocked> {
    const { slot, exceptSlot, onTry } = options;
    if (slot !== undefined) this.#enabled(slot);
    const limits = options.limits ?? defaultLimits();
    const slots = slot === undefined ? this.slots.filter((i) => i !== exceptSlot) : [slot];
    const open = (i: number): Promise<Buffer | undefined> => this.#open(i, passphrase, limits);
    return await trySlots(this.io.path, slots, open, onTry);
  }

  async checkVolumeKey(volumeKey: Uint8Array): Promise<void> {
    if (volumeKey.length === this.volumeKeyBytes) {
      if (await this.#isVolumeKey(volumeKey, defaultLimits())) return;
    }
    throw new WrongPassphrase(Status.Perm, `${this.io.path}: this is not the volume key`);
  }

  async addKey(
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<number> {
    await this.checkVolumeKey(volumeKey);
    const slot = options.slot ?? this.#freeSlot();
    checkLuks1Text(this.fields, this.io.path);
    const { isEnabled, oddState } = this.#slot(slot);
    if (isEnabled || oddState !== undefined) {
      throw new DmError(Status.Exists, `${this.io.path}: key slot ${slot} is in use`);
    }
    await this.#write(slot, volumeKey, passphrase, options);
    return slot;
  }

  /**
   * The new passphrase gets a slot of its own, then the old one goes: at any moment one of them
   * opens.
   */
  async changeKey(
    slot: number,
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<number> {
    this.#enabled(slot);
    const { slot: _same, ...rest } = options;
    const added = await this.addKey(volumeKey, passphrase, rest);
    await this.removeKey(slot);
    return added;
  }

  async removeKey(slot: number): Promise<void> {
    const old = this.#enabled(slot);
    checkLuks1Text(this.fields, this.io.path);
    old.isEnabled = false;
    old.iterations = 0;
    old.salt = new Uint8Array(LUKS1_SALT_BYTES);
    await writeLuks1(this.io, this.fields, false);
    await wipeRandom(
      this.io,
      old.keyMaterialOffset * SECTOR_BYTES,
      luks1AreaBytes(this.volumeKeyBytes, old.stripes),
    );
  }

  kdfOf(slot: number): KdfParams {
    const { iterations } = this.#enabled(slot);
    return { type: 'pbkdf2', hash: this.fields.hashSpec, iterations };
  }

  segments(): LuksSegment[] {
    checkLuks1Text(this.fields, this.io.path);
    return [
      {
        type: 'crypt',
        offsetBytes: this.fields.payloadOffset * SECTOR_BYTES,
        sizeBytes: undefined,
        cipher: this.cipher,
        ivOffset: 0,
        sectorBytes: SECTOR_BYTES,
      },
    ];
  }

  dump(): string {
    return dumpLuks1(this.io.path, this.fields);
  }

  describe(): Record<string, unknown> {
    return describeLuks1(this.fields);
  }

  #slot(slot: number): Luks1Slot {
    const found = this.fields.slots[slot];
    if (found !== undefined) return found;
    throw invalid(`${this.io.path}: key slot ${slot}: LUKS1 has 0 to ${LUKS1_SLOTS - 1}`);
  }

  #enabled(slot: number): Luks1Slot {
    const found = this.#slot(slot);
    if (found.isEnabled) return found;
    throw new DmError(Status.NoEntry, `${this.io.path}: key slot ${slot} is not in use`);
  }

  #freeSlot(): number {
    const free = this.fields.slots.findIndex((s) => !s.isEnabled && s.oddState === undefined);
    if (free !== -1) return free;
    throw new DmError(Status.NoSpace, `${this.io.path}: all key slots are in use`);
  }

  #where(slot: number): string {
    return `${this.io.path}: key slot ${slot}`;
  }

  #area(slot: number): KeyArea {
    const { keyMaterialOffset, stripes } = this.#slot(slot);
    const where = this.#where(slot);
    const hash = hashSpec(this.fields.hashSpec, where);
    return { at: keyMaterialOffset * SECTOR_BYTES, stripes, hash, cipher: this.cipher, where };
  }

  async #open(
    slot: number,
    passphrase: Uint8Array,
    limits: KdfLimits,
  ): Promise<Buffer | undefined> {
    const { salt } = this.#slot(slot);
    const keyBytes = this.volumeKeyBytes;
    if (keyBytes > KEY_BYTES_MAX) {
      throw unsupported(`${this.#where(slot)}: key of ${keyBytes} bytes: at most ${KEY_BYTES_MAX}`);
    }
    const area = this.#area(slot);
    checkKeyArea(this.io, area, keyBytes);
    const options = { keyBytes, limits, where: this.#where(slot) };
    const areaKey = await deriveKey(this.kdfOf(slot), passphrase, salt, options);
    try {
      const key = await readKeyArea(this.io, area, areaKey, keyBytes);
      if (await this.#isVolumeKey(key, limits)) return key;
      key.fill(0);
      return undefined;
    } finally {
      areaKey.fill(0);
    }
  }

  async #isVolumeKey(key: Uint8Array, limits: KdfLimits): Promise<boolean> {
    const { hashSpec: hash, mkDigest, mkDigestSalt, mkDigestIterations: iterations } = this.fields;
    const where = `${this.io.path}: volume key digest`;
    const kdf: Pbkdf2Params = { type: 'pbkdf2', hash, iterations };
    const options = { keyBytes: LUKS1_DIGEST_BYTES, limits, where };
    const digest = await deriveKey(kdf, key, mkDigestSalt, options);
    return timingSafeEqual(digest, mkDigest);
  }

  async #write(
    slot: number,
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    { kdf, limits = defaultLimits() }: NewKeyOptions,
  ): Promise<void> {
    const where = this.#where(slot);
    if (kdf.type !== 'pbkdf2' || kdf.hash !== this.fields.hashSpec) {
      throw invalid(`${where}: LUKS1 needs pbkdf2 with the header's hash ${this.fields.hashSpec}`);
    }
    const salt = randomBytes(LUKS1_SALT_BYTES);
    const keyBytes = this.volumeKeyBytes;
    const area = this.#area(slot);
    checkKeyArea(this.io, area, keyBytes);
    const areaKey = await deriveKey(kdf, passphrase, salt, { keyBytes, limits, where });
    try {
      await writeKeyArea(this.io, area, { volumeKey, areaKey });
    } finally {
      areaKey.fill(0);
    }
    const fields = this.#slot(slot);
    fields.isEnabled = true;
    fields.iterations = kdf.iterations;
    fields.salt = salt;
    await writeLuks1(this.io, this.fields, true);
  }
}
