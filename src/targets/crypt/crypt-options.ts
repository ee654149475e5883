// The optional words of a crypt table line, and its key word.

import { readFileSync } from 'node:fs';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { Secret } from './secret.ts';

export interface CryptOptions {
  readonly allowsDiscards: boolean;
  /** Every job on one thread. */
  readonly isSameCpu: boolean;
  /** Writes leave as they are encrypted, not sorted. */
  readonly isUnsorted: boolean;
  readonly isHighPriority: boolean;
  /** Encrypted and decrypted where they come in, never by another thread. */
  readonly readsInline: boolean;
  readonly writesInline: boolean;
  readonly sectorBytes: number;
  readonly hasLargeIvSectors: boolean;
}

const FLAGS = [
  'allow_discards',
  'same_cpu_crypt',
  'high_priority',
  'submit_from_crypt_cpus',
  'no_read_workqueue',
  'no_write_workqueue',
] as const;
const LARGE_SECTORS = 'iv_large_sectors';

/** `args`: what stands behind the five fixed words. Throws DmError. */
export function parseCryptOptions(args: readonly string[], lenSectors: number): CryptOptions {
  const [countWord, ...words] = args;
  const given = new Set<string>();
  let sectorBytes = SECTOR_BYTES;
  const count = countWord === undefined ? 0 : Number(countWord);
  if (countWord !== undefined && (!/^\d+$/.test(countWord) || count > 8)) {
    throw invalid(`Invalid number of feature args: '${countWord}': expected 0 to 8`);
  }
  if (words.length < count) {
    throw invalid(`Invalid number of feature args: announced ${count}, found ${words.length}`);
  }
  if (words.length > count) {
    throw invalid(`Too many feature arguments: announced ${count}, found ${words.length}`);
  }
  for (const word of words) {
    const lower = word.toLowerCase();
    const size = /^sector_size:(.*)$/.exec(lower);
    if (size !== null) sectorBytes = parseSectorSize(size[1] as string, lenSectors);
    else if (lower.startsWith('integrity:')) refuseIntegrity(word);
    else if (lower === LARGE_SECTORS || (FLAGS as readonly string[]).includes(lower)) {
      given.add(lower);
    } else {
      const expected = [...FLAGS, LARGE_SECTORS, 'sector_size:<bytes>'].join(', ');
      throw invalid(`Invalid feature arguments: '${word}': expected one of ${expected}`);
    }
  }
  return {
    allowsDiscards: given.has('allow_discards'),
    isSameCpu: given.has('same_cpu_crypt'),
    isUnsorted: given.has('submit_from_crypt_cpus'),
    isHighPriority: given.has('high_priority'),
    readsInline: given.has('no_read_workqueue'),
    writesInline: given.has('no_write_workqueue'),
    sectorBytes,
    hasLargeIvSectors: given.has(LARGE_SECTORS),
  };
}

/** As the kernel's TABLE line has them: its order, not the one they were given in. '' when none. */
export function printCryptOptions(options: CryptOptions): string {
  const words: string[] = [];
  const has = [
    options.allowsDiscards,
    options.isSameCpu,
    options.isHighPriority,
    options.isUnsorted,
    options.readsInline,
    options.writesInline,
  ];
  for (const [i, flag] of FLAGS.entries()) if (has[i] === true) words.push(flag);
  if (options.sectorBytes !== SECTOR_BYTES) words.push(`sector_size:${options.sectorBytes}`);
  if (options.hasLargeIvSectors) words.push(LARGE_SECTORS);
  return words.length === 0 ? '' : ` ${words.length} ${words.join(' ')}`;
}

function parseSectorSize(word: string, lenSectors: number): number {
  const bytes = Number(word);
  const isPower = (bytes & (bytes - 1)) === 0;
  if (!/^\d+$/.test(word) || bytes < SECTOR_BYTES || bytes > 4096 || !isPower) {
    throw invalid(
      `Invalid feature value for sector_size: '${word}': expected 512, 1024, 2048 or 4096`,
    );
  }
  if ((lenSectors * SECTOR_BYTES) % bytes !== 0) {
    throw invalid(
      `Device size is not multiple of sector_size feature: ${lenSectors} sectors of 512 bytes, ` +
        `sector_size ${bytes}`,
    );
  }
  return bytes;
}

function refuseIntegrity(word: string): never {
  const match = /^integrity:(\d+):(.*)$/i.exec(word);
  if (match === null || Number(match[1]) === 0) {
    throw invalid(`Invalid integrity arguments: '${word}': expected integrity:<bytes>:<aead|none>`);
  }
  throw new DmError(
    Status.NotSupported,
    `Integrity profile not supported: '${word}': no device here keeps tags beside its sectors`,
  );
}

/** A key as a table line or a message names it. */
export interface KeySource {
  readonly secret: Secret;
  /** What `table` prints in its place when it is no secret itself; null for hexadecimal digits. */
  readonly shownWord: string | null;
}

/**
 * Hexadecimal digits, `-` for no key, or `:<bytes>:file:<path>` for a file of raw bytes (lamina's own; the
 * kernel's keyring types need its keyring). Throws DmError; no message has a digit of the key.
 */
export function readKey(word: string): KeySource {
  if (word === '-') return { secret: new Secret(new Uint8Array(0)), shownWord: '-' };
  if (word.startsWith(':')) return readKeyFile(word);
  if (!/^(?:[0-9a-fA-F]{2})+$/.test(word)) {
    throw invalid(
      `Error decoding and setting key: ${word.length} characters: expected an even number of ` +
        `hexadecimal digits, - or :<bytes>:file:<path>`,
    );
  }
  const bytes = Buffer.from(word, 'hex');
  if (bytes.every((byte) => byte === 0)) {
    throw invalid(
      'Error decoding and setting key: it is all zeroes, as tables are printed without --showkeys',
    );
  }
  return { secret: new Secret(bytes), shownWord: null };
}

function readKeyFile(word: string): KeySource {
  const match = /^:(\d+):(\w+):(.+)$/s.exec(word);
  if (match === null) {
    throw invalid(`Cannot parse key size: '${word}': expected :<bytes>:<type>:<description>`);
  }
  const [, size, type, path] = match as unknown as [string, string, string, string];
  if (type !== 'file') {
    throw new DmError(
      Status.NotSupported,
      `Error decoding and setting key: key type '${type}' is the kernel's keyring; expected file`,
    );
  }
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new DmError(
      Status.NoEntry,
      `Error decoding and setting key: key file ${path}: ${errorText(error)}`,
    );
  }
  if (bytes.length !== Number(size)) {
    const found = bytes.length;
    bytes.fill(0);
    throw invalid(
      `Error decoding and setting key: key file ${path}: ${found} bytes, expected ${size}`,
    );
  }
  return { secret: new Secret(bytes), shownWord: word };
}
