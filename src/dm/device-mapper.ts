// The device mapper: mapped devices by name, their tables, and dmsetup's verbs over them.
//
// A table holds what it uses: lower mapped devices count their users, backends are opened once and shared
// by all tables that name them. Loading refuses cycles through live and inactive tables alike, so a later
// resume cannot close one.

import { resolve } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { IoEngine } from '../io/engine.ts';
import { BackendShares, type OpenBackend } from './backend-shares.ts';
import type { CreateOptions, DeviceInfo, DmControl, LineOptions, TargetLine } from './control.ts';
import { DeviceNode, withDevice } from './device-node.ts';
import { MappedDevice } from './mapped-device.ts';
import { Holdings, type OpenDevice } from './holdings.ts';
import { Shares } from './shares.ts';
import { closeEntries, makeEntry, Table, type TableEntry } from './table.ts';
import { escapeArg, hideKeys, parseTable, splitArgs, type TableLine } from './table-text.ts';
import type { TargetHost, TargetType } from './target.ts';

const NAME_BYTES_MAX = 127;
const UUID_BYTES_MAX = 128;

export interface DeviceMapperOptions {
  readonly engine: IoEngine;
  readonly clock: Clock;
  readonly random: () => number;
  loadTargetType(name: string): Promise<TargetType | undefined>;
  listTargetTypes(): readonly string[];
  readonly openBackend: OpenBackend;
  /** Clones each device may have out (its reserve is 1). */
  readonly clonesMax?: number;
}

export class DeviceMapper implements DmControl {
  readonly #options: DeviceMapperOptions;
  readonly #nodes = new Map<string, DeviceNode>();
  readonly #backends: BackendShares;
  readonly #shares = new Shares();

  constructor(options: DeviceMapperOptions) {
    this.#options = options;
    this.#backends = new BackendShares(options.openBackend);
  }

  async create(options: CreateOptions): Promise<DeviceInfo> {
    const { name, uuid = '', isReadOnly = false } = options;
    this.#checkName(name);
    this.#checkUuid(uuid);
    const minor = this.#chooseMinor(options.minor);
    const device = new MappedDevice(name, this.#options.clock, this.#options.clonesMax);
    const node = new DeviceNode(device, minor, uuid, isReadOnly);
    this.#nodes.set(name, node);
    const { table } = options;
    if (table === undefined) return node.info();
    try {
      await node.exclusively(async () => {
        await node.setInactive(await this.#build(node, table, isReadOnly));
        await node.resume();
      });
    } catch (error) {
      this.#nodes.delete(node.name);
      await node.destroy();
      throw withDevice(name, error);
    }
    return node.info();
  }

  async load(
    name: string,
    table: string,
    options: { readonly isReadOnly?: boolean } = {},
  ): Promise<void> {
    const node = this.#find(name);
    const isReadOnly = options.isReadOnly ?? node.isReadOnly;
    await node.exclusively(async () => {
      try {
        await node.setInactive(await this.#build(node, table, isReadOnly));
      } catch (error) {
        throw withDevice(name, error);
      }
    });
  }

  async clear(name: string): Promise<void> {
    const node = this.#find(name);
    await node.exclusively(async () => await node.setInactive(null));
  }

  async suspend(name: string, options: { readonly noflush?: boolean } = {}): Promise<void> {
    const node = this.#find(name);
    await node.exclusively(async () => await node.suspend(options.noflush === true));
  }

  async resume(name: string): Promise<void> {
    const node = this.#find(name);
    await node.exclusively(async () => await node.resume());
  }

  async remove(
    name: string,
    options: { readonly force?: boolean; readonly deferred?: boolean } = {},
  ): Promise<void> {
    const node = this.#find(name);
    if (node.openCount > 0 && options.force === true) await this.#replaceByError(node);
    if (node.openCount > 0) {
      if (options.deferred !== true) throw this.#busy(node);
      node.isDeferredRemove = true;
      return;
    }
    await this.#destroy(node);
  }

  async rename(name: string, newName: string): Promise<void> {
    const node = this.#find(name);
    this.#checkName(newName);
    this.#nodes.delete(name);
    this.#nodes.set(newName, node);
    node.device.name = newName;
    await Promise.resolve();
  }

  async setUuid(name: string, uuid: string): Promise<void> {
    const node = this.#find(name);
    if (node.uuid !== '') {
      throw invalid(`device ${name}: has UUID '${node.uuid}' already; it cannot be changed`);
    }
    this.#checkUuid(uuid);
    node.uuid = uuid;
    await Promise.resolve();
  }

  list(): Promise<DeviceInfo[]> {
    return Promise.resolve([...this.#nodes.values()].map((node) => node.info()));
  }

  async info(name: string): Promise<DeviceInfo> {
    return await Promise.resolve(this.#find(name).info());
  }

  async deps(name: string): Promise<{ readonly name: string; readonly isMapped: boolean }[]> {
    const { live } = this.#find(name).device;
    const devices = live === null ? [] : live.devices();
    return await Promise.resolve(
      devices.map((d) => ({ name: d.name, isMapped: d instanceof MappedDevice })),
    );
  }

  async table(name: string, options: LineOptions = {}): Promise<TargetLine[]> {
    const kind = options.showKeys === true ? 'keys' : 'table';
    return await Promise.resolve(this.#lines(name, options, kind));
  }

  async status(name: string, options: LineOptions = {}): Promise<TargetLine[]> {
    if (options.noflush !== true) await this.#find(name).device.live?.prestatus();
    return this.#lines(name, options, 'info');
  }

  async message(name: string, sector: number, text: string): Promise<string> {
    const { live } = this.#find(name).device;
    if (live === null) throw invalid(`device ${name}: message: no live table`);
    if (!Number.isSafeInteger(sector) || sector < 0 || sector >= live.lenSectors) {
      throw invalid(
        `device ${name}: message: sector ${sector} is outside the table (0..${live.lenSectors - 1})`,
      );
    }
    const argv = splitArgs(text);
    if (argv.length === 0) throw invalid(`device ${name}: message: empty`);
    const { target, line } = live.find(sector);
    if (target.message === undefined) {
      throw invalid(
        `device ${name}: target ${line.type} takes no messages, got '${hideKeys(text)}'`,
      );
    }
    return await target.message(argv);
  }

  async wait(name: string, eventNr?: number, signal?: AbortSignal): Promise<DeviceInfo> {
    const node = this.#find(name);
    await node.waitEvent(eventNr ?? node.eventNr, signal);
    return node.info();
  }

  async targets(): Promise<{ readonly name: string; readonly version: string }[]> {
    const result = [];
    for (const name of this.#options.listTargetTypes()) {
      const type = await this.#options.loadTargetType(name);
      if (type !== undefined) result.push({ name, version: `v${type.version.join('.')}` });
    }
    return result;
  }

  /** Size of what a table could name. Throws DmError. */
  async measure(
    reference: string,
    options: { readonly readOnly: boolean },
  ): Promise<{ readonly lenSectors: number; readonly sizeNote: string | undefined }> {
    const mapped = this.#resolveMapped(reference);
    if (mapped !== undefined) {
      return { lenSectors: mapped.device.lenSectors, sizeNote: undefined };
    }
    const opened = await this.#openBackend(reference, options.readOnly);
    const { lenSectors } = opened.device;
    const { sizeNote } = opened.device as { readonly sizeNote?: string };
    await opened.close();
    return { lenSectors, sizeNote };
  }

  /** Holds a device open, as an export does. Throws DmError. */
  async openDevice(name: string): Promise<OpenDevice> {
    const node = this.#find(name);
    if (node.device.live === null) {
      throw new DmError(Status.NoDeviceOrAddress, `device ${name}: has no live table`);
    }
    return await Promise.resolve(this.#hold(node));
  }

  /** Flushes and closes every device, users first. The first error, after all are closed. */
  async close(): Promise<void> {
    let failure: unknown;
    while (this.#nodes.size > 0) {
      const nodes = [...this.#nodes.values()];
      const isUsed = (n: DeviceNode): boolean =>
        nodes.some((m) => m !== n && this.#usesOf(m).has(n.device));
      const node = nodes.find((n) => !isUsed(n)) ?? nodes[0];
      if (node === undefined) break;
      try {
        await node.exclusively(async () => await node.destroy());
      } catch (error) {
        failure ??= error;
      }
      // Only now: until then it is among what is not flushed yet.
      this.#nodes.delete(node.name);
    }
    if (failure !== undefined) throw failure;
  }

  // ---- devices ----

  #find(name: string): DeviceNode {
    const node = this.#nodes.get(name);
    if (node !== undefined) return node;
    throw new DmError(Status.NoDeviceOrAddress, `Device ${name} not found`);
  }

  #checkName(name: string): void {
    const bytes = Buffer.byteLength(name);
    if (bytes === 0 || bytes > NAME_BYTES_MAX) {
      throw invalid(`device name '${name}': ${bytes} bytes; need 1..${NAME_BYTES_MAX}`);
    }
    if (name.includes('/') || name === '.' || name === '..') {
      throw invalid(`device name '${name}': may not be '.', '..' or contain '/'`);
    }
    if (this.#nodes.has(name)) {
      throw new DmError(Status.Exists, `device ${name}: name already exists`);
    }
  }

  #checkUuid(uuid: string): void {
    const bytes = Buffer.byteLength(uuid);
    if (bytes > UUID_BYTES_MAX) {
      throw invalid(`UUID '${uuid}': ${bytes} bytes; the limit is ${UUID_BYTES_MAX}`);
    }
    const owner = [...this.#nodes.values()].find((n) => uuid !== '' && n.uuid === uuid);
    if (owner !== undefined) {
      throw new DmError(Status.Exists, `UUID '${uuid}': device ${owner.name} has it already`);
    }
  }

  #chooseMinor(wanted: number | undefined): number {
    const used = new Set([...this.#nodes.values()].map((n) => n.minor));
    if (wanted !== undefined) {
      if (!Number.isSafeInteger(wanted) || wanted < 0 || wanted >= 1 << 20) {
        throw invalid(`minor ${wanted}: need 0..${(1 << 20) - 1}`);
      }
      if (used.has(wanted)) throw new DmError(Status.Busy, `minor ${wanted}: in use`);
      return wanted;
    }
    let minor = 0;
    while (used.has(minor)) minor++;
    return minor;
  }

  #nodeOf(device: BlockDevice): DeviceNode | undefined {
    return [...this.#nodes.values()].find((node) => node.device === device);
  }

  #busy(node: DeviceNode): DmError {
    const users = [...this.#nodes.values()]
      .filter((n) => this.#usesOf(n).has(node.device))
      .map((n) => n.name);
    const by = users.length > 0 ? ` (used by ${users.join(', ')})` : ' (exported)';
    return new DmError(Status.Busy, `device ${node.name}: Device or resource busy${by}`);
  }

  /** Lower devices in the live and the inactive table. */
  #usesOf(node: DeviceNode): Set<BlockDevice> {
    return new Set([...(node.device.live?.devices() ?? []), ...(node.inactive?.devices() ?? [])]);
  }

  async #destroy(node: DeviceNode): Promise<void> {
    this.#nodes.delete(node.name);
    await node.exclusively(async () => await node.destroy());
  }

  async #replaceByError(node: DeviceNode): Promise<void> {
    const sectors = node.device.lenSectors;
    if (sectors === 0) return;
    await node.exclusively(async () => {
      await node.setInactive(await this.#build(node, `0 ${sectors} error`, node.isReadOnly));
      await node.suspend(true);
      await node.resume();
    });
  }

  #hold(node: DeviceNode): OpenDevice {
    node.openCount++;
    let isOpen = true;
    return {
      device: node.device,
      close: async () => {
        if (!isOpen) return;
        isOpen = false;
        node.openCount--;
        const isGone = this.#nodes.get(node.name) !== node;
        if (node.openCount === 0 && node.isDeferredRemove && !isGone) await this.#destroy(node);
      },
    };
  }

  #lines(name: string, options: LineOptions, kind: 'info' | 'table' | 'keys'): TargetLine[] {
    const node = this.#find(name);
    const table = options.inactive === true ? node.inactive : node.device.live;
    return (table?.entries ?? []).map(({ line, target }) => ({
      startSector: line.startSector,
      lenSectors: line.lenSectors,
      type: line.type,
      params:
        (kind === 'keys' ? target.tableWithKeys?.() : undefined) ??
        target.status(kind === 'info' ? 'info' : 'table'),
    }));
  }

  // ---- tables ----

  async #build(node: DeviceNode, text: string, isReadOnly: boolean): Promise<Table> {
    const lines = parseTable(text);
    const entries: TableEntry[] = [];
    const holdings = new Holdings();
    try {
      for (const line of lines) {
        const type = await this.#options.loadTargetType(line.type);
        if (type === undefined) throw invalid(`table: '${line.type}': unknown target type`);
        const host = this.#host(node, line, isReadOnly, holdings);
        entries.push(await makeEntry(type, line, async () => await type.create(line.args, host)));
      }
      return new Table(entries, isReadOnly, holdings);
    } catch (error) {
      // The refusal is what counts; nothing has been written yet that closing could lose.
      await closeEntries(entries, holdings).catch(() => undefined);
      throw error;
    }
  }

  #host(node: DeviceNode, line: TableLine, isReadOnly: boolean, holdings: Holdings): TargetHost {
    const { engine, clock, random } = this.#options;
    return {
      device: node.device,
      deviceName: node.name,
      isReadOnly,
      startSector: line.startSector,
      lenSectors: line.lenSectors,
      engine,
      clock,
      random,
      event: () => node.event(),
      share: async (kind, key, open) => {
        const share = await this.#shares.provide(kind, key, open);
        holdings.addShare(share);
        return share.object as typeof kind.object;
      },
      findShared: (kind, lower) => {
        const share = this.#nodeOf(lower)?.device.live?.holdings.provided(kind)?.use();
        if (share === undefined) return undefined;
        holdings.addShare(share);
        return share.object as typeof kind.object;
      },
      openDevice: async (reference, range) => {
        // Once a table, however many lines name it.
        let opened = holdings.device(reference);
        if (opened === undefined) {
          opened = await this.#openReference(node, reference, isReadOnly);
          holdings.addDevice(reference, opened);
        }
        const { device } = opened;
        const end = range === undefined ? 0 : range.startSector + range.lenSectors;
        if (range !== undefined && end > device.lenSectors) {
          throw invalid(
            `device ${reference}: too small for target: sectors ${range.startSector}..${end} ` +
              `wanted, it has ${device.lenSectors}`,
          );
        }
        return device;
      },
    };
  }

  async #openReference(
    user: DeviceNode,
    reference: string,
    isReadOnly: boolean,
  ): Promise<OpenDevice> {
    const node = this.#resolveMapped(reference);
    if (node === undefined) return await this.#openBackend(reference, isReadOnly);
    if (this.#reaches(node, user)) {
      throw new DmError(
        Status.Busy,
        `device ${reference}: uses ${user.name}, which cannot use itself through it`,
      );
    }
    if (!isReadOnly && node.device.isReadOnly) {
      throw new DmError(Status.ReadOnly, `device ${reference}: is read-only`);
    }
    return this.#hold(node);
  }

  /** `NAME`, `/dev/mapper/NAME`, `/dev/dm-N`, `dm-N`, `MAJOR:MINOR`. */
  #resolveMapped(reference: string): DeviceNode | undefined {
    const name = reference.startsWith('/dev/mapper/') ? reference.slice(12) : reference;
    const byName = this.#nodes.get(name);
    if (byName !== undefined) return byName;
    const minor = /^(?:(?:\/dev\/)?dm-|\d+:)(\d+)$/.exec(reference)?.[1];
    const byMinor = [...this.#nodes.values()].find((n) => String(n.minor) === minor);
    if (byMinor !== undefined) return byMinor;
    if (name !== reference || minor !== undefined) {
      throw new DmError(Status.NoDevice, `device ${reference}: no such mapped device`);
    }
    return undefined;
  }

  /** True when `from` is `to` or uses it, at any depth, in a live or an inactive table. */
  #reaches(from: DeviceNode, to: DeviceNode): boolean {
    if (from === to) return true;
    const below = this.#usesOf(from);
    return [...this.#nodes.values()].some((n) => below.has(n.device) && this.#reaches(n, to));
  }

  async #openBackend(reference: string, isReadOnly: boolean): Promise<OpenDevice> {
    const key = /^[a-z][a-z0-9+.-]*:/i.test(reference) ? reference : resolve(reference);
    return await this.#backends.open(key, isReadOnly);
  }
}

/** How a table line names a device: its name, as one word. */
export function deviceWord(device: BlockDevice): string {
  return escapeArg(device.name);
}
