// A LUKS2 volume: its slots, digests and segments, and what can be done with them.
//
// Key material is on the disk before a header refers to it, and is overwritten only after no header does.

import { timingSafeEqual } from 'node:crypto';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { isPowerOfTwo } from '../../base/units.ts';
import { defaultLimits, deriveKey, type KdfLimits, type KdfParams } from './key-derivation.ts';
import { newDigest } from './luks2-digest.ts';
import { checkKeyArea, readKeyArea, wipeRandom } from './key-area.ts';
import { LUKS2_ALIGN_BYTES, LUKS2_DIGESTS, LUKS2_SLOTS, LUKS2_TOKENS } from './luks2.format.ts';
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
import { bytesOf, fillKeySlot, kdfParams, keyAreaOf, newKeySlot } from './luks2-key-slot.ts';
import {
  areasOf,
  byNumber,
  type CryptSegment,
  freeNumber,
  isCryptSegment,
  isLuks2Slot,
  isPbkdf2Digest,
  type Luks2KeySlot,
  type Luks2Metadata,
  type Pbkdf2Digest,
  unknownInDigest,
} from './luks2-metadata.ts';
import type { JsonText } from './json-text.ts';
import { isBackup, isReencryption, segmentsOfData } from './luks2-reencryption.ts';
import { damaged, unsupported, WrongPassphrase } from './luks-error.ts';
import type { LuksIo } from './luks-io.ts';
import type {
  LuksSegment,
  LuksVolume,
  NewKeyOptions,
  Unlocked,
  UnlockOptions,
} from './luks-volume.ts';
import { slotProblem } from './slot-use.ts';
import { trySlots } from './try-slots.ts';

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
    if (this.headerBytes > this.io.sizeBytes) {
      throw damaged(
        `${this.io.path}: key slots go up to byte ${this.headerBytes}, the device ends at ` +
          `${this.io.sizeBytes}`,
      );
    }
    const told = Object.entries(this.unusableSlots).map(
      ([slot, problem]) => `key slot ${slot} cannot be used: ${problem}`,
    );
    this.notes = [...this.#found.notes, ...told].map((note) => `${io.path}: ${note}`);
  }

  /** Why a key slot cannot be used here, by its number; those that can be used are left out. */
  get unusableSlots(): Readonly<Record<number, string>> {
    const problems = this.slots.map((slot) => [slot, slotProblem(this.metadata, slot)] as const);
    return Object.fromEntries(problems.filter(([, problem]) => problem !== undefined)) as Record<
      number,
      string
    >;
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
    return byNumber(this.metadata.keyslots)
      .map(([slot]) => slot)
      .filter((slot) => slot < LUKS2_SLOTS);
  }

  get dataSlots(): readonly number[] {
    const belong = this.#dataDigest()?.digest.keyslots ?? [];
    return this.slots.filter((slot) => belong.includes(String(slot)));
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
    const { slot, exceptSlot, isAnyKey = false } = options;
    if (!isAnyKey) this.#refuseUnknownDigest();
    if (slot === undefined) {
      const slots = this.slotsToTry(isAnyKey, false).filter((i) => i !== exceptSlot);
      return await this.unlockAny(passphrase, slots, options);
    }
    this.#slot(slot);
    if (!isAnyKey && !this.dataSlots.includes(slot)) {
      throw invalid(
        `${this.io.path}: key slot ${slot} is unbound: its key is not that of the data`,
      );
    }
    return await this.unlockAny(passphrase, [slot], options);
  }

  /** Tries these slots, whatever keys they hold. */
  async unlockAny(
    passphrase: Uint8Array,
    slots: readonly number[],
    options: UnlockOptions,
  ): Promise<Unlocked> {
    this.#refuseRequirements();
    const { limits = defaultLimits(), onTry } = options;
    const open = (i: number): Promise<Buffer | undefined> => this.#open(i, passphrase, limits);
    return await trySlots(this.io.path, slots, open, onTry);
  }

  /** In the order in which they are tried: preferred ones first, ignored ones only if asked for. */
  slotsToTry(isAnyKey: boolean, withIgnored: boolean): number[] {
    return (isAnyKey ? this.slots : this.dataSlots)
      .filter((slot) => withIgnored || this.priorityOf(slot) !== IGNORED)
      .sort((a, b) => this.priorityOf(b) - this.priorityOf(a) || a - b);
  }

  /** 2 preferred, 1 as others, 0 ignored. */
  priorityOf(slot: number): number {
    const priority = this.metadata.keyslots[slot]?.priority;
    return typeof priority === 'number' ? priority : NORMAL;
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
    const { slot, metadata } = await this.#withSlot(volumeKey, passphrase, options);
    const digest = metadata.digests[this.#dataDigest()?.id ?? ''];
    digest?.keyslots.push(String(slot));
    await this.update(metadata);
    return slot;
  }

  /** Puts some other key than that of the data into a slot, with a digest of its own. Answers the slot. */
  async addUnboundKey(
    key: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions & { readonly isDigestBenchmarked: boolean },
  ): Promise<number> {
    await this.#prepare();
    const id = this.#free(this.metadata.digests, LUKS2_DIGESTS, 'digests');
    const { slot, metadata } = await this.#withSlot(key, passphrase, options);
    const digestOptions = { hash: 'sha256', isBenchmarked: options.isDigestBenchmarked };
    metadata.digests[id] = await newDigest(key, { ...digestOptions, slot, segments: [] });
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
    const all = byNumber(this.metadata.segments).filter(([, segment]) => !isBackup(segment));
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
      for (const field of ['offset', 'size', 'iv_tweak'] as const) {
        const value = segment[field];
        if (value === 'dynamic' || Number.isSafeInteger(Number(value ?? 0))) continue;
        throw unsupported(`${name}: ${field} ${String(value)}: no device is so large`);
      }
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
    return { ...describeLuks2(this.fields, this.metadata), unusableKeySlots: this.unusableSlots };
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
    if (this.#isMended) return;
    await mendCopies(this.io, this.#found);
    this.#isMended = true;
  }

  #refuseRequirements(): void {
    const required = this.metadata.config.requirements?.mandatory ?? [];
    if (required.length === 0) return;
    throw unsupported(
      required.some(isReencryption)
        ? `${this.io.path}: is being re-encrypted: finish that with cryptsetup reencrypt first`
        : `${this.io.path}: requires ${required.join(', ')}, which is unknown here`,
    );
  }

  #checkCrypt(id: number, segment: CryptSegment): void {
    if (segment.integrity !== undefined) {
      throw unsupported(`${this.io.path}: segment ${id}: authenticated encryption`);
    }
    const sector = segment.sector_size;
    if (!isPowerOfTwo(sector) || sector > 4096) {
      throw unsupported(
        `${this.io.path}: segment ${id}: sector_size ${sector}: expected 512, 1024, 2048 or 4096`,
      );
    }
    if (!/^[\x21-\x7e]+$/.test(segment.encryption)) {
      throw damaged(`${this.io.path}: segment ${id}: encryption is no cipher`);
    }
  }

  #dataDigest(): { readonly id: string; readonly digest: Pbkdf2Digest } | undefined {
    for (const [id, segment] of byNumber(this.metadata.segments)) {
      if (isBackup(segment)) continue;
      for (const [own, digest] of Object.entries(this.metadata.digests)) {
        if (digest.segments.includes(String(id)) && isPbkdf2Digest(digest)) {
          return { id: own, digest };
        }
      }
    }
    return undefined;
  }

  /** A key cannot be told from a wrong one then, whatever slot it comes from. */
  #refuseUnknownDigest(): void {
    if (this.#dataDigest() !== undefined) return;
    const [data = ''] = segmentsOfData(this.metadata.segments);
    for (const [id, digest] of Object.entries(this.metadata.digests)) {
      if (!digest.segments.includes(data)) continue;
      throw unsupported(`${this.io.path}: digests.${id}.${unknownInDigest(digest)}`);
    }
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
    const problem = slotProblem(this.metadata, slot);
    if (problem === undefined && isLuks2Slot(found)) return found;
    throw unsupported(`${this.io.path}: key slot ${slot} cannot be used: ${problem}`);
  }

  /** Throws DmError when all are in use. */
  #free(record: Readonly<Record<string, unknown>>, count: number, what: string): number {
    const id = freeNumber(record, count);
    if (id !== undefined) return id;
    throw new DmError(Status.NoSpace, `${this.io.path}: all ${what} are in use`);
  }

  /** The metadata with a new slot that no digest has yet, and its token; the key material is written. */
  async #withSlot(
    key: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<{ readonly slot: number; readonly metadata: Luks2Metadata }> {
    const { slot = this.#free(this.metadata.keyslots, LUKS2_SLOTS, 'key slots'), tokenType } =
      options;
    this.#checkNumber(slot);
    if (Object.hasOwn(this.metadata.keyslots, slot)) {
      throw new DmError(Status.Exists, `${this.io.path}: key slot ${slot} is in use`);
    }
    const metadata = structuredClone(this.metadata);
    if (tokenType !== undefined) {
      const id = this.#free(metadata.tokens, LUKS2_TOKENS, 'tokens');
      metadata.tokens[id] = { type: tokenType, keyslots: [String(slot)] };
    }
    metadata.keyslots[slot] = await this.#newSlot(slot, key, passphrase, options);
    return { slot, metadata };
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
      const key = await readKeyArea(this.io, material, areaKey, keyBytes);
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
