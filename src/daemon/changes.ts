// The verbs that change the configuration, each a transaction over the plane and the saved state: when a verb
// is refused, both are as they were; when it is done, it is saved.
//
// A verb that can be taken back (create, load, rename, insertBelow, takeOut, createExport) is done first, then saved, and taken back
// when it cannot be saved. One that cannot (remove, clear, resume, suspend, setUuid, removeExport) is saved
// first, then done; when it fails, what is so then is saved again. Either way a crash leaves the state before
// or after. Whoever calls has the turn of what the verb concerns.

import { DmError, errorText } from '../base/errors.ts';
import { nameFault } from '../base/names.ts';
import { Status } from '../base/status.ts';
import type { DeviceInfo } from '../dm/control.ts';
import { withDevice } from '../dm/device-node.ts';
import type { ExportStatus } from '../exports/control.ts';
import type { Book, DeviceEntry, ExportEntry } from './book.ts';
import { merged, resumed, withoutInactive } from './next-entry.ts';
import { errorWithMissing } from './missing-reason.ts';
import { observeDevice, tableText } from './observe.ts';
import type { Plane, VerbResult } from './plane.ts';
import { refuseBeforeSnapshots } from './snapshot-order.ts';
import type { SavedTable } from './state-file.ts';
import type { StateStore } from './state-store.ts';
import type { PlaneVerb, VERBS, VerbArgs } from './verbs.ts';

const UUID_BYTES_MAX = 128;
/** A device that nobody has used can only wait for what is suspended below. */
const UNDO_MS = 5000;

export type ChangeVerb = {
  [N in PlaneVerb]: (typeof VERBS)[N]['kind'] extends 'change' ? N : never;
}[PlaneVerb];

export interface ChangesOptions {
  readonly plane: Plane;
  readonly book: Book;
  readonly store: StateStore;
  /** Something is so and could not be saved: it is to be saved later. */
  readonly unsaved: (error: unknown) => void;
  /** The plane is being shut down: what it says now is not what is to be there again. */
  readonly isEnding: () => boolean;
}

type Signal = AbortSignal | undefined;

type Verbs = {
  readonly [N in ChangeVerb]: (args: VerbArgs<N>, signal: Signal) => Promise<VerbResult<N>>;
};

export class Changes implements Verbs {
  readonly #plane: Plane;
  readonly #book: Book;
  readonly #options: ChangesOptions;
  /** Minors of devices that are being created. */
  readonly #takenMinors = new Set<number>();

  constructor(options: ChangesOptions) {
    this.#plane = options.plane;
    this.#book = options.book;
    this.#options = options;
  }

  async create([options]: VerbArgs<'create'>, signal: Signal): Promise<DeviceInfo> {
    const { name, isVolatile = false } = options;
    const lost = this.#book.device(name);
    if (lost?.missing !== undefined) {
      throw new DmError(
        Status.Exists,
        `device ${name}: name already exists, and is missing (${lost.missing}): remove it first`,
      );
    }
    this.#refuseTakenByMissing(options.uuid, options.minor);
    this.#refuseBeforeSnapshots(name, { text: options.table ?? '', isReadOnly: false });
    const minor = options.minor ?? (await this.#freeMinor());
    this.#takenMinors.add(minor);
    try {
      const made = this.#plane.call('create', [{ ...options, minor }], signal);
      const info = await this.#explained(options.table ?? '', made);
      await this.#keep(
        async () => await this.#observed(name, { isVolatile }),
        async () =>
          await this.#plane.call('remove', [name, undefined], AbortSignal.timeout(UNDO_MS)),
        `device ${name} is there now`,
      );
      return info;
    } finally {
      this.#takenMinors.delete(minor);
    }
  }

  async load([name, table, options]: VerbArgs<'load'>, signal: Signal): Promise<void> {
    const entry = this.#present(name);
    const before = await tableText(this.#plane, name, { inactive: true, showKeys: true });
    const isReadOnly = options?.isReadOnly ?? entry?.saved.isReadOnly ?? false;
    const wasReadOnly = entry?.saved.inactive?.isReadOnly ?? false;
    const loaded = this.#plane.call('load', [name, table, { isReadOnly }], signal);
    await this.#explained(table, loaded);
    await this.#keep(
      async () => await this.#observed(name, { isInactiveReadOnly: isReadOnly }),
      async () => {
        if (before === undefined) await this.#plane.clear(name);
        else await this.#plane.load(name, before, { isReadOnly: wasReadOnly });
      },
      `device ${name} has its new inactive table`,
    );
  }

  async clear([name]: VerbArgs<'clear'>): Promise<void> {
    const entry = this.#present(name);
    await this.#intend(entry && withoutInactive(entry), async () => await this.#plane.clear(name));
  }

  async suspend([name, options]: VerbArgs<'suspend'>, signal: Signal): Promise<void> {
    const entry = this.#present(name);
    const isSuspended = entry?.saved.live !== undefined;
    await this.#intend(
      entry && { ...entry, saved: { ...entry.saved, isSuspended } },
      async () => await this.#plane.call('suspend', [name, options], signal),
    );
  }

  async resume([name]: VerbArgs<'resume'>, signal: Signal): Promise<void> {
    const entry = this.#present(name);
    if (entry?.missingInactive !== undefined) {
      throw new DmError(
        Status.NoEntry,
        `device ${name}: its inactive table is missing (${entry.missingInactive}): load another, or clear it`,
      );
    }
    this.#refuseBeforeSnapshots(name, entry?.saved.inactive);
    await this.#intend(
      entry && resumed(entry),
      async () => await this.#plane.call('resume', [name], signal),
    );
  }

  async remove([name, options]: VerbArgs<'remove'>, signal: Signal): Promise<void> {
    const entry = this.#book.device(name);
    const waiting = this.#book.exportsOf(name).find(({ missing }) => missing !== undefined);
    if (entry !== undefined && options?.deferred === true && this.#book.isAwaited(name)) {
      // The plane does not know of users that are missing.
      const saved = { ...entry.saved, isDeferredRemove: true };
      await this.#save(this.#book.putDevice({ ...entry, saved }));
      return;
    }
    if (entry !== undefined && waiting !== undefined) {
      if (options?.force !== true) throw awaited(name, waiting);
      await this.#dropWaiting(name);
    }
    if (entry?.missing !== undefined) {
      await this.#save(this.#book.dropDevice(name));
      return;
    }
    const act = async (): Promise<void> =>
      await this.#plane.call('remove', [name, options], signal);
    if (entry === undefined) {
      await act();
      return;
    }
    const { openCount } = await this.#plane.info(name);
    if (openCount === 0) await this.#intend(null, act, name);
    else {
      // Refused, or its table is replaced, or it goes with its last user.
      const isDeferredRemove = options?.deferred === true || entry.saved.isDeferredRemove;
      await this.#intend({ ...entry, saved: { ...entry.saved, isDeferredRemove } }, act);
    }
  }

  async rename([name, newName]: VerbArgs<'rename'>): Promise<void> {
    const entry = this.#present(name);
    const lost = this.#book.device(newName)?.missing;
    if (lost !== undefined) {
      const text = `device ${newName}: name already exists, and is missing (${lost})`;
      throw new DmError(Status.Exists, text);
    }
    await this.#plane.rename(name, newName);
    if (entry === undefined) return;
    const users = this.#book.usersOf(name);
    const revert = this.#book.renameDevice(name, newName);
    try {
      // What they print names the device as it is called now.
      for (const { saved } of users)
        await this.#refresh(saved.name === name ? newName : saved.name);
      await this.#save();
    } catch (error) {
      revert();
      await this.#plane.rename(newName, name);
      for (const { saved } of users) await this.#refresh(saved.name);
      throw error;
    }
  }

  /** What holds keys is not in the state, wherever it goes; what is put over it is. */
  async insertBelow(
    [name, lower, options]: VerbArgs<'insertBelow'>,
    signal: Signal,
  ): Promise<void> {
    const entry = this.#present(name);
    const lost = this.#book.device(lower)?.missing;
    if (lost !== undefined) {
      const text = `device ${lower}: name already exists, and is missing (${lost})`;
      throw new DmError(Status.Exists, text);
    }
    const isVolatile = entry?.isVolatile ?? false;
    const minor = options.minor ?? (await this.#freeMinor());
    this.#takenMinors.add(minor);
    try {
      const how = { ...options, minor, movesUuid: options.movesUuid ?? isVolatile };
      await this.#plane.call('insertBelow', [name, lower, how], signal);
      const below = await this.#observed(lower, { isVolatile });
      const over = await this.#observed(name, { isVolatile: false });
      const reverts = [below, over].map((made) =>
        made === undefined ? nothing : this.#book.putDevice(made),
      );
      await this.#saveOrUndo(
        () => takeBack(reverts),
        async () => await this.#plane.takeOut(name, lower, { movesUuid: how.movesUuid }),
        `device ${lower} is below ${name} now`,
      );
    } finally {
      this.#takenMinors.delete(minor);
    }
  }

  async takeOut([name, lower, options]: VerbArgs<'takeOut'>, signal: Signal): Promise<void> {
    this.#present(name);
    const below = this.#present(lower);
    const isVolatile = below?.isVolatile ?? false;
    const how = { movesUuid: options?.movesUuid ?? isVolatile };
    const table = await tableText(this.#plane, name, { showKeys: true });
    await this.#plane.call('takeOut', [name, lower, how], signal);
    const made = await this.#observed(name, { isVolatile });
    const reverts = [
      this.#book.dropDevice(lower),
      made === undefined ? nothing : this.#book.putDevice(made),
    ];
    await this.#saveOrUndo(
      () => takeBack(reverts),
      async () => {
        const minor = below?.saved.minor;
        const back = { ...how, table: table ?? '', ...(minor === undefined ? {} : { minor }) };
        await this.#plane.insertBelow(name, lower, back);
      },
      `device ${lower} is gone, and ${name} has its table`,
    );
  }

  async setUuid([name, uuid]: VerbArgs<'setUuid'>): Promise<void> {
    const entry = this.#present(name);
    this.#refuseTakenByMissing(uuid, undefined);
    const isTaken = this.#book.devices().some(({ saved }) => saved.uuid === uuid);
    const isBad = Buffer.byteLength(uuid) > UUID_BYTES_MAX || nameFault(uuid) !== undefined;
    // What will be refused is not saved before: a crash in between would leave it so.
    const isRefused = isTaken || isBad || entry?.saved.uuid !== '';
    await this.#intend(
      isRefused ? entry : { ...entry, saved: { ...entry.saved, uuid } },
      async () => await this.#plane.setUuid(name, uuid),
    );
  }

  async createExport([options]: VerbArgs<'createExport'>): Promise<ExportStatus> {
    const { name, device } = options;
    const lost = this.#book.export(name)?.missing;
    if (lost !== undefined) {
      const text = `export '${name}': exists already, and is missing (${lost}): remove it first`;
      throw new DmError(Status.Exists, text);
    }
    this.#present(device);
    const status = await this.#plane.createExport(options);
    const { description, isReadOnly } = status;
    const revert = this.#book.putExport({ saved: { name, device, description, isReadOnly } });
    await this.#saveOrUndo(
      revert,
      async () => await this.#plane.removeExport(name, { force: true }),
      `export '${name}' is there now`,
    );
    return status;
  }

  async removeExport([name, options]: VerbArgs<'removeExport'>): Promise<void> {
    const entry = this.#book.export(name);
    if (entry?.missing !== undefined) {
      await this.#save(this.#book.dropExport(name));
      return;
    }
    const act = async (): Promise<void> => await this.#plane.removeExport(name, options);
    const status = (await this.#plane.listExports()).find((e) => e.name === name);
    if (entry === undefined || (status !== undefined && isRefused(status, options))) {
      await act();
      return;
    }
    await this.#save(this.#book.dropExport(name));
    try {
      await act();
    } catch (error) {
      await this.#restoreExport(entry, error);
    }
  }

  // ---- saved first ----

  /** `next`: what is to be so; null: no such device; undefined: the book knows nothing of it. */
  async #intend(
    next: DeviceEntry | null | undefined,
    act: () => Promise<void>,
    name = next?.saved.name ?? '',
  ): Promise<void> {
    if (next === undefined) {
      await act();
      return;
    }
    const before = this.#book.device(name);
    await this.#save(next === null ? this.#book.dropDevice(name) : this.#book.putDevice(next));
    try {
      await act();
    } catch (error) {
      const unsaved = await this.#settle(name, before);
      throw unsaved === undefined ? error : alsoUnsaved(error, unsaved);
    }
    const unsaved = await this.#settle(name, next);
    if (unsaved !== undefined) this.#options.unsaved(unsaved);
  }

  /** Brings the book to what is so, and saves it. The error, when that cannot be saved. */
  async #settle(name: string, was: DeviceEntry | null | undefined): Promise<unknown> {
    if (this.#options.isEnding()) return undefined;
    try {
      const saved = await observeDevice(
        this.#plane,
        name,
        was?.saved.inactive?.isReadOnly ?? was?.saved.isReadOnly ?? false,
        was?.saved.isSuspended ?? false,
      );
      if (saved === undefined) this.#book.dropDevice(name);
      else this.#book.putDevice(merged(saved, was ?? undefined));
      await this.#save();
      return undefined;
    } catch (error) {
      this.#options.unsaved(error);
      return error;
    }
  }

  async #restoreExport(entry: ExportEntry, error: unknown): Promise<never> {
    if (!this.#options.isEnding()) {
      const isThere = (await this.#plane.listExports()).some((e) => e.name === entry.saved.name);
      if (isThere) this.#book.putExport(entry);
      try {
        await this.#save();
      } catch (unsaved) {
        this.#options.unsaved(unsaved);
        throw alsoUnsaved(error, unsaved);
      }
    }
    throw error;
  }

  // ---- done first ----

  async #keep(
    observe: () => Promise<DeviceEntry | undefined>,
    undo: () => Promise<void>,
    what: string,
  ): Promise<void> {
    const entry = await observe();
    // Removed meanwhile, by itself: its last user came and went.
    if (entry === undefined) return;
    await this.#saveOrUndo(this.#book.putDevice(entry), undo, what);
  }

  async #saveOrUndo(revert: () => void, undo: () => Promise<void>, what: string): Promise<void> {
    try {
      await this.#save(revert);
    } catch (error) {
      try {
        await undo();
      } catch (failure) {
        const text = `${errorText(error)}; nor could it be undone (${errorText(failure)}): ${what}, and is not saved`;
        throw new DmError(Status.Io, text, { cause: error });
      }
      throw error;
    }
  }

  /** Exports that nobody can use, because their device is missing. */
  async #dropWaiting(device: string): Promise<void> {
    const reverts = this.#book
      .exportsOf(device)
      .filter(({ missing }) => missing !== undefined)
      .map(({ saved }) => this.#book.dropExport(saved.name));
    await this.#save(() => {
      for (const revert of reverts.toReversed()) revert();
    });
  }

  // ---- looking ----

  /** What is refused because a device is missing says so. */
  async #explained<T>(table: string, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw errorWithMissing(this.#book, table, error);
    }
  }

  /** Throws DmError for a table that would write to an origin behind the back of a snapshot. */
  #refuseBeforeSnapshots(name: string, table: SavedTable | undefined): void {
    try {
      refuseBeforeSnapshots(this.#book, name, table);
    } catch (error) {
      throw withDevice(name, error);
    }
  }

  /** The entry of a device that is there; undefined when the book has none. Throws DmError. */
  #present(name: string): DeviceEntry | undefined {
    const entry = this.#book.device(name);
    if (entry?.missing === undefined) return entry;
    throw new DmError(Status.NoDeviceOrAddress, `device ${name}: is missing: ${entry.missing}`);
  }

  async #observed(
    name: string,
    known: { readonly isVolatile?: boolean; readonly isInactiveReadOnly?: boolean },
  ): Promise<DeviceEntry | undefined> {
    const was = this.#book.device(name);
    const isVolatile = known.isVolatile ?? was?.isVolatile ?? false;
    const saved = await observeDevice(
      this.#plane,
      name,
      known.isInactiveReadOnly ?? false,
      was?.saved.isSuspended ?? false,
    );
    if (saved === undefined) return undefined;
    const isDeferredRemove = saved.isDeferredRemove || was?.saved.isDeferredRemove === true;
    return { saved: { ...saved, isDeferredRemove }, isVolatile };
  }

  /** What a device prints may have changed without a verb on it. */
  async #refresh(name: string): Promise<void> {
    const entry = this.#book.device(name);
    if (entry === undefined || entry.missing !== undefined) return;
    const isReadOnly = entry.saved.inactive?.isReadOnly ?? false;
    const { isSuspended } = entry.saved;
    const saved = await observeDevice(this.#plane, name, isReadOnly, isSuspended);
    if (saved !== undefined) this.#book.putDevice(merged(saved, entry));
  }

  #refuseTakenByMissing(uuid: string | undefined, minor: number | undefined): void {
    for (const { saved, missing } of this.#book.devices()) {
      if (missing === undefined) continue;
      if (uuid !== undefined && uuid !== '' && saved.uuid === uuid) {
        const text = `UUID '${uuid}': device ${saved.name}, which is missing, has it already`;
        throw new DmError(Status.Exists, text);
      }
      if (saved.minor === minor) {
        const text = `minor ${minor}: in use by device ${saved.name}, which is missing`;
        throw new DmError(Status.Busy, text);
      }
    }
  }

  async #freeMinor(): Promise<number> {
    const used = new Set(this.#takenMinors);
    for (const { minor } of await this.#plane.list()) used.add(minor);
    for (const { saved } of this.#book.devices()) used.add(saved.minor);
    let minor = 0;
    while (used.has(minor) || this.#takenMinors.has(minor)) minor++;
    return minor;
  }

  async #save(revert?: () => void): Promise<void> {
    await this.#options.store.save(() => this.#book.state(), revert);
  }
}

function nothing(): void {}

function takeBack(reverts: readonly (() => void)[]): void {
  for (const revert of reverts.toReversed()) revert();
}

function isRefused(
  status: ExportStatus,
  options: { readonly force?: boolean } | undefined,
): boolean {
  return status.connections > 0 && options?.force !== true;
}

function awaited(name: string, { saved }: ExportEntry): DmError {
  const way = 'remove that first, or this with --force, which takes it along';
  const text = `device ${name}: Device or resource busy (export '${saved.name}' waits for it: ${way})`;
  return new DmError(Status.Busy, text);
}

function alsoUnsaved(error: unknown, unsaved: unknown): DmError {
  const status = error instanceof DmError ? error.status : Status.Io;
  const text = `${errorText(error)}; and the saved state has it as done until it can be saved again (${errorText(unsaved)})`;
  return new DmError(status, text, { cause: error });
}
