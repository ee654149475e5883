// The daemon: a data plane whose devices and exports outlive it. Every change is on disk before it is
// reported as done. One change at a time; looking is free.

import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { CreateOptions } from '../dm/control.ts';
import { printLine } from '../dm/table-text.ts';
import type { Plane, VerbResult } from './plane.ts';
import { loadState, type SavedState, saveState } from './state-file.ts';
import { checkArguments } from './verb-arguments.ts';
import { type PlaneVerb, VERBS, type VerbArgs, type VerbName, verbNamed } from './verbs.ts';

type SavedDevice = SavedState['devices'][number];

/** Something saved that could not be recreated. It stays in the state. */
export interface RestoreFailure {
  readonly what: string;
  readonly reason: string;
}

/** What the daemon answers beside the plane. */
interface DaemonAnswers {
  readonly failures: readonly RestoreFailure[];
}

/** What a client gets for a verb. */
export type VerbAnswer<N extends VerbName> = N extends PlaneVerb
  ? VerbResult<N>
  : N extends keyof DaemonAnswers
    ? DaemonAnswers[N]
    : never;

export class Daemon {
  readonly #plane: Plane;
  readonly #path: string;
  readonly #failures: RestoreFailure[] = [];
  /** Saved entries that could not be recreated: kept as they were. */
  readonly #lost: { devices: SavedDevice[]; exports: SavedState['exports'] } = {
    devices: [],
    exports: [],
  };
  /** Devices that are not saved, because their tables hold secrets. */
  readonly #volatile = new Set<string>();
  #changes: Promise<unknown> = Promise.resolve();

  private constructor(plane: Plane, path: string) {
    this.#plane = plane;
    this.#path = path;
  }

  /** Recreates what was saved; what cannot be is told by `failures` and kept. */
  static async start(plane: Plane, path: string): Promise<Daemon> {
    const daemon = new Daemon(plane, path);
    const state = loadState(path);
    for (const device of state.devices) await daemon.#restoreDevice(device);
    for (const saved of state.exports) {
      try {
        await plane.createExport(saved);
      } catch (error) {
        daemon.#failures.push({ what: `export '${saved.name}'`, reason: errorText(error) });
        daemon.#lost.exports.push(saved);
      }
    }
    return daemon;
  }

  get failures(): readonly RestoreFailure[] {
    return this.#failures;
  }

  /**
   * A call from a client, with what it sent. Throws DmError for a verb that there is not and for
   * wrong arguments. When `signal` is aborted, nobody waits for the answer any more.
   */
  async call(method: string, args: readonly unknown[], signal?: AbortSignal): Promise<unknown> {
    const verb = verbNamed(method);
    if (verb === undefined || VERBS[verb].kind === 'inside') {
      throw new DmError(Status.Invalid, `control call '${method}': no such verb`);
    }
    return await this.#run(verb, checkArguments(verb, args), signal);
  }

  async #run<N extends VerbName>(
    verb: N,
    args: VerbArgs<N>,
    signal: AbortSignal | undefined,
  ): Promise<unknown> {
    if (verb === 'failures') return this.#failures;
    const invoke = async (): Promise<unknown> =>
      await this.#plane.call(verb as N & PlaneVerb, args as VerbArgs<N & PlaneVerb>, signal);
    if (VERBS[verb].kind !== 'change') return await invoke();
    const change = async (): Promise<unknown> => {
      const result = await invoke();
      this.#forget(verb, args);
      this.#noteVolatile(verb, args);
      saveState(this.#path, await this.#snapshot());
      return result;
    };
    const done = this.#changes.then(change, change);
    this.#changes = done.catch(() => undefined);
    return await done;
  }

  async #restoreDevice(saved: SavedDevice): Promise<void> {
    const { table, ...rest } = saved;
    const options: CreateOptions = table === undefined ? rest : { ...rest, table };
    try {
      await this.#plane.create(options);
    } catch (error) {
      this.#failures.push({ what: `device ${saved.name}`, reason: errorText(error) });
      this.#lost.devices.push(saved);
    }
  }

  #noteVolatile(method: string, args: readonly unknown[]): void {
    if (method === 'create') {
      const { name, isVolatile } = args[0] as CreateOptions;
      this.#volatile.delete(name);
      if (isVolatile === true) this.#volatile.add(name);
    } else if (method === 'rename') {
      const [from, to] = args as [string, string];
      if (this.#volatile.delete(from)) this.#volatile.add(to);
    }
  }

  /** A device or export made anew takes the place of one that could not be recreated. */
  #forget(method: string, args: readonly unknown[]): void {
    const name =
      method === 'create' || method === 'createExport'
        ? (args[0] as { name: string }).name
        : undefined;
    if (name === undefined) return;
    const list: { readonly name: string }[] =
      method === 'create' ? this.#lost.devices : this.#lost.exports;
    const index = list.findIndex((lost) => lost.name === name);
    if (index !== -1) list.splice(index, 1);
  }

  async #snapshot(): Promise<SavedState> {
    const devices = new Map<string, { saved: SavedDevice; below: string[] }>();
    for (const info of await this.#plane.list()) {
      if (this.#volatile.has(info.name)) continue;
      const lines = await this.#plane.table(info.name);
      const deps = await this.#plane.deps(info.name);
      const { name, uuid, minor, isReadOnly } = info;
      const saved: SavedDevice = { name, uuid, minor, isReadOnly };
      if (lines.length > 0) saved.table = lines.map(printLine).join('\n');
      devices.set(name, { saved, below: deps.filter((d) => d.isMapped).map((d) => d.name) });
    }
    const ordered: SavedDevice[] = [...this.#lost.devices];
    const place = (name: string): void => {
      const device = devices.get(name);
      if (device === undefined) return;
      devices.delete(name);
      for (const below of device.below) place(below);
      ordered.push(device.saved);
    };
    for (const name of Array.from(devices.keys())) place(name);
    const exports = (await this.#plane.listExports()).map(
      ({ name, device, description, isReadOnly }) => ({ name, device, description, isReadOnly }),
    );
    return { version: 1, devices: ordered, exports: [...this.#lost.exports, ...exports] };
  }
}
