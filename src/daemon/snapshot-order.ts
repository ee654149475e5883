// Which snapshots have to be there before their origin may be written to: a write that a snapshot
// does not hear of spoils it, and nobody would notice. Tables do not say so themselves, because an
// origin names none of its snapshots.
//
// An origin is known by its word in the tables, which the device mapper prints in one way only.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { absoluteReference, isBareWord } from '../dm/references.ts';
import { parseTable, type TableLine } from '../dm/table-text.ts';
import { type Book, type DeviceEntry, deviceOfWord } from './book.ts';
import type { SavedTable } from './state-file.ts';

/**
 * The snapshots that are missing of origins which the table writes to. `name`: the device of the
 * table, which is no obstacle to itself.
 */
export function snapshotsBefore(
  book: Book,
  name: string,
  table: SavedTable | undefined,
): DeviceEntry[] {
  const origins = new Set(linesOf(table).filter(isWriter).map(originOf));
  if (origins.size === 0) return [];
  const others = book.devices().filter(({ saved }) => saved.name !== name);
  return others.filter((entry) => isNeededBy(origins, entry));
}

/** Throws DmError when there are such. */
export function refuseBeforeSnapshots(
  book: Book,
  name: string,
  table: SavedTable | undefined,
): void {
  const missing = snapshotsBefore(book, name, table);
  const [first] = missing;
  if (first === undefined) return;
  const names = missing.map(({ saved }) => saved.name);
  throw new DmError(Status.NoDevice, reason(names, first.missing ?? first.missingInactive ?? ''));
}

function reason([first = '', ...more]: readonly string[], why: string): string {
  const others = more.length === 0 ? '' : ` (and so are ${more.join(', ')})`;
  return (
    `snapshot ${first} is missing: ${why}${others}; writes to the origin would spoil it: bring back what it lacks, ` +
    `or give the snapshot up for good: lamina remove ${first}`
  );
}

/** Of what is missing: its content begins, or has begun, with what the origin has now. */
function isNeededBy(origins: ReadonlySet<string>, entry: DeviceEntry): boolean {
  const { saved, missing, missingInactive } = entry;
  const tables = [
    ...(missing === undefined ? [] : [saved.live, saved.inactive]),
    ...(missingInactive === undefined ? [] : [saved.inactive]),
  ];
  return tables.flatMap(linesOf).some((line) => isKept(line) && origins.has(originOf(line)));
}

function isWriter({ type }: TableLine): boolean {
  return type === 'snapshot-origin' || type === 'snapshot-merge';
}

/** A transient snapshot is lost with the program, whatever is written to its origin. */
function isKept({ type, args }: TableLine): boolean {
  return type === 'snapshot' && args[2]?.toUpperCase() !== 'N';
}

function originOf({ args }: TableLine): string {
  const word = deviceOfWord(args[0] ?? '');
  return isBareWord(word) ? word : absoluteReference(word);
}

/** A text that is no table is for the device mapper to refuse. */
function linesOf(table: SavedTable | undefined): readonly TableLine[] {
  if (table?.text.includes('snapshot') !== true) return [];
  try {
    return parseTable(table.text);
  } catch (error) {
    if (error instanceof DmError) return [];
    throw error;
  }
}
