// The daemon: a data plane whose devices and exports outlive it. Every change is on disk before it is
// reported as done. One change at a time; looking is free.

import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { CreateOptions } from '../dm/control.ts';
import { printLine } from '../dm/table-text.ts';
import type { Plane } from './plane.ts';
import { loadState, type SavedState, saveState } from './state-file.ts';

const LOOKING = new Set([
  'list',
  'info',
  'deps',
  'table',
  'status',
  'wait',
  'targets',
  'listExports',
  'stats',
  'measure',
  'failures',
]);
const CHANGING = new Set([
  'create',
  'load',
  'clear',
  'suspend',
  'resume',
  'remove',
  'rename',
  'setUuid',
  'message',
  'createExport',
  'removeExport',
]);

type SavedDevice = SavedState['devices'][number];

/** Something saved that could not be recreated. It stays in the state. */
export interface RestoreFailure {
  readonly what: string;
  readonly reason: string;
}

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

  /** A call from a client. Throws DmError for a verb that there is not. */
  async call(method: string, args: readonly unknown[]): Promise<unknown> {
    if (method === 'failures') return this.#failures;
    if (LOOKING.has(method)) return await this.#invoke(method, args);
    if (!CHANGING.has(method)) {
      throw new DmError(Status.Invalid, `control call '${method}': no such verb`);
    }
    const change = async (): Promise<unknown> => {
      const result = await this.#invoke(method, args);
      this.#forget(method, args);
      this.#noteVolatile(method, args);
      saveState(this.#path, await this.#snapshot());
      return result;
    };
    const done = this.#changes.then(change, change);
    this.#changes = done.catch(() => undefined);
    return await done;
  }

  async #invoke(method: string, args: readonly unknown[]): Promise<unknown> {
    const plane = this.#plane as unknown as Record<string, (...a: unknown[]) => Promise<unknown>>;
    const verb = plane[method];
    if (verb === undefined) throw new DmError(Status.Invalid, `control call '${method}'`);
    return await verb.apply(this.#plane, [...args]);
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
