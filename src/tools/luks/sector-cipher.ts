// The cipher of key slot areas: sectors of 512 bytes, numbered from the begin of the area, by a dm-crypt cipher
// specification (`aes-xts-plain64`). Areas are small, so this is plain rather than fast.

import { createCipheriv, createDecipheriv, createHash, getCiphers } from 'node:crypto';
import { SECTOR_BYTES } from '../../base/units.ts';
import { nodeHash } from './hashes.ts';
import { unsupported } from './luks-error.ts';
import { xts } from './xts.ts';

const BLOCK_BYTES = 16;
/** By dm-crypt's names; all have blocks of 16 bytes. */
const CIPHERS: readonly string[] = ['aes', 'camellia', 'aria', 'sm4'];
const MODES: readonly string[] = ['xts', 'cbc', 'ecb'];

type Iv = (sector: number) => Buffer;
/** One sector, with its IV (null: none). */
type Transform = (data: Uint8Array, iv: Buffer | null) => Buffer;

interface Parts {
  readonly cipher: string;
  readonly mode: string;
  readonly iv: string;
  readonly ivOption: string;
}

function partsOf(spec: string): Parts | undefined {
  const match = /^([a-z0-9_]+)-([a-z0-9]+)(?:-([a-z0-9]+)(?::([a-z0-9-]+))?)?$/.exec(spec);
  if (match === null) return undefined;
  const [, cipher = '', mode = '', iv = '', ivOption = ''] = match;
  return { cipher, mode, iv, ivOption };
}

/** As LUKS1 keeps it: `aes` and `xts-plain64`. */
export function splitCipherSpec(spec: string): { readonly name: string; readonly mode: string } {
  const dash = spec.indexOf('-');
  if (dash === -1) throw unsupported(`cipher '${spec}': expected CIPHER-MODE-IV`);
  return { name: spec.slice(0, dash), mode: spec.slice(dash + 1) };
}

/** Throws DmError naming `where` if this cipher, mode, IV or key size (bytes) cannot be had. */
export class SectorCipher {
  readonly #encrypt: Transform;
  readonly #decrypt: Transform;
  readonly #key: Buffer;
  readonly #iv: Iv | undefined;

  constructor(spec: string, key: Uint8Array, where: string) {
    const parts = partsOf(spec);
    if (parts === undefined || !CIPHERS.includes(parts.cipher) || !MODES.includes(parts.mode)) {
      throw unsupported(
        `${where}: cipher '${spec}': expected ${CIPHERS.join(', ')} in mode ${MODES.join(', ')}`,
      );
    }
    const { cipher, mode } = parts;
    const bits = (mode === 'xts' ? key.length / 2 : key.length) * 8;
    this.#key = Buffer.from(new Uint8Array(key).buffer);
    const name = nodeName(cipher, bits, mode);
    const ecb = nodeName(cipher, bits, 'ecb');
    if (name !== undefined) {
      this.#encrypt = (data, iv) => run(createCipheriv(name, this.#key, iv), data);
      this.#decrypt = (data, iv) => run(createDecipheriv(name, this.#key, iv), data);
    } else if (mode === 'xts' && ecb !== undefined) {
      this.#encrypt = (data, iv) => xts(ecb, this.#key, true, data, iv);
      this.#decrypt = (data, iv) => xts(ecb, this.#key, false, data, iv);
    } else {
      throw unsupported(
        `${where}: cipher '${spec}': a key of ${key.length * 8} bits; ${cipher} in mode ${mode} ` +
          `takes ${keySizes(cipher, mode)}`,
      );
    }
    this.#iv = ivOf(parts, this.#key, spec, where);
  }

  encrypt(data: Uint8Array): Buffer {
    return this.#eachSector(data, this.#encrypt);
  }

  decrypt(data: Uint8Array): Buffer {
    return this.#eachSector(data, this.#decrypt);
  }

  /** Forgets the key. */
  wipe(): void {
    this.#key.fill(0);
  }

  #eachSector(data: Uint8Array, transform: Transform): Buffer {
    const out = Buffer.alloc(data.length);
    for (let at = 0, sector = 0; at < data.length; at += SECTOR_BYTES, sector++) {
      const iv = this.#iv === undefined ? null : this.#iv(sector);
      const piece = transform(data.subarray(at, at + SECTOR_BYTES), iv);
      piece.copy(out, at);
      piece.fill(0);
    }
    return out;
  }
}

/** What Node calls it, if it has it. */
function nodeName(cipher: string, keyBits: number, mode: string): string | undefined {
  if (cipher === 'sm4' && keyBits !== 128) return undefined;
  const name = cipher === 'sm4' ? `sm4-${mode}` : `${cipher}-${keyBits}-${mode}`;
  return getCiphers().includes(name) ? name : undefined;
}

function keySizes(cipher: string, mode: string): string {
  const sizes = [128, 192, 256].filter((bits) => nodeName(cipher, bits, 'ecb') !== undefined);
  return `${sizes.map((bits) => (mode === 'xts' ? bits * 2 : bits)).join(', ')} bits`;
}

function run(cipher: ReturnType<typeof createCipheriv>, data: Uint8Array): Buffer {
  return cipher.setAutoPadding(false).update(data);
}

/** Sector numbers of areas are far below 2^32, so the upper halves stay zero. */
function ivOf(parts: Parts, key: Uint8Array, spec: string, where: string): Iv | undefined {
  const { mode, iv, ivOption } = parts;
  if (mode === 'ecb') return undefined;
  switch (iv) {
    case 'null':
      return () => Buffer.alloc(BLOCK_BYTES);
    case 'plain':
    case 'plain64':
      return littleEndian;
    case 'plain64be':
      return (sector) => bigEndian(sector);
    case 'benbi':
      // Counts cipher blocks, from 1.
      return (sector) => bigEndian(sector * (SECTOR_BYTES / BLOCK_BYTES) + 1);
    case 'essiv': {
      const hash = nodeHash(ivOption, `${where}: cipher '${spec}'`);
      const salt = createHash(hash.node).update(key).digest();
      return ecbOf(parts.cipher, salt, `${where}: cipher '${spec}'`, littleEndian);
    }
    case 'eboiv':
      return ecbOf(parts.cipher, key, `${where}: cipher '${spec}'`, (sector) =>
        littleEndian(sector * SECTOR_BYTES),
      );
    default:
      throw unsupported(
        `${where}: cipher '${spec}': IV '${iv}': expected plain, plain64, plain64be, essiv:HASH, ` +
          'benbi, eboiv or null',
      );
  }
}

/** The plain IV, itself encrypted. */
function ecbOf(cipher: string, key: Uint8Array, where: string, plain: Iv): Iv {
  const name = nodeName(cipher, key.length * 8, 'ecb');
  if (name === undefined) {
    throw unsupported(
      `${where}: an IV from a key of ${key.length * 8} bits; ${cipher} takes ${keySizes(cipher, 'ecb')}`,
    );
  }
  return (sector) => run(createCipheriv(name, key, null), plain(sector));
}

function littleEndian(value: number): Buffer {
  const iv = Buffer.alloc(BLOCK_BYTES);
  iv.writeBigUInt64LE(BigInt(value));
  return iv;
}

function bigEndian(value: number): Buffer {
  const iv = Buffer.alloc(BLOCK_BYTES);
  iv.writeBigUInt64BE(BigInt(value), 8);
  return iv;
}
