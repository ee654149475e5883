// verity's table line. Errors are the kernel's, with what was found and expected behind them.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { VERITY_SALT_BYTES_MAX } from '../../format/verity.ts';
import { findHash, type TreeFormat } from './tree.ts';

export interface VerityLine {
  readonly format: TreeFormat;
  readonly algorithmWord: string;
  readonly dataDevice: string;
  readonly hashDevice: string;
  readonly root: Uint8Array;
  readonly onCorruption: 'error' | 'ignore' | 'restart' | 'panic';
  readonly ignoresZeroBlocks: boolean;
  readonly checksAtMostOnce: boolean;
  /** In the kernel's order. */
  readonly options: readonly string[];
}

const MODES = ['ignore_corruption', 'restart_on_corruption', 'panic_on_corruption'] as const;
const ZERO_BLOCKS = 'ignore_zero_blocks';
const ONCE = 'check_at_most_once';
/** Where hashing is done in the kernel; here it changes nothing. */
const TASKLET = 'try_verify_in_tasklet';
const ORDER: readonly string[] = [...MODES, ZERO_BLOCKS, ONCE, TASKLET];
/** The kernel's are pages at most. */
const BLOCK_BYTES_MAX = 4096;

/** Throws DmError. */
export function parseVerityLine(args: readonly string[]): VerityLine {
  if (args.length < 10) {
    throw invalid(
      `Not enough arguments: ${args.length}, expected <version> <data device> <hash device> ` +
        '<data block bytes> <hash block bytes> <data blocks> <hash start block> <algorithm> <root> ' +
        '<salt> [<#options> <option>...]',
    );
  }
  const [
    version,
    dataDevice,
    hashDevice,
    dataBytes,
    hashBytes,
    blocks,
    start,
    word,
    root,
    salt,
    ...rest
  ] = args as [string, string, string, string, string, string, string, string, string, string];
  if (version !== '0' && version !== '1') {
    throw invalid(`Invalid version: '${version}': expected 0 or 1`);
  }
  const format: TreeFormat = {
    hashType: version === '0' ? 0 : 1,
    dataBlockBytes: blockBytes(dataBytes, 'Invalid data device block size'),
    hashBlockBytes: blockBytes(hashBytes, 'Invalid hash device block size'),
    dataBlocks: count(blocks, 'Invalid data blocks'),
    hashStart: count(start, 'Invalid hash start'),
    algorithm: findHash(word),
    salt: salt === '-' ? new Uint8Array(0) : hex(salt, 'Invalid salt'),
  };
  if (format.salt.length > VERITY_SALT_BYTES_MAX) {
    const found = format.salt.length;
    throw invalid(`Invalid salt: ${found} bytes, at most ${VERITY_SALT_BYTES_MAX}`);
  }
  return {
    format,
    algorithmWord: word,
    dataDevice,
    hashDevice,
    root: hex(root, 'Invalid root digest'),
    ...parseOptions(rest),
  };
}

function parseOptions(
  rest: readonly string[],
): Pick<VerityLine, 'onCorruption' | 'ignoresZeroBlocks' | 'checksAtMostOnce' | 'options'> {
  const [countWord, ...words] = rest;
  const given = new Set<string>();
  if (countWord !== undefined && !(/^\d+$/.test(countWord) && Number(countWord) === words.length)) {
    throw invalid(
      `Invalid number of feature args: announced '${countWord}', found ${words.length}`,
    );
  }
  for (const word of words) {
    const lower = word.toLowerCase();
    if (/^(?:use_fec_from_device|fec_|root_hash_sig)/.test(lower)) {
      throw new DmError(
        Status.NotSupported,
        `Unrecognized verity feature request: '${word}': no error correction or signatures here`,
      );
    }
    if (!ORDER.includes(lower)) {
      throw invalid(
        `Unrecognized verity feature request: '${word}': expected one of ${ORDER.join(', ')}`,
      );
    }
    given.add(lower);
  }
  const modes = MODES.filter((mode) => given.has(mode));
  if (modes.length > 1) {
    throw invalid(`Conflicting error handling parameters: ${modes.join(' and ')}`);
  }
  const kinds = ['ignore', 'restart', 'panic'] as const;
  const mode = modes[0];
  return {
    onCorruption: mode === undefined ? 'error' : (kinds[MODES.indexOf(mode)] ?? 'error'),
    ignoresZeroBlocks: given.has(ZERO_BLOCKS),
    checksAtMostOnce: given.has(ONCE),
    options: ORDER.filter((option) => given.has(option)),
  };
}

function blockBytes(word: string, what: string): number {
  const value = Number(word);
  const isPower = (value & (value - 1)) === 0;
  if (/^\d+$/.test(word) && value >= 512 && value <= BLOCK_BYTES_MAX && isPower) return value;
  throw invalid(`${what}: '${word}': expected a power of two from 512 to ${BLOCK_BYTES_MAX}`);
}

function count(word: string, what: string): number {
  const value = Number(word);
  if (/^\d+$/.test(word) && Number.isSafeInteger(value * BLOCK_BYTES_MAX)) return value;
  throw invalid(`${what}: '${word}': expected a number of blocks`);
}

function hex(word: string, what: string): Uint8Array {
  if (!/^(?:[0-9a-fA-F]{2})+$/.test(word)) {
    throw invalid(`${what}: '${word}': expected an even number of hexadecimal digits`);
  }
  return Buffer.from(word, 'hex');
}
