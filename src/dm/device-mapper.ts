// The device mapper: mapped devices by name, and dmsetup's verbs over them.
//
// Verbs of one device run one after the other (device-node.ts); what they do to its tables is a
// transaction (table-slots.ts). A verb can be given up as long as it waits; when the device
// mapper is closed, all are.

import { setMaxListeners } from 'node:events';
import { closeAll } from '../base/close-all.ts';
import { DmError, invalid } from '../base/errors.ts';
import { unlessGivenUp, withEither } from '../base/give-up.ts';
import { Status } from '../base/status.ts';
import type {
  CreateOptions,
  DeviceInfo,
  DmControl,
  InsertOptions,
  LineOptions,
  TargetLine,
} from './control.ts';
import type { OpenOptions } from './claims.ts';
import { DeviceNames } from './device-names.ts';
import { DeviceNode, orState, withDevice } from './device-node.ts';
import type { OpenDevice } from './holdings.ts';
import { movableTable, moveDown, moveUp } from './insertion.ts';
import { LateClosings } from './late-closings.ts';
import type { BlockDevice } from '../bio/device.ts';
import { basesOf, changesSince } from './device-changes.ts';
import type { ChangesSince } from './lineage.ts';
import { MappedDevice } from './mapped-device.ts';
import { replaceByError } from './replace-by-error.ts';
import type { Table } from './table.ts';
import type { TableSlots } from './table-slots.ts';
import { type BuildOptions, TableBuilder, type TableBuilderOptions } from './table-builder.ts';
import { linesOf, receiverOf } from './device-lines.ts';

export interface DeviceMapperOptions extends TableBuilderOptions {
  listTargetTypes(): readonly string[];
  /** Clones each device may have out (its reserve is 1). */
  readonly clonesMax?: number;
  /** The export that has a device to itself; undefined: none has. */
  holderOf?(device: BlockDevice): string | undefined;
}

export class DeviceMapper implements DmControl {
  readonly #options: DeviceMapperOptions;
  readonly #names = new DeviceNames();
  readonly #builder: TableBuilder;
  /** Aborted by `close`: nobody waits any more. */
  readonly #closing = new AbortController();
  readonly #late = new LateClosings();

  constructor(options: DeviceMapperOptions) {
    this.#options = options;
    // One listener for everything that waits.
    setMaxListeners(0, this.#closing.signal);
    this.#builder = new TableBuilder(options, this.#names, (node) => {
      node.refuseHeld();
      return this.#hold(node);
    });
  }

  /** Backends and shared objects that are open, and claims that are held: none after `close`. */
  get openCount(): number {
    return this.#builder.openCount;
  }

  async create(options: CreateOptions, signal?: AbortSignal): Promise<DeviceInfo> {
    const { name, uuid = '', isReadOnly = false, isRestored = false } = options;
    this.#refuseIfClosed();
    const node = this.#newNode(name, { minor: options.minor, uuid, isReadOnly });
    const { table } = options;
    if (table === undefined) return node.info();
    node.isMaking = true;
    return await this.#inTurn(node, signal, async (until) => {
      try {
        const built = await this.#build(node, table, { isReadOnly, isRestored }, until);
        const isSet = node.slots.setInactive(built);
        // In one go with the line before: of two that are made at once the second sees the first.
        if (options.isOnlyUser === true) this.#names.checkOnlyUser(node, built);
        const { apartFromUuid } = options;
        if (apartFromUuid !== undefined) this.#names.checkApart(node, built, apartFromUuid);
        await isSet;
        await node.slots.resume(until);
        node.isMaking = false;
      } catch (error) {
        await this.#end(node, { isForced: true, flushes: false }).catch(() => undefined);
        throw withDevice(name, error);
      }
      return node.info();
    });
  }

  async load(
    name: string,
    table: string,
    options: Pick<CreateOptions, 'isReadOnly' | 'isRestored'> = {},
    signal?: AbortSignal,
  ): Promise<void> {
    const node = this.#names.find(name);
    const { isReadOnly = node.isReadOnly, isRestored = false } = options;
    await this.#inTurn(node, signal, async (until) => {
      node.refuseHeld();
      try {
        await node.slots.setInactive(
          await this.#build(node, table, { isReadOnly, isRestored }, until),
        );
      } catch (error) {
        throw withDevice(name, error);
      }
    });
  }

  async clear(name: string, signal?: AbortSignal): Promise<void> {
    const node = this.#names.find(name);
    await this.#inTurn(node, signal, async () => await node.slots.setInactive(null));
  }

  async suspend(
    name: string,
    options: { readonly noflush?: boolean } = {},
    signal?: AbortSignal,
  ): Promise<void> {
    const node = this.#names.find(name);
    const requeues = options.noflush === true;
    await this.#inTurn(node, signal, async (until) => {
      node.refuseHeld();
      const how = { requeues, flushes: !requeues, signal: until };
      await orState(node, async () => await node.slots.suspend(how));
    });
  }

  async resume(name: string, signal?: AbortSignal): Promise<void> {
    const node = this.#names.find(name);
    await this.#inTurn(node, signal, async (until) => {
      await orState(node, async () => await node.slots.resume(until));
    });
  }

  /**
   * A device that cannot be flushed stays, unless `force` is given: then it goes, and the
   * error tells.
   */
  async remove(
    name: string,
    options: { readonly force?: boolean; readonly deferred?: boolean } = {},
    signal?: AbortSignal,
  ): Promise<void> {
    const node = this.#names.find(name);
    const isForced = options.force === true;
    await this.#inTurn(node, signal, async (until) => {
      const isReplaced =
        node.openCount > 0 &&
        isForced &&
        (await replaceByError(
          node,
          async (table, how) => this.#build(node, table, how, until),
          until,
        ));
      if (node.openCount === 0) {
        await this.#end(node, { isForced, signal: until });
        return;
      }
      if (options.deferred !== true) {
        throw this.#busy(node, isReplaced ? '; its table has been replaced by errors' : '');
      }
      node.isDeferredRemove = true;
    });
  }

  async rename(name: string, newName: string): Promise<void> {
    const node = await this.#made(name);
    if (node.isEnding) throw node.ending();
    this.#names.rename(node, newName);
  }

  async insertBelow(
    name: string,
    lower: string,
    options: InsertOptions,
    signal?: AbortSignal,
  ): Promise<void> {
    const node = this.#names.find(name);
    await this.#inTurn(node, signal, async (until) => {
      const { isReadOnly } = movableTable(node);
      const below = this.#newNode(lower, { minor: options.minor, isReadOnly: node.isReadOnly });
      const build = async (): Promise<Table> =>
        await this.#build(node, options.table, { isReadOnly }, until);
      try {
        await below.exclusively(async () => await moveDown(node, below, build, until));
      } catch (error) {
        if (below.device.live === null) await this.#drop(below);
        throw withDevice(name, error);
      }
      if (options.movesUuid === true) [below.uuid, node.uuid] = [node.uuid, ''];
    });
  }

  async takeOut(
    name: string,
    lower: string,
    options: Pick<InsertOptions, 'movesUuid'> = {},
    signal?: AbortSignal,
  ): Promise<void> {
    const node = this.#names.find(name);
    const below = this.#names.find(lower);
    const verb = async (until: AbortSignal): Promise<void> => {
      const isOnlyUser = below.openCount === 1 && this.#builder.usesOf(node).has(below.device);
      if (!isOnlyUser) throw this.#busy(below, `: ${name} is to be its only user`);
      try {
        await moveUp(node, below, until);
      } finally {
        if (below.device.live === null) await this.#drop(below);
      }
      if (options.movesUuid === true) node.uuid = below.uuid;
    };
    await this.#inTurn(node, signal, async (until) => {
      await below.exclusively(async () => await verb(until), until);
    });
  }

  /** A device without a table, under a name that nobody has. Throws DmError. */
  #newNode(
    name: string,
    options: { minor: number | undefined; uuid?: string; isReadOnly: boolean },
  ): DeviceNode {
    const { uuid = '', isReadOnly } = options;
    this.#names.checkName(name);
    this.#names.checkUuid(uuid);
    const minor = this.#names.chooseMinor(options.minor);
    const device = new MappedDevice(name, this.#options.clonesMax);
    const node = new DeviceNode(device, this.#late, minor, uuid, isReadOnly);
    node.holder = () => this.#options.holderOf?.(device);
    this.#names.add(node);
    return node;
  }

  /** A device without a table goes. */
  async #drop(node: DeviceNode): Promise<void> {
    this.#names.delete(node);
    await node.close();
  }

  async setUuid(name: string, uuid: string): Promise<void> {
    const node = await this.#made(name);
    if (node.uuid !== '') {
      throw invalid(`device ${name}: has UUID '${node.uuid}' already; it cannot be changed`);
    }
    this.#names.checkUuid(uuid);
    node.uuid = uuid;
  }

  list(): Promise<DeviceInfo[]> {
    return Promise.resolve(this.#names.all.map((node) => node.info()));
  }

  async info(name: string): Promise<DeviceInfo> {
    return await Promise.resolve(this.#names.find(name).info());
  }

  async deps(name: string): Promise<{ readonly name: string; readonly isMapped: boolean }[]> {
    const { live } = this.#names.find(name).device;
    const devices = live === null ? [] : live.devices();
    return await Promise.resolve(
      devices.map((d) => ({ name: d.name, isMapped: d instanceof MappedDevice })),
    );
  }

  async table(name: string, options: LineOptions = {}): Promise<TargetLine[]> {
    const kind = options.showKeys === true ? 'keys' : 'table';
    return await Promise.resolve(linesOf(this.#names.find(name), options, kind));
  }

  async status(
    name: string,
    options: LineOptions = {},
    signal?: AbortSignal,
  ): Promise<TargetLine[]> {
    const { live } = this.#names.find(name).device;
    if (options.noflush !== true && live !== null) {
      const what = `device ${name}: status`;
      await this.#until(
        signal,
        async (until) => await unlessGivenUp(live.prestatus(), until, what),
      );
    }
    return linesOf(this.#names.find(name), options, 'info');
  }

  async message(name: string, sector: number, text: string, signal?: AbortSignal): Promise<string> {
    const { target, argv } = receiverOf(this.#names.find(name), sector, text);
    const what = `device ${name}: message; whether it is done is not known`;
    return await this.#until(signal, async (until) => {
      return await unlessGivenUp(target.message(argv, until), until, what);
    });
  }

  async wait(name: string, eventNr?: number, signal?: AbortSignal): Promise<DeviceInfo> {
    const node = this.#names.find(name);
    const above = eventNr ?? node.eventNr;
    await this.#until(signal, async (until) => await node.waitEvent(above, until));
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
    return await this.#builder.measure(reference, options);
  }

  /** Looks after what tables stand on; `info` tells what has become of it. Never rejects. */
  async look(): Promise<void> {
    await this.#builder.look();
  }

  /** Names of the devices since which a device can tell what has changed. */
  basesOf(device: BlockDevice): string[] {
    return basesOf(this.#names.all, device);
  }

  /** What has changed in a device since another one; undefined when that cannot be told. */
  changesSince(device: BlockDevice, base: string): ChangesSince | undefined {
    return changesSince(this.#names.all, device, base);
  }

  /** Holds a device open, as an export does. Throws DmError. */
  async openDevice(name: string, how?: OpenOptions): Promise<OpenDevice> {
    return await Promise.resolve(this.#builder.open(this.#names.find(name), how));
  }

  /**
   * Gives up what waits, then flushes and closes every device, users first. The first error,
   * after all are closed. When `signal` is aborted, devices with I/O that does not end are
   * left as they are.
   */
  async close(signal?: AbortSignal): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#names.all.map(async (node) => await this.#letGo(node, signal)));
    const closers: (() => Promise<void>)[] = [];
    const left = new Set(this.#names.all);
    while (left.size > 0) {
      const used = new Set([...left].flatMap((node) => [...this.#builder.usesOf(node)]));
      const [first] = left;
      const node = [...left].find((n) => !used.has(n.device)) ?? first;
      if (node === undefined) break;
      left.delete(node);
      closers.push(async () => await this.#closeNode(node, signal));
    }
    await closeAll([...closers, async () => await this.#late.settle(signal)]);
  }

  // ---- devices ----

  async #letGo(node: DeviceNode, signal: AbortSignal | undefined): Promise<void> {
    const letGo = async (): Promise<void> => await node.slots.giveUpWaiting(signal);
    // A device that has been removed, or that has no turn before the signal, is left to `#closeNode`.
    await node.exclusively(letGo, signal).catch(() => undefined);
  }

  async #closeNode(node: DeviceNode, signal: AbortSignal | undefined): Promise<void> {
    let isMine = false;
    try {
      await node.exclusively(async () => {
        isMine = true;
        await this.#end(node, { isForced: true, signal });
      }, signal);
    } catch (error) {
      // A verb before this one may have removed the device.
      if (isMine || this.#names.all.includes(node)) throw error;
    }
  }

  /** The device of this name; one that is being made is waited for. */
  async #made(name: string): Promise<DeviceNode> {
    const node = this.#names.find(name);
    if (node.isMaking) await node.whenMade(this.#closing.signal);
    return node;
  }

  /** Runs a verb of a device when it is its turn. The verb, and the wait for it, can be given up. */
  async #inTurn<T>(
    node: DeviceNode,
    signal: AbortSignal | undefined,
    verb: (until: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return await this.#until(
      signal,
      async (until) => await node.exclusively(async () => await verb(until), until),
    );
  }

  /** `work`, with what ends its waits: the caller gives it up, or the device mapper is closed. */
  async #until<T>(
    signal: AbortSignal | undefined,
    work: (until: AbortSignal) => Promise<T>,
  ): Promise<T> {
    this.#refuseIfClosed();
    return await withEither(signal, this.#closing.signal, work);
  }

  #refuseIfClosed(): void {
    if (!this.#closing.signal.aborted) return;
    throw new DmError(Status.ShuttingDown, 'device mapper: is closed');
  }

  /**
   * Takes a device out of use, in a verb of its own. Throws before anything has happened, or
   * after all.
   */
  async #end(node: DeviceNode, how: Parameters<TableSlots['halt']>[0]): Promise<void> {
    node.isEnding = true;
    let failure: unknown;
    try {
      failure = await node.slots.halt(how);
    } catch (error) {
      node.isEnding = false;
      throw error;
    }
    try {
      await closeAll([
        () => {
          if (failure !== undefined) throw withDevice(node.name, failure);
        },
        async () => await node.close(),
      ]);
    } finally {
      this.#names.delete(node);
    }
  }

  #busy(node: DeviceNode, what: string): DmError {
    const users = this.#names.all
      .filter((n) => this.#builder.usesOf(n).has(node.device))
      .map((n) => n.name);
    const by = users.length > 0 ? ` (used by ${users.join(', ')})` : node.exportedText();
    return new DmError(Status.Busy, `device ${node.name}: Device or resource busy${by}${what}`);
  }

  #hold(node: DeviceNode): OpenDevice {
    if (node.isEnding) throw node.ending();
    node.openCount++;
    let isOpen = true;
    return {
      device: node.device,
      close: async () => {
        if (!isOpen) return;
        isOpen = false;
        node.openCount--;
        if (node.openCount === 0 && node.isDeferredRemove) await this.#endIfUnused(node);
      },
    };
  }

  async #endIfUnused(node: DeviceNode): Promise<void> {
    if (node.isEnding) return;
    let isMine = false;
    try {
      await node.exclusively(async () => {
        isMine = node.openCount === 0;
        if (isMine) await this.#end(node, { isForced: false });
      });
    } catch (error) {
      // Another verb may have removed the device first.
      if (isMine) throw error;
    }
  }

  /** A table for a verb that may be given up: then it is closed as soon as it is there. */
  async #build(
    node: DeviceNode,
    text: string,
    options: BuildOptions,
    signal: AbortSignal,
  ): Promise<Table> {
    const building = this.#builder.build(node, text, options);
    try {
      return await unlessGivenUp(building, signal, `device ${node.name}: load`);
    } catch (error) {
      const closing = building.then(
        async (table) => await table.close(),
        () => undefined,
      );
      this.#late.add(closing);
      throw error;
    }
  }
}
