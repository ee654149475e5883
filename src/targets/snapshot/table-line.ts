// The words of a snapshot's table line.

import { invalid } from '../../base/errors.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import { chunkComplaint } from './chunk-size.ts';

export interface SnapshotLine {
  readonly originWord: string;
  readonly cowWord: string;
  readonly isPersistent: boolean;
  readonly showsOverflow: boolean;
  /** 0: as the store says. */
  readonly chunkSectors: number;
  readonly discardZeroesCow: boolean;
  readonly discardPassdownOrigin: boolean;
}

const EXPECTED =
  'expected <origin> <cow device> <P|PO|N> <chunk sectors> [<number of features> <feature>...]';

/** Throws DmError. */
export function parseSnapshotLine(args: readonly string[]): SnapshotLine {
  const [originWord, cowWord, kind, chunkText, ...rest] = args;
  if (chunkText === undefined || kind === undefined) {
    throw invalid(`requires 4 or more arguments: ${args.length}, ${EXPECTED}`);
  }
  const features = parseFeatures(rest);
  return {
    originWord: originWord as string,
    cowWord: cowWord as string,
    ...parseKind(kind),
    chunkSectors: parseChunk(chunkText),
    discardZeroesCow: features.has('discard_zeroes_cow'),
    discardPassdownOrigin: features.has('discard_passdown_origin'),
  };
}

/** As the table says it. `chunkSectors` and `word` are the store's. */
export function printSnapshotLine(
  line: SnapshotLine,
  devices: { readonly origin: BlockDevice; readonly cow: BlockDevice },
  store: { readonly word: string; readonly chunkSectors: number },
): string {
  const features = [
    ...(line.discardZeroesCow ? ['discard_zeroes_cow'] : []),
    ...(line.discardPassdownOrigin ? ['discard_passdown_origin'] : []),
  ];
  const words = [deviceWord(devices.origin), deviceWord(devices.cow), store.word];
  const tail = features.length === 0 ? [] : [features.length, ...features];
  return [...words, store.chunkSectors, ...tail].join(' ');
}

function parseKind(word: string): Pick<SnapshotLine, 'isPersistent' | 'showsOverflow'> {
  const upper = word.toUpperCase();
  if (upper !== 'P' && upper !== 'PO' && upper !== 'N') {
    throw invalid(`Exception store type is not P or N: '${word}': expected P, PO or N`);
  }
  return { isPersistent: upper !== 'N', showsOverflow: upper === 'PO' };
}

function parseChunk(text: string): number {
  const sectors = parseSectors(text, 'Invalid chunk size');
  const complaint = sectors === 0 ? '' : chunkComplaint(sectors, []);
  if (complaint !== '') throw invalid(complaint);
  return sectors;
}

const FEATURES: ReadonlySet<string> = new Set(['discard_zeroes_cow', 'discard_passdown_origin']);

function parseFeatures([countText, ...words]: readonly string[]): ReadonlySet<string> {
  if (countText === undefined) return new Set();
  const count = Number(countText);
  if (!/^\d+$/.test(countText) || count > FEATURES.size) {
    throw invalid(`Invalid number of feature arguments: '${countText}': expected 0 to 2`);
  }
  if (words.length !== count) {
    throw invalid(`Invalid number of feature arguments: ${count}, found ${words.length}`);
  }
  const unknown = words.find((word) => !FEATURES.has(word));
  if (unknown !== undefined) {
    const known = [...FEATURES].join(', ');
    throw invalid(`Unrecognised feature requested: '${unknown}': expected ${known}`);
  }
  const features = new Set(words);
  if (features.has('discard_passdown_origin') && !features.has('discard_zeroes_cow')) {
    throw invalid('discard_passdown_origin feature depends on discard_zeroes_cow');
  }
  return features;
}
