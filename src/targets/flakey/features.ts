// flakey's features: what goes wrong in a down interval, as words of a table line.

import { invalid } from '../../base/errors.ts';

export interface CorruptByte {
  /** Counted from 1. */
  readonly byte: number;
  readonly direction: 'r' | 'w';
  readonly value: number;
  /** Bits of the kernel's `bi_opf`; a bio that lacks one stays as it is. */
  readonly flags: number;
}

export interface FlakeyFeatures {
  readonly errorReads: boolean;
  readonly errorWrites: boolean;
  readonly dropWrites: boolean;
  readonly corruptByte: CorruptByte | null;
  /** Parts of 1,000,000,000. */
  readonly readCorruptOdds: number;
  readonly writeCorruptOdds: number;
  /** Nothing was asked for: everything fails. */
  readonly isDefault: boolean;
}

const PROBABILITY_MAX = 1_000_000_000;

type Draft = { -readonly [K in keyof FlakeyFeatures]: FlakeyFeatures[K] };

/** `[<number of words> <word>...]`. Throws DmError. */
export function parseFeatures(args: readonly string[]): FlakeyFeatures {
  const draft: Draft = {
    errorReads: false,
    errorWrites: false,
    dropWrites: false,
    corruptByte: null,
    readCorruptOdds: 0,
    writeCorruptOdds: 0,
    isDefault: false,
  };
  const words = featureWords(args);
  while (words.length > 0) parseFeature(words, draft);
  checkTogether(draft);
  const { errorReads, errorWrites, dropWrites, corruptByte } = draft;
  const { readCorruptOdds, writeCorruptOdds } = draft;
  const hasAny = errorReads || errorWrites || dropWrites || corruptByte !== null;
  if (!hasAny && readCorruptOdds === 0 && writeCorruptOdds === 0) {
    return { ...draft, errorReads: true, errorWrites: true, isDefault: true };
  }
  return draft;
}

function featureWords(args: readonly string[]): string[] {
  const [count, ...words] = args;
  if (count === undefined) return [];
  if (!/^\d+$/.test(count) || Number(count) !== words.length) {
    throw invalid(
      `Invalid number of feature args: '${count}', and ${words.length} words follow: '${words.join(' ')}'`,
    );
  }
  return words;
}

/** Takes one feature and its parameters off the front. */
function parseFeature(words: string[], draft: Draft): void {
  const name = words.shift() ?? '';
  switch (name.toLowerCase()) {
    case 'drop_writes':
      if (draft.dropWrites) throw invalid('Feature drop_writes duplicated');
      if (draft.errorWrites) throw conflict('drop_writes', 'error_writes');
      draft.dropWrites = true;
      return;
    case 'error_writes':
      if (draft.errorWrites) throw invalid('Feature error_writes duplicated');
      if (draft.dropWrites) throw conflict('error_writes', 'drop_writes');
      draft.errorWrites = true;
      return;
    case 'error_reads':
      if (draft.errorReads) throw invalid('Feature error_reads duplicated');
      draft.errorReads = true;
      return;
    case 'corrupt_bio_byte':
      draft.corruptByte = parseCorruptByte(words);
      return;
    case 'random_read_corrupt':
      draft.readCorruptOdds = parseOdds(words, name);
      return;
    case 'random_write_corrupt':
      draft.writeCorruptOdds = parseOdds(words, name);
      return;
    default:
      throw invalid(
        `Unrecognised flakey feature requested: '${name}': expected drop_writes, error_writes, ` +
          `error_reads, corrupt_bio_byte, random_read_corrupt or random_write_corrupt`,
      );
  }
}

function conflict(one: string, other: string): Error {
  return invalid(`Feature ${one} conflicts with feature ${other}`);
}

function parseCorruptByte(words: string[]): CorruptByte {
  const [byte, way, value, flags] = words.splice(0, 4);
  if (byte === undefined || way === undefined || value === undefined || flags === undefined) {
    throw invalid(
      'Feature corrupt_bio_byte requires parameters: expected <byte, from 1> <r|w> <value> <flags>',
    );
  }
  const direction = way.toLowerCase();
  if (direction !== 'r' && direction !== 'w') {
    throw invalid(`Invalid corrupt bio direction (r or w): found '${way}'`);
  }
  return {
    byte: parseNumber(byte, 1, 0xffffffff, 'Invalid corrupt bio byte'),
    direction,
    value: parseNumber(value, 0, 255, 'Invalid corrupt value to write into bio byte (0-255)'),
    flags: parseNumber(flags, 0, 0xffffffff, 'Invalid corrupt bio flags mask'),
  };
}

function parseOdds(words: string[], name: string): number {
  const text = words.shift();
  if (text === undefined) throw invalid(`Feature ${name} requires a parameter`);
  return parseNumber(text, 0, PROBABILITY_MAX, 'Invalid random corrupt argument');
}

function parseNumber(text: string, low: number, high: number, what: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= low && value <= high) return value;
  throw invalid(`${what}: found '${text}', expected ${low} to ${high}`);
}

function checkTogether({ dropWrites, errorWrites, errorReads, corruptByte }: Draft): void {
  const corrupts = corruptByte?.direction;
  if (dropWrites && corrupts === 'w') {
    throw invalid('drop_writes is incompatible with corrupt_bio_byte with the WRITE flag set');
  }
  if (errorWrites && corrupts === 'w') {
    throw invalid('error_writes is incompatible with corrupt_bio_byte with the WRITE flag set');
  }
  if (errorReads && corrupts === 'r') {
    throw invalid('error_reads is incompatible with corrupt_bio_byte with the READ flag set');
  }
}

/** `<number of words> <word>...`, which `parseFeatures` reads back. */
export function printFeatures(features: FlakeyFeatures): string {
  const words: string[] = [];
  if (!features.isDefault) {
    if (features.errorReads) words.push('error_reads');
    if (features.dropWrites) words.push('drop_writes');
    if (features.errorWrites) words.push('error_writes');
  }
  const { corruptByte, readCorruptOdds, writeCorruptOdds } = features;
  if (corruptByte !== null) {
    const { byte, direction, value, flags } = corruptByte;
    words.push('corrupt_bio_byte', `${byte}`, direction, `${value}`, `${flags}`);
  }
  if (readCorruptOdds > 0) words.push('random_read_corrupt', `${readCorruptOdds}`);
  if (writeCorruptOdds > 0) words.push('random_write_corrupt', `${writeCorruptOdds}`);
  return [words.length, ...words].join(' ');
}
