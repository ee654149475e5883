// A volume key at work: OpenSSL contexts for every thread that may use it.

import { createHash } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import { type CipherSpec, keySizes, opensslName } from './cipher-spec.ts';
import type { CryptorRecipe, KeyContexts } from './cryptor.ts';
import { freeContext, makeContext } from './evp.ts';
import type { LegacySeed } from './legacy-iv.ts';

export interface SectorFormat {
  readonly sectorBytes: number;
  readonly hasLargeIvSectors: boolean;
}

/** Sectors from this size on go through OpenSSL's own XTS, one call each; smaller ones in batches. */
const WHOLE_XTS_SECTOR_BYTES = 4096;
const TCW_WHITENING_BYTES = 16;

/** A key cut into its parts. */
interface KeyParts {
  readonly keys: readonly Uint8Array[];
  readonly legacy: LegacySeed | null;
}

export class VolumeKey {
  /** One for each thread. */
  readonly recipes: readonly CryptorRecipe[];
  #contexts: number[] = [];

  /** `key` is not kept. Throws DmError, after which nothing is left behind. */
  constructor(spec: CipherSpec, format: SectorFormat, key: Uint8Array, threads: number) {
    try {
      const parts = spec.isNull ? { keys: [], legacy: null } : cut(spec, format, key);
      this.recipes = Array.from({ length: threads }, () => this.#recipe(spec, format, key, parts));
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Nobody uses a recipe any more. */
  close(): void {
    for (const context of this.#contexts) freeContext(context);
    this.#contexts = [];
  }

  #recipe(spec: CipherSpec, format: SectorFormat, key: Uint8Array, parts: KeyParts): CryptorRecipe {
    const first = parts.keys[0] ?? new Uint8Array(0);
    const isWholeXts = this.#hasWholeXts(spec, format, first);
    return {
      ...format,
      chainMode: spec.isNull ? 'null' : spec.chainMode,
      ivMode: spec.ivMode,
      blockBytes: spec.chainMode === 'ctr' ? 1 : spec.blockBytes,
      ivBytes: spec.blockBytes,
      isWholeXts,
      keys: parts.keys.map((part) => this.#keyContexts(spec, part, isWholeXts)),
      ...this.#ivContexts(spec, key, first),
      legacy: parts.legacy,
    };
  }

  #hasWholeXts(spec: CipherSpec, format: SectorFormat, key: Uint8Array): boolean {
    if (spec.chainMode !== 'xts' || format.sectorBytes < WHOLE_XTS_SECTOR_BYTES) return false;
    const name = opensslName(spec, key.length / 2, 'xts');
    if (name === null) return false;
    // OpenSSL refuses two equal halves, which the kernel takes.
    const probe = makeContext(name, key, true);
    if (probe !== null) freeContext(probe);
    return probe !== null;
  }

  #keyContexts(spec: CipherSpec, key: Uint8Array, isWholeXts: boolean): KeyContexts {
    const { chainMode } = spec;
    if (chainMode === 'xts' && !isWholeXts) {
      const half = key.length / 2;
      const [data, tweak] = [key.subarray(0, half), key.subarray(half)];
      return {
        encrypt: this.#make(spec, data, 'ecb', true),
        decrypt: this.#make(spec, data, 'ecb', false),
        tweak: this.#make(spec, tweak, 'ecb', true),
      };
    }
    return {
      encrypt: this.#make(spec, key, chainMode, true),
      decrypt: this.#make(spec, key, chainMode, false),
      tweak: 0,
    };
  }

  #ivContexts(
    spec: CipherSpec,
    key: Uint8Array,
    first: Uint8Array,
  ): Pick<CryptorRecipe, 'ivContext' | 'ivTweak'> {
    if (spec.isNull) return { ivContext: 0, ivTweak: 0 };
    if (spec.ivMode === 'eboiv' && spec.chainMode === 'xts') {
      const { encrypt, tweak } = this.#keyContexts(spec, first, false);
      return { ivContext: encrypt, ivTweak: tweak };
    }
    if (spec.ivMode === 'eboiv') {
      return { ivContext: this.#make(spec, first, 'ecb', true), ivTweak: 0 };
    }
    if (spec.ivMode !== 'essiv') return { ivContext: 0, ivTweak: 0 };
    const salt = createHash(spec.ivHash).update(key).digest();
    try {
      return { ivContext: this.#make(spec, salt, 'ecb', true), ivTweak: 0 };
    } finally {
      salt.fill(0);
    }
  }

  #make(spec: CipherSpec, key: Uint8Array, mode: string, isEncrypt: boolean): number {
    const bytes = mode === 'xts' ? key.length / 2 : key.length;
    const name = opensslName(spec, bytes, mode);
    const context = name === null ? null : makeContext(name, key, isEncrypt);
    if (context === null) {
      throw invalid(
        `Error decoding and setting key: ${spec.cipher} takes no key of ${bytes} bytes`,
      );
    }
    this.#contexts.push(context);
    return context;
  }
}

function cut(spec: CipherSpec, format: SectorFormat, key: Uint8Array): KeyParts {
  const { keyCount, ivMode, text } = spec;
  if ((ivMode === 'lmk' || ivMode === 'tcw') && format.sectorBytes !== 512) {
    const shown = ivMode.toUpperCase();
    throw invalid(
      `Error creating IV: Unsupported sector size for ${shown}: ${format.sectorBytes}, expected 512`,
    );
  }
  let extra = 0;
  if (ivMode === 'tcw') extra = spec.blockBytes + TCW_WHITENING_BYTES;
  if (ivMode === 'lmk' && key.length % keyCount !== 0) extra = key.length / (keyCount + 1);
  const each = (key.length - extra) / keyCount;
  const sizes = keySizes({ ...spec, keyCount: 1 });
  if (!sizes.includes(each)) {
    const expected = sizes.map((bytes) => bytes * keyCount + extra).join(' or ');
    throw invalid(
      `Error decoding and setting key: ${key.length} bytes: '${text}' takes ${expected}`,
    );
  }
  const keys = Array.from({ length: keyCount }, (_, i) => key.subarray(i * each, (i + 1) * each));
  return { keys, legacy: legacySeed(spec, key, extra) };
}

function legacySeed(spec: CipherSpec, key: Uint8Array, extra: number): LegacySeed | null {
  const tail = key.slice(key.length - extra);
  if (spec.ivMode === 'lmk') {
    return { kind: 'lmk', seed: extra === 0 ? null : tail.slice(0, 16) };
  }
  if (spec.ivMode !== 'tcw') return null;
  return {
    kind: 'tcw',
    iv: tail.slice(0, spec.blockBytes),
    whitening: tail.slice(spec.blockBytes),
  };
}
