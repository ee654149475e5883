// The two tables of a mapped device, and what goes on between them: suspend, resume, halting for
// good.
//
// Each of these is a transaction. It is done; or it failed and everybody is told that it does
// not take place, and I/O goes on as before; or, where targets have gone too far for that, the
// device stays suspended and has a `failure`, until a later suspend or resume succeeds. A flush
// that failed is done again by whoever wants one next, so nobody takes the silence of the second
// for the success of the first.
//
// Suspending: new bios wait; `presuspend`; what is in flight ends; lower devices are flushed;
// `postsuspend`. Resuming: `preresume`; the tables change places; `resume`; bios go on.

import { closeAll } from '../base/close-all.ts';
import { DmError, errorText } from '../base/errors.ts';
import { unlessGivenUp } from '../base/give-up.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import { flushDevice } from '../bio/send.ts';
import type { LateClosings } from './late-closings.ts';
import type { MappedDevice } from './mapped-device.ts';
import type { Table, TableEntry } from './table.ts';

const NOTHING = (): string => '';

export interface SuspendOptions {
  /** What waits in a target for something that may not come goes back to the device. */
  readonly requeues: boolean;
  /** Lower devices are flushed, and the suspend fails when that does. */
  readonly flushes: boolean;
  readonly signal?: AbortSignal | undefined;
}

export class TableSlots {
  readonly device: MappedDevice;
  #inactive: Table | null = null;
  /** Suspended to the end: nothing is in flight, and targets know. As at the beginning. */
  #isQuiet = true;
  /** Nothing was written since lower devices were flushed. */
  #isFlushed = true;
  #failure: DmError | null = null;
  /** What the suspend that runs waits for. */
  #waitsFor: () => string = NOTHING;
  /** Flushes under way, also those that were given up. */
  readonly #flushing = new Set<Promise<Status>>();

  /** Takes tables that cannot be closed yet. */
  readonly #late: LateClosings;

  constructor(device: MappedDevice, late: LateClosings) {
    this.device = device;
    this.#late = late;
  }

  get inactive(): Table | null {
    return this.#inactive;
  }

  /** Why the device is neither active nor properly suspended. */
  get failure(): DmError | null {
    return this.#failure;
  }

  /** What a suspend waits for now; '' when none does. */
  get waitsFor(): string {
    return this.#waitsFor();
  }

  /** Takes a freshly loaded table; the one it replaces is closed. */
  async setInactive(table: Table | null): Promise<void> {
    const old = this.#inactive;
    this.#inactive = table;
    await old?.close();
  }

  /** Lets a table go to another device, while this one is suspended. The table stays open. */
  release(table: Table): void {
    if (this.#inactive === table) this.#inactive = null;
    if (this.device.live === table) this.device.swap(null);
  }

  /** Throws DmError, with I/O going on if it did before. */
  async suspend(options: SuspendOptions): Promise<void> {
    const { live } = this.device;
    const entries = live?.entries ?? [];
    const wasQuiet = this.#isQuiet;
    const isEnough = this.#isFlushed || !options.flushes;
    if (wasQuiet && isEnough && this.#failure === null) return;
    const told: TableEntry[] = [];
    try {
      if (!wasQuiet) await this.#quiet(entries, told, options);
      if (options.flushes && live !== null) await this.#flush(live, options.signal);
    } catch (error) {
      if (!wasQuiet) this.#undoQuiet(told);
      throw error;
    }
    this.#isQuiet = true;
    this.#isFlushed = false;
    try {
      await closeAll(
        entries.map((e) => async () => await e.target.postsuspend?.(!options.flushes)),
      );
    } catch (error) {
      throw this.#failed('suspend', error);
    }
    this.#failure = null;
    this.#isFlushed = options.flushes;
  }

  /** Throws DmError; then the old table goes on, if it did before. */
  async resume(signal?: AbortSignal): Promise<void> {
    const { device } = this;
    const next = this.#inactive;
    if (next === null && device.live === null) {
      throw new DmError(Status.Invalid, `${device.name}: no table loaded: load one before resume`);
    }
    const wasQuiet = this.#isQuiet;
    if (!wasQuiet && next === null) return;
    if (next !== null && (!wasQuiet || this.#failure !== null)) {
      await this.suspend({ requeues: false, flushes: true, signal });
    }
    const table = next ?? device.live;
    try {
      await this.#prepare(table);
    } catch (error) {
      if (!wasQuiet) await this.#backToLive(error);
      throw error;
    }
    const closers: (() => Promise<void> | void)[] = [];
    if (next !== null) {
      this.#inactive = null;
      const old = device.swap(next);
      // Before anything goes on: both may write to the same places.
      closers.push(async () => await this.#closeLive(old));
    }
    closers.push(async () => await this.#go(table));
    await closeAll(closers);
  }

  /**
   * Suspends for good. Throws DmError, and then nothing has happened. With `isForced` only a
   * wait that is given up is thrown: other errors are answered, and the device is halted all
   * the same.
   */
  async halt(options: {
    readonly isForced: boolean;
    /** False for a device that nobody can have written to. */
    readonly flushes?: boolean;
    readonly signal?: AbortSignal | undefined;
  }): Promise<unknown> {
    const { signal, flushes = true } = options;
    try {
      await this.suspend({ requeues: true, flushes, signal });
      return undefined;
    } catch (error) {
      if (!options.isForced || signal?.aborted === true) throw error;
      if (!this.#isQuiet) await this.#haltAnyway(signal);
      this.#failure = null;
      return error;
    }
  }

  /**
   * Nobody will resume the device any more. One that is suspended lets go of what waits for
   * it, with errors: devices above may be waiting for that. Never throws; what cannot be
   * flushed is told by `halt`.
   */
  async giveUpWaiting(signal: AbortSignal | undefined): Promise<void> {
    if (!this.#isQuiet || this.device.live === null) return;
    let status: Status = Status.Ok;
    try {
      await this.suspend({ requeues: true, flushes: true, signal });
    } catch (error) {
      status = error instanceof DmError ? error.status : Status.Io;
    }
    this.device.refuse(status);
  }

  /** Halted: both tables are closed; what waits for them, or comes, ends with errors. */
  async close(): Promise<void> {
    const inactive = this.#inactive;
    this.#inactive = null;
    const live = this.device.swap(null);
    this.device.start();
    await closeAll([async () => await this.#closeLive(live), async () => await inactive?.close()]);
  }

  // ---- steps ----

  async #quiet(
    entries: readonly TableEntry[],
    told: TableEntry[],
    { requeues, signal }: SuspendOptions,
  ): Promise<void> {
    // First, so that what a target gives back stays with the device.
    this.device.stop();
    for (const entry of entries) {
      told.push(entry);
      await entry.target.presuspend?.(requeues);
    }
    await this.#waiting(() => this.#inFlight(entries), this.device.idle(signal));
  }

  #inFlight(entries: readonly TableEntry[]): string {
    const { inFlight } = this.device;
    const known = entries.map(({ target }) => target.waitsFor?.() ?? '').filter((s) => s !== '');
    return [`${inFlight} requests in flight`, ...known].join('; ');
  }

  /** Waits for `work`, so that whoever asks hears for what. */
  async #waiting<T>(what: () => string, work: Promise<T>): Promise<T> {
    this.#waitsFor = what;
    try {
      return await work;
    } finally {
      this.#waitsFor = NOTHING;
    }
  }

  #undoQuiet(told: readonly TableEntry[]): void {
    for (const { target } of told) target.presuspendUndo?.();
    this.device.start();
  }

  async #flush(table: Table, signal: AbortSignal | undefined): Promise<void> {
    const { name } = this.device;
    // Also below targets that want to see clients' flushes: what is suspended is on the medium.
    for (const device of table.devices()) {
      const what = `${name}: flush of ${device.name}`;
      const flush = unlessGivenUp(this.#noted(flushDevice(device)), signal, what);
      const status = await this.#waiting(() => `the flush of ${device.name}`, flush);
      if (status !== Status.Ok) throw new DmError(status, `${what}: ${errnoText(status)}`);
    }
  }

  /** A flush goes on when nobody waits for it any more; its device is not closed before it ends. */
  #noted(flush: Promise<Status>): Promise<Status> {
    this.#flushing.add(flush);
    void flush.then(() => this.#flushing.delete(flush));
    return flush;
  }

  /** A table that was live, unless it is another device's by now. Nobody waits here for a flush that was given up: the table is closed behind it. */
  async #closeLive(table: Table | null): Promise<void> {
    if (table === null || table.owner.node.slots !== this) return;
    if (this.#flushing.size === 0) await table.close();
    else this.#late.add(Promise.all(this.#flushing).then(async () => await table.close()));
  }

  /** All targets of a table, or none. */
  async #prepare(table: Table | null): Promise<void> {
    const told: TableEntry[] = [];
    try {
      for (const entry of table?.entries ?? []) {
        told.push(entry);
        await entry.target.preresume?.();
      }
    } catch (error) {
      for (const { target } of told.toReversed()) target.preresumeUndo?.();
      throw error;
    }
  }

  /** Nothing stops this any more; an error of a target's is told at the end. */
  async #go(table: Table | null): Promise<void> {
    this.#isQuiet = false;
    this.#isFlushed = false;
    this.#failure = null;
    table?.readTraits();
    const targets = table?.entries.map(({ target }) => target) ?? [];
    await closeAll([
      ...targets.map((target) => () => target.resume?.()),
      () => this.device.start(),
    ]);
  }

  async #backToLive(why: unknown): Promise<void> {
    const { live } = this.device;
    if (live === null) return;
    try {
      await this.#prepare(live);
    } catch (error) {
      this.#failed(`resume: ${errorText(why)}; and the old table`, error);
      return;
    }
    await this.#go(live).catch(() => undefined);
  }

  /** Targets are told as far as they listen; then only what is in flight has to end. */
  async #haltAnyway(signal: AbortSignal | undefined): Promise<void> {
    this.device.stop();
    const entries = this.device.live?.entries ?? [];
    const all = async (hook: (entry: TableEntry) => Promise<void> | undefined): Promise<void> => {
      await closeAll(entries.map((entry) => async () => await hook(entry))).catch(() => undefined);
    };
    await all(({ target }) => target.presuspend?.(true));
    try {
      await this.device.idle(signal);
    } catch (error) {
      this.#undoQuiet(entries);
      throw error;
    }
    await all(({ target }) => target.postsuspend?.(true));
    this.#isQuiet = true;
  }

  #failed(what: string, error: unknown): DmError {
    const status = error instanceof DmError ? error.status : Status.Io;
    const text = `${this.device.name}: ${what}: ${errorText(error)}`;
    this.#failure = new DmError(status, text, { cause: error });
    return this.#failure;
  }
}
