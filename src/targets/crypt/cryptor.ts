// Encrypts and decrypts sectors in the arena, for one thread. It is made from a recipe of numbers, so
// that each thread can have one; the keys are in OpenSSL's contexts.
//
// XTS with sectors below 4 KiB is done in batches, as ECB between two XORs (xts-wasm.ts): a call into
// OpenSSL a sector costs as much as the encryption of 512 bytes.

import { assert, bug } from '../../base/assert.ts';
import { addressOf } from '../../base/memory-address.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { SharedMemory } from '../../base/wasm.ts';
import type { ComputeHandler } from '../../io/compute.ts';
import type { ChainMode, IvMode } from './cipher-spec.ts';
import { cipherCalls } from './evp.ts';
import { LegacyIv, type LegacySeed } from './legacy-iv.ts';
import { type XtsMixer, xtsMixer } from './xts-wasm.ts';

/** Contexts of one key, all for one thread. 0 where the mode needs none. */
export interface KeyContexts {
  readonly encrypt: number;
  readonly decrypt: number;
  /** ECB of XTS's second key. */
  readonly tweak: number;
}

export interface CryptorRecipe {
  readonly chainMode: ChainMode | 'null';
  readonly ivMode: IvMode | null;
  readonly sectorBytes: number;
  /** IVs count sectors of `sectorBytes`, not of 512 bytes. */
  readonly hasLargeIvSectors: boolean;
  /** Of the mode: 1 for ctr. */
  readonly blockBytes: number;
  readonly ivBytes: number;
  /** XTS by OpenSSL itself: `encrypt` and `decrypt` are contexts of it. */
  readonly isWholeXts: boolean;
  readonly keys: readonly KeyContexts[];
  /** ECB that makes IVs (essiv, eboiv), or 0. */
  readonly ivContext: number;
  /** ECB of the second key, when eboiv makes its IVs with XTS; or 0. */
  readonly ivTweak: number;
  /** Of lmk and tcw. Such a recipe is not for other threads. */
  readonly legacy: LegacySeed | null;
}

export const CryptFlag = { Encrypt: 1 } as const;

/** Bytes done at a time: what stays in the processor's cache next to its tweaks. */
const PASS_BYTES = 32768;
const IV_BYTES = 16;
// The scratch memory: IVs, where OpenSSL writes a length, a sector that two segments share, tweaks.
const IVS_AT = 0;
const LENGTH_AT = (PASS_BYTES / SECTOR_BYTES) * IV_BYTES;
const BOUNCE_AT = 4096;
const TWEAKS_AT = 8192;

export class Cryptor implements ComputeHandler {
  /** Room for one sector, for whoever has one in pieces. */
  readonly bounce: number;
  readonly #recipe: CryptorRecipe;
  readonly #u8: Uint8Array;
  readonly #i32: Int32Array;
  readonly #base: number;
  readonly #scratch: number;
  readonly #mixer: XtsMixer;
  readonly #calls = cipherCalls();
  readonly #legacy: LegacyIv | null;

  constructor(memory: SharedMemory, scratch: number, recipe: CryptorRecipe) {
    this.#recipe = recipe;
    this.#u8 = new Uint8Array(memory.buffer);
    this.#i32 = new Int32Array(memory.buffer);
    this.#base = addressOf(memory);
    this.#scratch = scratch;
    this.bounce = scratch + BOUNCE_AT;
    this.#mixer = xtsMixer(memory, recipe.sectorBytes);
    this.#legacy = recipe.legacy === null ? null : new LegacyIv(recipe.legacy, this.#u8);
  }

  /**
   * `src` and `dst` are places in the arena, the same or apart; `lenBytes` is whole sectors; `position`
   * the first one's number in units of 512 bytes, the target's IV offset included.
   */
  run(flags: number, src: number, dst: number, lenBytes: number, position: number): void {
    const { sectorBytes, chainMode, keys } = this.#recipe;
    const isEncrypt = (flags & CryptFlag.Encrypt) !== 0;
    if (chainMode === 'null') {
      if (src !== dst) this.#u8.copyWithin(dst, src, src + lenBytes);
      return;
    }
    // With several keys, and with IVs made from the data, each sector is for itself.
    const isSingle = keys.length > 1 || this.#legacy !== null;
    const pass = isSingle ? sectorBytes : PASS_BYTES;
    for (let done = 0; done < lenBytes; done += pass) {
      const len = Math.min(pass, lenBytes - done);
      const sector = position + done / SECTOR_BYTES;
      const index = keys.length > 1 ? sector % keys.length : 0;
      this.#pass(isEncrypt, keys[index] as KeyContexts, src + done, dst + done, len, sector);
    }
  }

  #pass(
    isEncrypt: boolean,
    key: KeyContexts,
    src: number,
    dst: number,
    len: number,
    sector: number,
  ): void {
    const { chainMode, isWholeXts } = this.#recipe;
    if (this.#legacy !== null) this.#legacySector(isEncrypt, key, src, dst, len, sector);
    else if (chainMode === 'ecb')
      this.#update(isEncrypt ? key.encrypt : key.decrypt, src, dst, len);
    else {
      this.#fillIvs(sector, len);
      if (chainMode === 'xts' && !isWholeXts) this.#xts(isEncrypt, key, src, dst, len);
      else this.#chained(isEncrypt ? key.encrypt : key.decrypt, isEncrypt, src, dst, len);
    }
  }

  #xts(isEncrypt: boolean, key: KeyContexts, src: number, dst: number, len: number): void {
    const { sectorBytes } = this.#recipe;
    const ivs = this.#scratch + IVS_AT;
    const tweaks = this.#scratch + TWEAKS_AT;
    const sectors = len / sectorBytes;
    this.#update(key.tweak, ivs, ivs, sectors * IV_BYTES);
    this.#mixer.mix(ivs, tweaks, src, dst, sectors);
    this.#update(isEncrypt ? key.encrypt : key.decrypt, dst, dst, len);
    this.#mixer.unmix(tweaks, dst, len);
  }

  /** One call a sector, each with its IV. */
  #chained(context: number, isEncrypt: boolean, src: number, dst: number, len: number): void {
    const { sectorBytes } = this.#recipe;
    const { setIv } = this.#calls;
    let iv = this.#base + this.#scratch + IVS_AT;
    for (let at = 0; at < len; at += sectorBytes) {
      setIv(context, 0, 0, 0, iv, isEncrypt ? 1 : 0);
      this.#update(context, src + at, dst + at, sectorBytes);
      iv += IV_BYTES;
    }
  }

  #update(context: number, src: number, dst: number, len: number): void {
    const base = this.#base;
    const length = base + this.#scratch + LENGTH_AT;
    const ok = this.#calls.update(context, base + dst, length, base + src, len);
    if (ok !== 1) bug(`crypt: OpenSSL refused ${len} bytes`);
  }

  /** The IVs of a run of sectors, 16 bytes each. */
  #fillIvs(sector: number, len: number): void {
    const { sectorBytes, hasLargeIvSectors, ivMode, ivContext, ivTweak, blockBytes, ivBytes } =
      this.#recipe;
    const count = len / sectorBytes;
    const perSector = sectorBytes / SECTOR_BYTES;
    let number = hasLargeIvSectors ? sector / perSector : sector;
    let step = hasLargeIvSectors ? 1 : perSector;
    if (ivMode === 'eboiv') {
      number *= sectorBytes;
      step *= sectorBytes;
    } else if (ivMode === 'benbi') {
      // Counted in cipher blocks, from 1.
      number = number * (SECTOR_BYTES / blockBytes) + 1;
      step *= SECTOR_BYTES / blockBytes;
    }
    const isBigEndian = ivMode === 'plain64be' || ivMode === 'benbi';
    const words = this.#i32;
    let at = (this.#scratch + IVS_AT) >> 2;
    for (let i = 0; i < count; i++) {
      words[at] = words[at + 1] = words[at + 2] = words[at + 3] = 0;
      const high = Math.floor(number / 2 ** 32) | 0;
      if (isBigEndian) {
        // In the last 8 bytes of the IV.
        const end = at + ivBytes / 4;
        words[end - 2] = swap(high);
        words[end - 1] = swap(number | 0);
      } else if (ivMode !== 'null') {
        // To int32 by way of the low 32 bits, however large the number.
        words[at] = number | 0;
        if (ivMode !== 'plain') words[at + 1] = high;
      }
      at += 4;
      number += step;
    }
    if (ivContext === 0) return;
    const ivs = this.#scratch + IVS_AT;
    if (ivTweak !== 0) this.#xtsIvs(count * IV_BYTES);
    else this.#update(ivContext, ivs, ivs, count * IV_BYTES);
  }

  /** eboiv is a block of zeroes, encrypted as the data is: by XTS, its tweak alone between two XORs. */
  #xtsIvs(lenBytes: number): void {
    const { ivContext, ivTweak } = this.#recipe;
    const ivs = this.#scratch + IVS_AT;
    const tweaks = this.#scratch + TWEAKS_AT;
    this.#update(ivTweak, ivs, tweaks, lenBytes);
    this.#update(ivContext, tweaks, ivs, lenBytes);
    const words = this.#i32;
    for (let at = 0; at < lenBytes; at += 4) {
      const i = (ivs + at) >> 2;
      words[i] = (words[i] as number) ^ (words[(tweaks + at) >> 2] as number);
    }
  }

  /** lmk and tcw (512-byte sectors, CBC): IVs and whitening that depend on the data. */
  #legacySector(
    isEncrypt: boolean,
    key: KeyContexts,
    src: number,
    dst: number,
    len: number,
    sector: number,
  ): void {
    const legacy = this.#legacy as LegacyIv;
    assert(len === SECTOR_BYTES, `crypt: lmk and tcw with a sector of ${len} bytes`);
    const iv = this.#scratch + IVS_AT;
    if (src !== dst) this.#u8.copyWithin(dst, src, src + len);
    legacy.before(isEncrypt, dst, sector, iv);
    this.#chained(isEncrypt ? key.encrypt : key.decrypt, isEncrypt, dst, dst, len);
    legacy.behind(isEncrypt, dst, sector, iv);
  }
}

function swap(word: number): number {
  return (
    ((word & 0xff) << 24) |
    ((word & 0xff00) << 8) |
    ((word >>> 8) & 0xff00) |
    ((word >>> 24) & 0xff)
  );
}

/** For compute threads. */
export function makeHandler(
  memory: SharedMemory,
  scratch: number,
  recipe: unknown,
): ComputeHandler {
  return new Cryptor(memory, scratch, recipe as CryptorRecipe);
}
