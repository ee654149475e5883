// Brings back what the book has and the plane has not: at the start, when something appears that a missing
// device may have waited for, when a file changes, and when asked.
//
// Devices are tried side by side, so that one whose server does not answer holds up none but those on top
// of it. A device that is there again is followed by what names it, and by its exports.

import type { Clock, Timer } from '../base/clock.ts';
import { DmError, errorText } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import type { Missing } from './answers.ts';
import { type Book, type DeviceEntry, deviceOfWord, isIncomplete, wordsOf } from './book.ts';
import { opensWith, withMissing } from './missing-reason.ts';
import type { Plane } from './plane.ts';
import { refuseBeforeSnapshots, snapshotsBefore } from './snapshot-order.ts';
import type { SavedDevice, SavedTable } from './state-file.ts';
import { deviceTurn, exportTurn, type Turns } from './turns.ts';

export interface RestorerOptions {
  readonly plane: Plane;
  readonly book: Book;
  readonly turns: Turns;
  readonly clock: Clock;
  /** What tells one state of a file from another without opening it. Never rejects. */
  readonly look: (path: string) => Promise<string>;
  /** The book may have changed by itself. */
  readonly changed: () => Promise<void>;
}

/** How often files are looked at. */
const LOOK_MS = 5000;
/** Every so many looks what may end without a trace in a file is tried: locks, and servers. */
const LOOKS_PER_TRY = 6;
const PASSING: ReadonlySet<number> = new Set([
  Status.Again,
  Status.Busy,
  Status.NoMemory,
  101,
  103,
  104,
  Status.TimedOut,
  111,
  113,
]);

export class Restorer {
  readonly #options: RestorerOptions;
  /** What the files of a missing device looked like when it was last tried, and what came of it. */
  readonly #tries = new Map<string, { readonly looks: string; readonly status: Status }>();
  /** Origins that were kept back for a snapshot that is missing. */
  readonly #keptBack = new Set<string>();
  #timer: Timer | undefined;
  #looks = 0;
  #isEnded = false;

  constructor(options: RestorerOptions) {
    this.#options = options;
  }

  /** Tries everything that is missing, or one device or export and what hangs on it. */
  async retry(name?: string): Promise<void> {
    const { book } = this.#options;
    const missing = book.devices().filter((entry) => isIncomplete(entry));
    const names = new Set(missing.map(({ saved }) => saved.name));
    // The lowest first: the others follow when what they name is there.
    const lowest = missing.filter(
      (entry) => name === undefined && !this.#waitsForAny(entry, names),
    );
    await this.#tryAll(lowest);
    // And whatever has not been reached, for its reason.
    const tried = new Set(lowest.map(({ saved }) => saved.name));
    const rest = book.devices().filter((entry) => isIncomplete(entry));
    await this.#tryFromBelow(
      rest.filter(({ saved }) =>
        name === undefined ? !tried.has(saved.name) : saved.name === name,
      ),
    );
    const exports = book.exports().filter((entry) => entry.missing !== undefined);
    for (const { saved } of exports) {
      if (name === undefined || saved.name === name) await this.#tryExport(saved.name);
    }
  }

  /** To be called without a turn: tries what names a device that is there now. */
  async appeared(device: string): Promise<void> {
    const { book } = this.#options;
    for (const { saved, missing } of book.exportsOf(device)) {
      if (missing !== undefined) await this.#tryExport(saved.name);
    }
    await this.#tryAll(book.usersOf(device).filter((entry) => isIncomplete(entry)));
    await this.#tryKeptBack();
  }

  /** Tries origins that were kept back for snapshots that have come, or gone. */
  async #tryKeptBack(): Promise<void> {
    const { book } = this.#options;
    const all = [...this.#keptBack].flatMap((name) => book.device(name) ?? []);
    this.#keptBack.clear();
    await this.#tryAll(all.filter(({ missing }) => missing !== undefined));
  }

  /** A device is not tried while one that it names is being made. */
  async #tryFromBelow(entries: readonly DeviceEntry[]): Promise<void> {
    for (let left = entries; left.length > 0; ) {
      const names = new Set(left.map(({ saved }) => saved.name));
      const lowest = left.filter((entry) => !this.#waitsForAny(entry, names));
      const some = lowest.length === 0 ? left : lowest;
      await this.#tryAll(some);
      left = left.filter((entry) => !some.includes(entry));
    }
  }

  #waitsForAny(entry: DeviceEntry, names: ReadonlySet<string>): boolean {
    const { name, live } = entry.saved;
    const before = snapshotsBefore(this.#options.book, name, live);
    return usesAny(entry, names) || before.some(({ saved }) => names.has(saved.name));
  }

  /** A file that is first opened read-only could not be written to by another table. */
  async #tryAll(entries: readonly DeviceEntry[]): Promise<void> {
    for (const isReadOnly of [false, true]) {
      const some = entries.filter(({ saved }) => (saved.live?.isReadOnly ?? false) === isReadOnly);
      await Promise.all(some.map(({ saved }) => this.#try(saved.name)));
    }
  }

  /**
   * To be called without a turn: devices that were to go with their last user are gone, or go once
   * nothing that is missing needs them.
   */
  async applyDeferred(): Promise<void> {
    const { book } = this.#options;
    // From the top down: whatever goes may have been the last user of another.
    for (let before = -1; before !== book.devices().length; ) {
      before = book.devices().length;
      for (const { saved } of book.devices().toReversed()) {
        if (saved.isDeferredRemove) await this.#applyDeferred(saved.name);
      }
    }
    await this.#tryKeptBack();
  }

  missing(): Missing[] {
    const { book } = this.#options;
    const all: Missing[] = [];
    for (const { saved, missing, missingInactive } of book.devices()) {
      if (missing !== undefined) all.push({ kind: 'device', name: saved.name, reason: missing });
      if (missingInactive !== undefined) {
        all.push({ kind: 'inactive table', name: saved.name, reason: missingInactive });
      }
    }
    for (const { saved, missing } of book.exports()) {
      if (missing !== undefined) all.push({ kind: 'export', name: saved.name, reason: missing });
    }
    return all;
  }

  /** Looks at files from now on, as long as something is missing. */
  watch(): void {
    if (this.#timer !== undefined || this.#isEnded || this.missing().length === 0) return;
    this.#timer = this.#options.clock.after(LOOK_MS, () => {
      this.#timer = undefined;
      // A plane that is being shut down refuses to be looked at.
      this.#look()
        .catch(() => undefined)
        .finally(() => this.watch());
    });
  }

  end(): void {
    this.#isEnded = true;
    this.#timer?.cancel();
  }

  async #look(): Promise<void> {
    this.#looks++;
    for (const entry of this.#options.book.devices()) {
      if (!isIncomplete(entry) || this.#isEnded) continue;
      const { name } = entry.saved;
      const last = this.#tries.get(name);
      const mayPass = PASSING.has(last?.status ?? 0) && this.#looks % LOOKS_PER_TRY === 0;
      if (mayPass || last?.looks !== (await this.#lookAt(entry))) await this.#try(name);
    }
    await this.applyDeferred();
    await this.#options.changed();
  }

  async #lookAt({ saved }: DeviceEntry): Promise<string> {
    const words = [...wordsOf(saved.live), ...wordsOf(saved.inactive)];
    const paths = words.flatMap((word) => /^(?:file:)?(\/[^?]*)/.exec(word)?.[1] ?? []);
    return (await Promise.all(paths.map((path) => this.#options.look(path)))).join('\n');
  }

  /** One try at a device, then at what hangs on it. */
  async #try(name: string): Promise<void> {
    const { book, turns } = this.#options;
    const isBack = await turns.take([deviceTurn(name)], async () => {
      const entry = book.device(name);
      if (entry === undefined || !isIncomplete(entry) || this.#isEnded) return false;
      const looks = await this.#lookAt(entry);
      const status = await this.#recreate(entry);
      this.#tries.set(name, { looks, status });
      const now = book.device(name);
      if (!isIncomplete(now)) this.#tries.delete(name);
      return entry.missing !== undefined && now?.missing === undefined;
    });
    if (isBack) await this.appeared(name);
  }

  /** Puts into the book what came of it. */
  async #recreate(entry: DeviceEntry): Promise<Status> {
    const { plane } = this.#options;
    const { saved } = entry;
    const { name, uuid, minor, live, inactive } = saved;
    try {
      if (entry.missing !== undefined) {
        refuseWithoutKey(live);
        this.#keepBack(entry);
        await plane.create({
          name,
          uuid,
          minor,
          isReadOnly: live?.isReadOnly ?? saved.isReadOnly,
          isRestored: true,
          ...(live === undefined ? {} : { table: live.text }),
        });
        if (live !== undefined && saved.isSuspended) await this.#suspend(name);
      }
    } catch (error) {
      this.#put(name, { missing: this.#reasonOf(saved, live, error) });
      return statusOf(error);
    }
    try {
      if (inactive !== undefined) {
        refuseWithoutKey(inactive);
        await plane.load(name, inactive.text, {
          isReadOnly: inactive.isReadOnly,
          isRestored: true,
        });
      }
    } catch (error) {
      this.#put(name, { missingInactive: this.#reasonOf(saved, inactive, error) });
      return statusOf(error);
    }
    this.#put(name, {});
    return Status.Ok;
  }

  /** Throws DmError for an origin whose snapshots are not there: writes to it would spoil them. */
  #keepBack({ saved }: DeviceEntry): void {
    this.#keptBack.add(saved.name);
    refuseBeforeSnapshots(this.#options.book, saved.name, saved.live);
    this.#keptBack.delete(saved.name);
  }

  /** Why a table was refused. */
  #reasonOf({ name }: SavedDevice, table: SavedTable | undefined, error: unknown): string {
    return withMissing(this.#options.book, table, reasonOf(name, error));
  }

  /** What came of a try. A rename may have changed the tables in the book meanwhile. */
  #put(name: string, missing: Pick<DeviceEntry, 'missing' | 'missingInactive'>): void {
    const { book } = this.#options;
    const entry = book.device(name);
    if (entry === undefined) return;
    book.putDevice({ saved: entry.saved, isVolatile: entry.isVolatile, ...missing });
  }

  async #suspend(name: string): Promise<void> {
    const { plane } = this.#options;
    try {
      await plane.suspend(name, { noflush: true });
    } catch (error) {
      // It would let I/O go that the state holds back.
      await plane.remove(name);
      throw error;
    }
  }

  async #tryExport(name: string): Promise<void> {
    const { plane, book, turns } = this.#options;
    const device = book.export(name)?.saved.device ?? '';
    await turns.take([exportTurn(name), deviceTurn(device)], async () => {
      const entry = book.export(name);
      if (entry?.missing === undefined || this.#isEnded) return;
      const { saved } = entry;
      const missing = book.device(saved.device)?.missing;
      try {
        if (missing !== undefined) {
          throw new DmError(Status.NoDevice, `device ${saved.device} is missing: ${missing}`);
        }
        await plane.createExport(saved);
        book.putExport({ saved });
      } catch (error) {
        const isKnown = book.device(saved.device) !== undefined;
        const reason = errorText(error);
        book.putExport({
          saved,
          missing: isKnown ? reason : `${reason}; ${opensWith(saved.device)}`,
        });
      }
    });
  }

  async #applyDeferred(name: string): Promise<void> {
    const { plane, book, turns } = this.#options;
    await turns.take([deviceTurn(name)], async () => {
      const entry = book.device(name);
      if (entry?.saved.isDeferredRemove !== true || this.#isEnded) return;
      const isAwaited = book.isAwaited(name);
      if (entry.missing !== undefined) {
        if (!isAwaited) book.dropDevice(name);
        return;
      }
      const found = (await plane.list()).find((device) => device.name === name);
      if (found !== undefined && (found.isDeferredRemove || isAwaited)) return;
      if (found !== undefined) await plane.remove(name, { deferred: true });
      const isThere = (await plane.list()).some((device) => device.name === name);
      if (!isThere) book.dropDevice(name);
    });
  }
}

function usesAny({ saved }: DeviceEntry, names: ReadonlySet<string>): boolean {
  const words = [...wordsOf(saved.live), ...wordsOf(saved.inactive)];
  return words.some((word) => names.has(deviceOfWord(word)));
}

function refuseWithoutKey(table: SavedTable | undefined): void {
  if (table?.isWithoutKey !== true) return;
  throw new DmError(
    Status.NoEntry,
    'a key stood in its table, and keys are not saved: remove it (--force takes exports that wait for it along), ' +
      'and create it with the key again',
  );
}

/** Listed behind the device's name, which is in the error too. */
function reasonOf(name: string, error: unknown): string {
  const prefix = `device ${name}: `;
  const text = errorText(error);
  return text.startsWith(prefix) ? text.slice(prefix.length) : text;
}

function statusOf(error: unknown): Status {
  return error instanceof DmError ? error.status : statusOfError(error);
}
