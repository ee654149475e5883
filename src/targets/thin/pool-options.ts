// The words of a thin-pool's table line behind its devices.

import { invalid } from '../../base/errors.ts';
import { parseSectors } from '../../dm/table-text.ts';
import { blockSectorsComplaint } from './metadata.format.ts';

export interface PoolOptions {
  readonly dataBlockSectors: number;
  /** An event when no more data blocks than this are free. */
  readonly lowWaterBlocks: number;
  readonly skipsZeroing: boolean;
  readonly ignoresDiscard: boolean;
  readonly passesDiscards: boolean;
  readonly isReadOnly: boolean;
  readonly errorsIfNoSpace: boolean;
}

const FEATURES = [
  'skip_block_zeroing',
  'ignore_discard',
  'no_discard_passdown',
  'read_only',
  'error_if_no_space',
] as const;

/** `<block sectors> <low water blocks> [<number of features> <feature>...]`. Throws DmError. */
export function parsePoolOptions(args: readonly string[]): PoolOptions {
  const [block = '', lowWater = '', count, ...features] = args;
  const dataBlockSectors = parseSectors(block, 'Invalid block size');
  const complaint = blockSectorsComplaint(dataBlockSectors);
  if (complaint !== undefined) throw invalid(`Invalid block size: ${block} sectors: ${complaint}`);
  const lowWaterBlocks = parseSectors(lowWater, 'Invalid low water mark');
  if (count !== undefined && (!/^\d+$/.test(count) || Number(count) !== features.length)) {
    throw invalid(
      `Invalid number of pool feature arguments: '${count}', and ${features.length} follow`,
    );
  }
  const unknown = features.find((f) => !FEATURES.some((known) => known === f.toLowerCase()));
  if (unknown !== undefined) {
    throw invalid(
      `Unrecognised pool feature requested: '${unknown}': expected ${FEATURES.join(', ')}`,
    );
  }
  const has = (name: (typeof FEATURES)[number]): boolean =>
    features.some((f) => f.toLowerCase() === name);
  return {
    dataBlockSectors,
    lowWaterBlocks,
    skipsZeroing: has('skip_block_zeroing'),
    ignoresDiscard: has('ignore_discard'),
    passesDiscards: !has('no_discard_passdown'),
    isReadOnly: has('read_only'),
    errorsIfNoSpace: has('error_if_no_space'),
  };
}

/** As the kernel prints them: the block, low water, and the features in its order. */
export function printPoolOptions(options: PoolOptions): string {
  const features: string[] = [];
  if (options.skipsZeroing) features.push('skip_block_zeroing');
  if (options.ignoresDiscard) features.push('ignore_discard');
  if (!options.passesDiscards) features.push('no_discard_passdown');
  if (options.isReadOnly) features.push('read_only');
  if (options.errorsIfNoSpace) features.push('error_if_no_space');
  const words = [options.dataBlockSectors, options.lowWaterBlocks, features.length, ...features];
  return `${words.join(' ')} `;
}
