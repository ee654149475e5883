// The daemon: a data plane whose devices and exports outlive it. Calls come in by verb; changes take turns by
// what they concern, so a verb that does not end holds up its own device only. What could not be recreated
// after a restart stays in the book: it is listed with its reason, keeps its name, minor and UUID, comes back
// by itself when it can, and goes when it is removed.

import { rm } from 'node:fs/promises';
import { type Clock, realClock, type Timer } from '../base/clock.ts';
import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { TargetLine } from '../dm/control.ts';
import { joinArgs, parseTable } from '../dm/table-text.ts';
import type { ListedDevice, ListedExport, Missing, VerbAnswer } from './answers.ts';
import { Book, type DeviceEntry, type ExportEntry } from './book.ts';
import { Changes, type ChangeVerb } from './changes.ts';
import { lookAtFile } from './look-at-file.ts';
import { MergeEnds } from './merge-ends.ts';
import type { Plane, VerbResult } from './plane.ts';
import { Restorer } from './restorer.ts';
import type { StateStore } from './state-store.ts';
import { deviceTurn, exportTurn, Turns } from './turns.ts';
import { checkArguments } from './verb-arguments.ts';
import { type PlaneVerb, verbEntry, type VerbArgs, type VerbName, verbNamed } from './verbs.ts';

export interface DaemonOptions {
  readonly plane: Plane;
  readonly store: StateStore;
  /** Hears what the operator should know and nobody asked for, a line each. */
  readonly log: (line: string) => void;
  /** Makes the process end in order. */
  readonly stop: () => void;
  readonly clock?: Clock;
  /** What tells one state of a file from another; for tests. */
  readonly look?: (path: string) => Promise<string>;
}

/** How long a start waits for devices that do not come; they go on coming behind it. */
const START_MS = 10_000;
/** How long an end waits for changes that run. */
const END_MS = 3000;
/** When a save that failed is tried again. */
const SAVE_AGAIN_MS = 5000;
const NOT_YET = 'not opened yet';
/** Messages to a pool behind which an id is not the volume it was. */
const VOLUME_GONE = /^(?:delete|create_thin|create_snap)\s+(\d+)(?:\s|$)/i;

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #clock: Clock;
  readonly #plane: Plane;
  readonly #book = new Book();
  readonly #turns = new Turns();
  readonly #changes: Changes;
  readonly #restorer: Restorer;
  readonly #mergeEnds: MergeEnds;
  #isEnding = false;
  /** Set while something is so and not saved. */
  #saveTimer: Timer | undefined;

  private constructor(options: DaemonOptions) {
    const { plane, clock = realClock, look = lookAtFile } = options;
    this.#options = options;
    this.#clock = clock;
    this.#plane = plane;
    this.#changes = new Changes({
      plane,
      book: this.#book,
      store: options.store,
      unsaved: (error) => this.#saveLater(error),
      isEnding: () => this.#isEnding,
    });
    this.#restorer = new Restorer({
      plane,
      book: this.#book,
      turns: this.#turns,
      clock,
      look,
      changed: () => this.#saveAgain(),
    });
    this.#mergeEnds = new MergeEnds({
      plane,
      book: this.#book,
      change: async (verb, args) => await this.run(verb, args),
      removeFile: async (path) => await rm(path, { force: true }),
      log: options.log,
    });
  }

  /** Recreates what was saved. What cannot be is logged, and kept. Throws DmError on a bad state. */
  static async start(options: DaemonOptions): Promise<Daemon> {
    const state = await options.store.load();
    const daemon = new Daemon(options);
    for (const volume of state.inactiveVolumes ?? []) daemon.#book.rememberVolume(volume);
    for (const saved of state.devices) {
      daemon.#book.putDevice({ saved, isVolatile: false, missing: NOT_YET });
    }
    for (const saved of state.exports) daemon.#book.putExport({ saved, missing: NOT_YET });
    await daemon.#within(START_MS, daemon.#restorer.retry());
    await daemon.#restorer.applyDeferred();
    for (const { kind, name, reason } of daemon.missing()) {
      const what = kind === 'device' ? `device ${name}` : `${kind} '${name}'`;
      options.log(`${what} could not be recreated: ${reason}`);
    }
    daemon.#restorer.watch();
    daemon.#mergeEnds.look();
    return daemon;
  }

  missing(): Missing[] {
    return this.#restorer.missing();
  }

  /** No change begins any more; those that run have a moment to end. The plane is there still. */
  async end(): Promise<void> {
    this.#isEnding = true;
    this.#restorer.end();
    this.#mergeEnds.end();
    this.#saveTimer?.cancel();
    await this.#within(END_MS, this.#turns.idle());
  }

  /**
   * A call from a client, with what it sent. Throws DmError for a verb that there is not and for
   * wrong arguments. When `signal` is aborted, nobody waits for the answer any more.
   */
  async call(method: string, args: readonly unknown[], signal?: AbortSignal): Promise<unknown> {
    const verb = verbNamed(method);
    if (verb === undefined || verbEntry(verb).kind === 'inside') {
      throw new DmError(Status.Invalid, `control call '${method}': no such verb`);
    }
    return await this.run(verb, checkArguments(verb, args), signal);
  }

  /** As `call`, with arguments that are right. */
  async run<N extends VerbName>(
    verb: N,
    args: VerbArgs<N>,
    signal?: AbortSignal,
  ): Promise<VerbAnswer<N>> {
    if (this.#isEnding && verb !== 'stop') {
      throw new DmError(Status.ShuttingDown, `${verb}: the daemon is ending`);
    }
    const own = this.#own[verb];
    if (own !== undefined) return await own(args, signal);
    const answer: unknown = isChange(verb)
      ? await this.#change(verb as ChangeVerb, args as VerbArgs<ChangeVerb>, signal)
      : await this.#plane.call(verb as N & PlaneVerb, args as VerbArgs<N & PlaneVerb>, signal);
    return answer as VerbAnswer<N>;
  }

  async #change<N extends ChangeVerb>(
    verb: N,
    args: VerbArgs<N>,
    signal: AbortSignal | undefined,
  ): Promise<VerbResult<N>> {
    const entry = verbEntry(verb);
    const devices = entry.devices?.(args) ?? [];
    const keys = [...devices.map(deviceTurn), ...(entry.exports?.(args) ?? []).map(exportTurn)];
    const act = this.#changes[verb].bind(this.#changes) as (
      args: VerbArgs<N>,
      signal: AbortSignal | undefined,
    ) => Promise<VerbResult<N>>;
    try {
      return await this.#turns.take(keys, async () => await act(args, signal), signal);
    } finally {
      if (!this.#isEnding) await this.#follow(devices);
    }
  }

  /** What follows from a change: devices that waited for it, and those that were to go. */
  async #follow(devices: readonly string[]): Promise<void> {
    for (const name of devices) {
      const entry = this.#book.device(name);
      if (entry !== undefined && entry.missing === undefined) await this.#restorer.appeared(name);
    }
    await this.#restorer.applyDeferred();
    this.#restorer.watch();
    this.#mergeEnds.look();
    // Nothing is written when nothing has changed.
    await this.#saveAgain();
  }

  /** Verbs about which the daemon knows more than the plane. */
  readonly #own: {
    readonly [N in VerbName]?: (
      args: VerbArgs<N>,
      signal: AbortSignal | undefined,
    ) => Promise<VerbAnswer<N>>;
  } = {
    list: () => this.#list(),
    info: async ([name]) => {
      const entry = this.#book.device(name);
      if (entry?.missing !== undefined) return this.#missingDevice(entry, entry.missing);
      return withBook(await this.#plane.info(name), entry);
    },
    deps: async ([name]) =>
      this.#book.device(name)?.missing === undefined ? await this.#plane.deps(name) : [],
    table: async ([name, options]) => {
      const entry = this.#book.device(name);
      const isInactive = options?.inactive === true;
      const isMissing = isInactive
        ? (entry?.missingInactive ?? entry?.missing) !== undefined
        : entry?.missing !== undefined;
      if (!isMissing) return await this.#plane.table(name, options);
      return savedLines((isInactive ? entry?.saved.inactive : entry?.saved.live)?.text);
    },
    status: async (args, signal) => await this.#ofPresent('status', args, signal),
    message: async (args, signal) => {
      const answer = await this.#ofPresent('message', args, signal);
      const [name, , text] = args;
      const [, id] = VOLUME_GONE.exec(text.trim()) ?? [];
      if (id !== undefined) {
        this.#book.forgetVolume(name, Number(id));
        await this.#saveAgain();
      }
      return answer;
    },
    inactiveVolumes: async () => await Promise.resolve(this.#book.inactiveVolumes()),
    wait: async (args, signal) => await this.#ofPresent('wait', args, signal),
    listExports: () => this.#listExports(),
    retry: async ([name]) => {
      this.#refuseUnknown(name);
      await this.#restorer.retry(name);
      await this.#follow([]);
      return this.missing().filter((m) => name === undefined || m.name === name);
    },
    stop: async () => {
      this.#options.stop();
      return await Promise.resolve({ pid: process.pid });
    },
  };

  async #ofPresent<N extends 'status' | 'message' | 'wait'>(
    verb: N,
    args: VerbArgs<N>,
    signal: AbortSignal | undefined,
  ): Promise<VerbAnswer<N>> {
    const missing = this.#book.device(args[0])?.missing;
    if (missing !== undefined) {
      throw new DmError(Status.NoDeviceOrAddress, `device ${args[0]}: is missing: ${missing}`);
    }
    return (await this.#plane.call(verb, args, signal)) as VerbAnswer<N>;
  }

  #refuseUnknown(name: string | undefined): void {
    if (name === undefined) return;
    if (this.#book.device(name) !== undefined || this.#book.export(name) !== undefined) return;
    throw new DmError(Status.NoEntry, `retry ${name}: no such device or export`);
  }

  /** In the book's order, which a restart does not change. */
  async #list(): Promise<ListedDevice[]> {
    const there = new Map((await this.#plane.list()).map((info) => [info.name, info]));
    const all: ListedDevice[] = [];
    for (const entry of this.#book.devices()) {
      const info = there.get(entry.saved.name);
      there.delete(entry.saved.name);
      if (entry.missing !== undefined) all.push(this.#missingDevice(entry, entry.missing));
      else if (info !== undefined) all.push(withBook(info, entry));
    }
    return [...all, ...there.values()];
  }

  #missingDevice({ saved }: DeviceEntry, reason: string): ListedDevice {
    const { name, uuid, minor, isReadOnly, isDeferredRemove } = saved;
    const users = this.#book.usersOf(name).length + this.#book.exportsOf(name).length;
    return {
      name,
      uuid,
      minor,
      state: 'MISSING',
      failure: '',
      warning: '',
      reason,
      isReadOnly,
      hasLiveTable: false,
      hasInactiveTable: false,
      openCount: users,
      eventNr: 0,
      targetCount: 0,
      lenSectors: 0,
      isDeferredRemove,
      waitsFor: '',
    };
  }

  async #listExports(): Promise<ListedExport[]> {
    const there = await this.#plane.listExports();
    const missing = this.#book.exports().filter((entry) => entry.missing !== undefined);
    return [
      ...there.map((e) => ({ ...e, state: 'ACTIVE' as const })),
      ...missing.map(missingExport),
    ];
  }

  async #save(): Promise<void> {
    await this.#options.store.save(() => this.#book.state());
  }

  /** A change is so and not saved: said, and saved as soon as it can be. */
  #saveLater(error: unknown): void {
    if (this.#saveTimer !== undefined || this.#isEnding) return;
    this.#options.log(errorText(error));
    this.#saveTimer = this.#clock.after(SAVE_AGAIN_MS, () => {
      this.#saveTimer = undefined;
      void this.#saveAgain();
    });
  }

  async #saveAgain(): Promise<void> {
    try {
      await this.#save();
    } catch (error) {
      this.#saveLater(error);
    }
  }

  /** Waits for `work`, but not for long; it goes on behind that. */
  async #within(limitMs: number, work: Promise<void>): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#clock.after(limitMs, resolve);
      const end = (): void => {
        timer.cancel();
        resolve();
      };
      work.then(end, (error: unknown) => {
        this.#options.log(errorText(error));
        end();
      });
    });
  }
}

function isChange(verb: VerbName): boolean {
  return verbEntry(verb).kind === 'change';
}

/** What the plane says of a device, and what only the book knows. */
function withBook(info: ListedDevice, entry: DeviceEntry | undefined): ListedDevice {
  if (entry === undefined) return info;
  const reason = entry.missingInactive;
  return {
    ...info,
    // Until what is missing has come back, the plane has not been told.
    isDeferredRemove: info.isDeferredRemove || entry.saved.isDeferredRemove,
    ...(reason === undefined ? {} : { reason: `inactive table: ${reason}` }),
  };
}

function missingExport({ saved, missing }: ExportEntry): ListedExport {
  const none = { sizeBytes: 0, blockBytes: 0, connections: 0 };
  return { ...saved, ...none, state: 'MISSING', reason: missing ?? '' };
}

function savedLines(text: string | undefined): TargetLine[] {
  if (text === undefined) return [];
  return parseTable(text).map(({ args, ...line }) => ({ ...line, params: joinArgs(args) }));
}
