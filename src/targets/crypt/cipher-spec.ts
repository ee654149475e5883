// The cipher word of a crypt table line:
//
//   <cipher>[:<keycount>]-<chainmode>-<ivmode>[:<ivopts>]     aes-xts-plain64, aes-cbc-essiv:sha256
//   capi:<chainmode>(<cipher>)-<ivmode>[:<ivopts>]            capi:xts(aes)-plain64
//
// Source: Documentation/admin-guide/device-mapper/dm-crypt.rst; errors are the kernel's, with what was
// found and expected behind them.

import { getHashes } from 'node:crypto';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { hasCipher } from './evp.ts';

export type ChainMode = 'xts' | 'cbc' | 'ecb' | 'ctr';

export const IV_MODES = [
  'plain',
  'plain64',
  'plain64be',
  'essiv',
  'benbi',
  'null',
  'eboiv',
  'lmk',
  'tcw',
] as const;
export type IvMode = (typeof IV_MODES)[number];

export interface CipherSpec {
  /** As in the table line. */
  readonly text: string;
  /** The kernel's name, as `aes`. */
  readonly cipher: string;
  readonly chainMode: ChainMode;
  /** Null: the mode takes none. */
  readonly ivMode: IvMode | null;
  /** Hash of essiv, as node:crypto calls it; else ''. */
  readonly ivHash: string;
  /** How many keys take turns, by sector. A power of two. */
  readonly keyCount: number;
  readonly blockBytes: number;
  /** True for cipher_null, which changes nothing and has no key. */
  readonly isNull: boolean;
}

interface Cipher {
  /** The prefix of OpenSSL's names; the key size in bits behind it where there is a choice. */
  readonly prefix: string;
  readonly keyBytes: readonly number[];
  readonly blockBytes: number;
}

/** By the kernel's names. */
const CIPHERS: ReadonlyMap<string, Cipher> = new Map([
  ['aes', { prefix: 'aes', keyBytes: [16, 24, 32], blockBytes: 16 }],
  ['camellia', { prefix: 'camellia', keyBytes: [16, 24, 32], blockBytes: 16 }],
  ['aria', { prefix: 'aria', keyBytes: [16, 24, 32], blockBytes: 16 }],
  ['sm4', { prefix: 'sm4', keyBytes: [16], blockBytes: 16 }],
  ['des3_ede', { prefix: 'des-ede3', keyBytes: [24], blockBytes: 8 }],
]);
const NULL_CIPHER = 'cipher_null';
const CHAIN_MODES: readonly string[] = ['xts', 'cbc', 'ecb', 'ctr'];
const LMK_KEYS = 64;

/** OpenSSL's name for a cipher with one key of so many bytes; null when it takes no such key. */
export function opensslName(spec: CipherSpec, keyBytes: number, mode: string): string | null {
  const cipher = CIPHERS.get(spec.cipher);
  if (cipher === undefined || !cipher.keyBytes.includes(keyBytes)) return null;
  const size = cipher.keyBytes.length > 1 ? `-${keyBytes * 8}` : '';
  const name = `${cipher.prefix}${size}-${mode}`;
  return hasCipher(name) ? name : null;
}

/** Sizes of a whole key, bytes, for error messages. */
export function keySizes(spec: CipherSpec): number[] {
  const each = CIPHERS.get(spec.cipher)?.keyBytes ?? [0];
  const factor = (spec.chainMode === 'xts' ? 2 : 1) * spec.keyCount;
  return each.map((bytes) => bytes * factor);
}

/** Throws DmError. */
export function parseCipherSpec(text: string): CipherSpec {
  return text.startsWith('capi:') ? parseNew(text) : parseOld(text);
}

function parseOld(text: string): CipherSpec {
  if (text.includes('(')) {
    throw invalid(
      `Bad cipher specification: '${text}': parentheses belong to capi:<mode>(<cipher>)`,
    );
  }
  const [cipherWord = '', chainWord, ...ivWords] = text.split('-');
  const [cipher = '', count, ...more] = cipherWord.split(':');
  if (count !== undefined && (more.length > 0 || !isPowerOfTwo(count))) {
    const found = cipherWord.slice(cipher.length + 1);
    throw invalid(`Bad cipher key count specification: '${found}': expected a power of two`);
  }
  const keyCount = count === undefined ? 1 : Number(count);
  const iv = ivWords.length === 0 ? undefined : ivWords.join('-');
  // As the first dm-crypt had it: a cipher alone is cbc-plain.
  if (chainWord === undefined || (chainWord === 'plain' && iv === undefined)) {
    return complete(text, cipher, 'cbc', 'plain', keyCount);
  }
  return complete(text, cipher, chainWord, iv, keyCount);
}

function parseNew(text: string): CipherSpec {
  const match = /^capi:([\w-]+)\(([\w-]+)\)(?:-(.*))?$/.exec(text);
  if (match === null) {
    throw new DmError(
      Status.NoEntry,
      `Error allocating crypto tfm: '${text}': expected capi:<mode>(<cipher>)-<iv mode>`,
    );
  }
  const [, chainWord = '', cipher = '', iv] = match;
  return complete(text, cipher, chainWord, iv, 1);
}

function complete(
  text: string,
  cipher: string,
  chainWord: string,
  iv: string | undefined,
  keyCount: number,
): CipherSpec {
  if (chainWord !== 'ecb' && iv === undefined) {
    throw invalid(`IV mechanism required: '${text}': expected an IV mode behind '${chainWord}-'`);
  }
  const [ivWord = '', ...options] = (iv ?? '').split(':');
  const ivOption = options.join(':');
  if (ivWord === 'essiv' && options.length === 0) {
    throw invalid(`Digest algorithm missing for ESSIV mode: '${text}': expected essiv:<hash>`);
  }
  const known = CIPHERS.get(cipher);
  const isNull = cipher === NULL_CIPHER && (chainWord === 'ecb' || chainWord === 'cbc');
  const isBlockTooShort = chainWord === 'xts' && known?.blockBytes !== 16;
  const isThere = isNull || (known !== undefined && hasOpenssl(known));
  if (!isThere || !CHAIN_MODES.includes(chainWord) || isBlockTooShort) {
    const has = [...CIPHERS.keys(), NULL_CIPHER].join(', ');
    throw new DmError(
      Status.NoEntry,
      `Error allocating crypto tfm: '${text}': there is no ${chainWord}(${cipher}); expected one of ` +
        `${CHAIN_MODES.join(', ')} with one of ${has}`,
    );
  }
  if (chainWord === 'ecb' && ivWord === 'essiv') {
    throw new DmError(
      Status.NoEntry,
      `Error allocating crypto tfm: '${text}': there is no essiv for ecb, which takes no IVs`,
    );
  }
  const ivHash = ivWord === 'essiv' ? hashName(text, ivOption) : '';
  // The kernel warns of an IV mode with ecb, whatever it is, and goes without.
  const ivMode = chainWord === 'ecb' ? null : findIvMode(text, ivWord);
  if (ivMode === 'eboiv' && chainWord === 'ctr') {
    throw invalid(
      `Error creating IV: Block size of EBOIV cipher does not match IV size of block cipher: '${text}': ` +
        'eboiv goes with cbc and xts',
    );
  }
  return {
    text,
    cipher,
    chainMode: chainWord as ChainMode,
    ivMode,
    ivHash,
    keyCount: ivMode === 'lmk' ? LMK_KEYS : keyCount,
    blockBytes: known?.blockBytes ?? 1,
    isNull,
  };
}

function hasOpenssl(cipher: Cipher): boolean {
  const size = cipher.keyBytes.length > 1 ? `-${(cipher.keyBytes[0] as number) * 8}` : '';
  return hasCipher(`${cipher.prefix}${size}-ecb`);
}

function findIvMode(text: string, word: string): IvMode {
  const mode = IV_MODES.find((known) => known === word);
  if (mode !== undefined) return mode;
  throw invalid(`Invalid IV mode: '${word}' in '${text}': expected one of ${IV_MODES.join(', ')}`);
}

function hashName(text: string, word: string): string {
  // The kernel's rmd160 is ripemd160 elsewhere.
  const name = word === 'rmd160' ? 'ripemd160' : word;
  if (getHashes().includes(name)) return name;
  throw new DmError(
    Status.NoEntry,
    `Error allocating crypto tfm: '${text}': there is no hash '${word}'`,
  );
}

function isPowerOfTwo(word: string): boolean {
  const n = Number(word);
  return /^\d+$/.test(word) && n >= 1 && n <= 65536 && (n & (n - 1)) === 0;
}
