// What the daemon is to have, by the simplest means: maps of texts. It follows what was done, says whether a
// daemon that can be looked at agrees, and whether what is missing is so for a reason.

import { existsSync, statSync } from 'node:fs';
import type { ListedDevice, ListedExport } from '../daemon/answers.ts';
import type { Daemon } from '../daemon/daemon.ts';
import type { SavedState } from '../daemon/state-file.ts';
import { printLine } from '../dm/table-text.ts';

export interface ModelTable {
  readonly text: string;
  readonly isReadOnly: boolean;
}

export interface ModelDevice {
  readonly uuid: string;
  /** -1: whichever it got. */
  readonly minor: number;
  readonly live: ModelTable | undefined;
  readonly inactive: ModelTable | undefined;
  readonly isSuspended: boolean;
  readonly isDeferredRemove: boolean;
  readonly isVolatile: boolean;
}

export type Step =
  | {
      readonly verb: 'create';
      readonly name: string;
      readonly uuid: string;
      readonly table: ModelTable | undefined;
      readonly isVolatile: boolean;
    }
  | { readonly verb: 'load'; readonly name: string; readonly table: ModelTable }
  | { readonly verb: 'clear' | 'suspend' | 'resume'; readonly name: string }
  | { readonly verb: 'remove'; readonly name: string; readonly isDeferred: boolean }
  | { readonly verb: 'rename'; readonly name: string; readonly newName: string }
  | { readonly verb: 'setUuid'; readonly name: string; readonly uuid: string }
  | { readonly verb: 'createExport'; readonly name: string; readonly device: string }
  | { readonly verb: 'removeExport'; readonly name: string };

const SECTOR = 512;

export class DaemonModel {
  readonly devices: Map<string, ModelDevice>;
  /** Device by export. */
  readonly exports: Map<string, string>;

  constructor(from?: DaemonModel) {
    this.devices = new Map(from?.devices);
    this.exports = new Map(from?.exports);
  }

  /** The step was done. */
  apply(step: Step): void {
    const { devices, exports } = this;
    const device = devices.get(step.verb === 'createExport' ? step.device : step.name);
    switch (step.verb) {
      case 'create':
        devices.set(step.name, {
          uuid: step.uuid,
          minor: -1,
          live: step.table,
          inactive: undefined,
          isSuspended: false,
          isDeferredRemove: false,
          isVolatile: step.isVolatile,
        });
        break;
      case 'remove':
        if (step.isDeferred && this.#isUsed(step.name)) {
          this.#change(step.name, { isDeferredRemove: true });
        } else devices.delete(step.name);
        break;
      case 'rename':
        this.#rename(step.name, step.newName);
        break;
      case 'createExport':
        exports.set(step.name, step.device);
        break;
      case 'removeExport':
        exports.delete(step.name);
        break;
      case 'load':
        this.#change(step.name, { inactive: step.table });
        break;
      case 'clear':
        this.#change(step.name, { inactive: undefined });
        break;
      case 'suspend':
        this.#change(step.name, { isSuspended: device?.live !== undefined });
        break;
      case 'resume':
        this.#change(step.name, {
          live: device?.inactive ?? device?.live,
          inactive: undefined,
          isSuspended: false,
        });
        break;
      case 'setUuid':
        this.#change(step.name, { uuid: step.uuid });
        break;
    }
    this.#reap();
  }

  /** It may flush what waits until somebody resumes what is below. */
  wouldWait(step: Step): boolean {
    switch (step.verb) {
      case 'suspend':
      case 'resume':
      case 'remove':
        return this.#waits(this.devices.get(step.name)?.live);
      case 'create':
        // When it is taken back.
        return this.#waits(step.table);
      default:
        return false;
    }
  }

  #waits(table: ModelTable | undefined): boolean {
    return [...this.devices].some(
      ([lower, d]) => names(table, lower) && (d.isSuspended || this.#waits(d.live)),
    );
  }

  /** What a restart does to it. */
  restart(): void {
    for (const [name, device] of this.devices) if (device.isVolatile) this.devices.delete(name);
    this.#reap();
  }

  /** How the daemon differs; undefined: not at all. Takes minors over that it did not know. */
  async difference(daemon: Daemon): Promise<string | undefined> {
    const listed = await daemon.run('list', []);
    const names = listed.map((d) => d.name);
    const wanted = [...this.devices.keys()];
    if ([...names].sort().join() !== [...wanted].sort().join()) {
      return `devices ${names.join()}, expected ${wanted.join()}`;
    }
    for (const info of listed) {
      const found = await this.#deviceDifference(daemon, info);
      if (found !== undefined) return `device ${info.name}: ${found}`;
    }
    const exports = (await daemon.run('listExports', [])).map((e) => `${e.name}=${e.device}`);
    const expected = [...this.exports].map(([name, device]) => `${name}=${device}`);
    if (exports.sort().join() === expected.sort().join()) return undefined;
    return `exports ${exports.join()}, expected ${expected.join()}`;
  }

  /** What cannot be seen of a device that is missing, the state tells. */
  isSaved(state: SavedState): boolean {
    return state.devices.every(
      ({ name, isSuspended }) =>
        (this.devices.get(name)?.isSuspended ?? isSuspended) === isSuspended,
    );
  }

  async #deviceDifference(daemon: Daemon, info: ListedDevice): Promise<string | undefined> {
    const { name } = info;
    const device = this.devices.get(name);
    if (device === undefined) return 'not expected';
    if (device.minor === -1) this.#change(name, { minor: info.minor });
    else if (device.minor !== info.minor) return `minor ${info.minor}, not ${device.minor}`;
    if (info.uuid !== device.uuid) return `uuid '${info.uuid}', not '${device.uuid}'`;
    if (info.isDeferredRemove !== device.isDeferredRemove) return 'deferred remove';
    for (const slot of ['live', 'inactive'] as const) {
      const lines = await daemon.run('table', [name, { inactive: slot === 'inactive' }]);
      const text = lines.map((line) => printLine(line).trim()).join('\n');
      if (text !== (device[slot]?.text ?? '')) {
        return `${slot} '${text}', not '${device[slot]?.text ?? ''}'`;
      }
    }
    if (info.state === 'MISSING') return info.reason === undefined ? 'no reason' : undefined;
    if (device.live === undefined) return undefined;
    if (info.isReadOnly !== device.live.isReadOnly) return 'read-only';
    return (info.state === 'SUSPENDED') === device.isSuspended ? undefined : `state ${info.state}`;
  }

  /** Of what is missing, something that could be there. */
  couldBeThere(
    listed: readonly ListedDevice[],
    exports: readonly ListedExport[],
  ): string | undefined {
    const present = new Set(listed.filter((d) => d.state !== 'MISSING').map((d) => d.name));
    for (const info of listed) {
      const device = this.devices.get(info.name);
      if (info.reason === undefined || device === undefined) continue;
      const table = info.state === 'MISSING' ? device.live : device.inactive;
      if (table === undefined || this.#canBeLoaded(table, present)) {
        return `device ${info.name} (${info.state}: ${info.reason})`;
      }
    }
    for (const e of exports) {
      if (e.state !== 'MISSING' || !present.has(e.device)) continue;
      const hasTable = this.devices.get(e.device)?.live !== undefined;
      if (hasTable) return `export ${e.name} (${e.reason})`;
    }
    return undefined;
  }

  #canBeLoaded({ text, isReadOnly }: ModelTable, present: ReadonlySet<string>): boolean {
    const isReadElsewhere = (file: string): boolean =>
      [...present].some((name) => {
        const { live, inactive } = this.devices.get(name) ?? {};
        const tables = [live, inactive].filter((table) => table?.isReadOnly === true);
        return tables.some((table) => names(table, file));
      });
    return text.split('\n').every((line) => {
      const [, len = '0', type, below = '', offset = '0'] = line.split(' ');
      if (type !== 'linear') return true;
      const sectors = Number(len) + Number(offset);
      if (below.startsWith('/')) {
        // Whoever has it read-only is in the way of whoever writes.
        if (!isReadOnly && isReadElsewhere(below)) return false;
        return existsSync(below) && statSync(below).size >= sectors * SECTOR;
      }
      const live = this.devices.get(below)?.live;
      if (live === undefined || !present.has(below)) return false;
      return lenOf(live.text) >= sectors && (isReadOnly || !live.isReadOnly);
    });
  }

  #isUsed(name: string): boolean {
    if ([...this.exports.values()].includes(name)) return true;
    return [...this.devices.values()].some(
      ({ live, inactive }) => names(live, name) || names(inactive, name),
    );
  }

  /** Devices that go with their last user, and what goes with them. */
  #reap(): void {
    for (;;) {
      const found = [...this.devices].find(
        ([name, d]) => d.isDeferredRemove && !this.#isUsed(name),
      );
      if (found === undefined) return;
      this.devices.delete(found[0]);
    }
  }

  #rename(from: string, to: string): void {
    const all = [...this.devices];
    this.devices.clear();
    const renamed = (table: ModelTable | undefined): ModelTable | undefined =>
      table && { ...table, text: table.text.replaceAll(` ${from} `, ` ${to} `) };
    for (const [name, device] of all) {
      const { live, inactive } = device;
      this.devices.set(name === from ? to : name, {
        ...device,
        live: renamed(live),
        inactive: renamed(inactive),
      });
    }
    for (const [name, device] of this.exports) if (device === from) this.exports.set(name, to);
  }

  #change(name: string, change: Partial<ModelDevice>): void {
    const device = this.devices.get(name);
    if (device !== undefined) this.devices.set(name, { ...device, ...change });
  }
}

export function lenOf(text: string): number {
  const [start = '0', len = '0'] = (text.split('\n').at(-1) ?? '').split(' ');
  return Number(start) + Number(len);
}

function names(table: ModelTable | undefined, name: string): boolean {
  return table?.text.includes(` ${name} `) === true;
}
