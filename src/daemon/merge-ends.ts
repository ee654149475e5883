// What becomes of a merge that has ended: the device gets its old table back, the snapshot goes, and
// its file. That is for merges over a device that was put below another (see insertion.ts), which
// `lamina snapshot merge` begins: nobody has to wait for them. Tables loaded by hand stay as they are.
//
// Each step is a change of its own, and each is done again when the process ends before the next.

import { DmError } from '../base/errors.ts';
import { spawn } from '../base/spawn.ts';
import { escapeArg, parseTable } from '../dm/table-text.ts';
import { type Book, type DeviceEntry, deviceOfWord } from './book.ts';
import type { Plane } from './plane.ts';
import type { SavedTable } from './state-file.ts';
import type { VerbArgs } from './verbs.ts';

/** How the device below is called: DEVICE-real. */
const BELOW = /-real$/;

interface Line {
  readonly origin: string;
  readonly cow: string;
  readonly lenSectors: number;
}

export interface MergeEndsOptions {
  readonly plane: Plane;
  readonly book: Book;
  /** A change, as from a client. */
  readonly change: <N extends 'load' | 'remove' | 'resume' | 'takeOut'>(
    verb: N,
    args: VerbArgs<N>,
  ) => Promise<unknown>;
  /** Removes a file that is of no use any more. */
  readonly removeFile: (path: string) => Promise<void>;
  readonly log: (line: string) => void;
}

export class MergeEnds {
  readonly #options: MergeEndsOptions;
  /** Devices that are watched. */
  readonly #watched = new Set<string>();
  readonly #ending = new AbortController();

  constructor(options: MergeEndsOptions) {
    this.#options = options;
  }

  /** Watches merges that nobody watches yet. */
  look(): void {
    if (this.#ending.signal.aborted) return;
    for (const entry of this.#options.book.devices()) {
      const { name } = entry.saved;
      if (this.#watched.has(name) || mergeOf(entry) === undefined) continue;
      this.#watched.add(name);
      spawn(`merge into ${name}`, this.#watch(name));
    }
  }

  end(): void {
    this.#ending.abort();
  }

  async #watch(name: string): Promise<void> {
    try {
      await this.#untilMerged(name);
      const line = mergeOf(this.#options.book.device(name));
      if (line !== undefined) await this.#finish(name, line);
    } catch (error) {
      // Removed, renamed or suspended meanwhile; or the daemon ends. A later change looks again.
      if (!(error instanceof DmError)) throw error;
      if (!this.#ending.signal.aborted) {
        this.#options.log(`device ${name}: the end of a merge: ${error.message}`);
      }
    } finally {
      this.#watched.delete(name);
    }
  }

  /** Or until the device has another table. */
  async #untilMerged(name: string): Promise<void> {
    const { plane, book } = this.#options;
    const { signal } = this.#ending;
    for (;;) {
      const { eventNr } = await plane.info(name);
      if (mergeOf(book.device(name)) === undefined) return;
      const [line] = await plane.status(name, { noflush: true });
      const [, allocated, metadata] = /^(\d+)\/\d+ (\d+)$/.exec(line?.params ?? '') ?? [];
      if (allocated !== undefined && allocated === metadata) return;
      await plane.call('wait', [name, eventNr], signal);
    }
  }

  async #finish(name: string, { origin, cow, lenSectors }: Line): Promise<void> {
    const { book, change, removeFile } = this.#options;
    const users = book.devices().flatMap((entry) => snapshotOf(entry) ?? []);
    // First: left alone with the origin it would be a new snapshot of that.
    for (const snapshot of users) {
      if (snapshot.cow === cow) await change('remove', [snapshot.name, undefined]);
    }
    const table = `0 ${lenSectors} snapshot-origin ${escapeArg(`/dev/mapper/${origin}`)}`;
    await change('load', [name, table, undefined]);
    await change('resume', [name]);
    const isLast = users.every((other) => other.origin !== origin || other.cow === cow);
    if (isLast) await change('takeOut', [name, origin, undefined]);
    if (cow.startsWith('/')) await removeFile(cow);
  }
}

/** The merge that a device shows, where its end is looked after. */
function mergeOf(entry: DeviceEntry | undefined): Line | undefined {
  if (entry?.missing !== undefined) return undefined;
  const line = lineOf(entry?.saved.live, 'snapshot-merge');
  return line !== undefined && BELOW.test(line.origin) ? line : undefined;
}

function snapshotOf({ saved }: DeviceEntry): (Line & { readonly name: string }) | undefined {
  const line = lineOf(saved.live, 'snapshot');
  return line && { ...line, name: saved.name };
}

function lineOf(table: SavedTable | undefined, type: string): Line | undefined {
  if (table?.text.includes(type) !== true) return undefined;
  const [line, ...more] = parseTable(table.text);
  if (line?.type !== type || more.length > 0) return undefined;
  const [origin = '', cow = ''] = line.args;
  return { origin: deviceOfWord(origin), cow: deviceOfWord(cow), lenSectors: line.lenSectors };
}
