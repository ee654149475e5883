// What a refusal says when a table names a device that is missing itself: not that there is none, but that it is
// missing, and why.

import { DmError, errorText } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import { NO_SUCH_MAPPED } from '../dm/references.ts';
import { type Book, deviceOfWord, wordsOf } from './book.ts';
import type { SavedTable } from './state-file.ts';

/** The text of a refusal of `table`, with what the book knows of the device that it lacks. */
export function withMissing(book: Book, table: SavedTable | undefined, text: string): string {
  const word = lackedBy(table, text);
  if (word === undefined) return text;
  if (book.device(deviceOfWord(word)) === undefined) {
    return `${text}; ${opensWith(deviceOfWord(word))}`;
  }
  const name = deviceOfWord(word);
  return text.replace(lackOf(word), () => `device ${name} ${whyMissing(book, name)}`);
}

/** Volumes that hold keys are not in the state: what the book does not know may have been one. */
export function opensWith(device: string): string {
  return `an encrypted volume comes back with: lamina luks open IMAGE ${device}`;
}

/** The same for an error of a table that a client sent. */
export function errorWithMissing(book: Book, text: string, error: unknown): unknown {
  const table = { text, isReadOnly: false };
  const message = errorText(error);
  const word = lackedBy(table, message);
  if (word === undefined || book.device(deviceOfWord(word))?.missing === undefined) return error;
  const status: Status = error instanceof DmError ? error.status : statusOfError(error);
  return new DmError(status, withMissing(book, table, message), { cause: error });
}

/** The word of a table for the device that there is not. */
function lackedBy(table: SavedTable | undefined, text: string): string | undefined {
  if (!text.includes(NO_SUCH_MAPPED)) return undefined;
  return wordsOf(table).find((word) => lackOf(word).test(text));
}

function lackOf(word: string): RegExp {
  const hint = literally(`; a file is named by a path: ./${word}`);
  return new RegExp(`device ${literally(word)}: ${NO_SUCH_MAPPED}(?:${hint})?`);
}

function literally(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}

/** The reason at the bottom: what stands on a missing device is missing for that alone. */
function whyMissing(book: Book, name: string): string {
  const seen = new Set<string>();
  for (let at = name; !seen.has(at); ) {
    seen.add(at);
    const entry = book.device(at);
    const below = wordsOf(entry?.saved.live)
      .map(deviceOfWord)
      .find((word) => book.device(word)?.missing !== undefined);
    if (below !== undefined) {
      at = below;
      continue;
    }
    const reason = entry?.missing ?? '';
    return at === name ? `is missing: ${reason}` : `is missing, as ${at} below it is: ${reason}`;
  }
  return 'is missing';
}
