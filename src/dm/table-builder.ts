// Makes tables from text: finds what their words mean, opens what they use, and is each target's host.
//
// A table holds what it uses: lower mapped devices count their users, backends are opened once and shared
// by all tables that name them. A table that uses its own device is refused, through live and inactive
// tables alike, so a later resume cannot close a circle.

import type { Clock } from '../base/clock.ts';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { IoEngine } from '../io/engine.ts';
import { BackendShares, type OpenBackend } from './backend-shares.ts';
import { Claims, isOpen, type OpenOptions } from './claims.ts';
import type { DeviceNames } from './device-names.ts';
import type { DeviceNode } from './device-node.ts';
import { Holdings, type OpenDevice } from './holdings.ts';
import { absoluteReference, isBareWord, NO_SUCH_MAPPED } from './references.ts';
import { Shares } from './shares.ts';
import { closeEntries, makeEntry, Table, type TableEntry, type TableOwner } from './table.ts';
import { parseTable, type TableLine } from './table-text.ts';
import type { TargetHost, TargetType } from './target.ts';

export interface TableBuilderOptions {
  readonly engine: IoEngine;
  readonly clock: Clock;
  readonly random: () => number;
  loadTargetType(name: string): Promise<TargetType | undefined>;
  readonly openBackend: OpenBackend;
  /** Takes the lines that targets have for the operator. */
  readonly log?: ((line: string) => void) | undefined;
  /** A bare word that names no mapped device is an error, never a file. */
  readonly bareWordsAreDevices?: boolean;
}

/** How a table is made. */
export interface BuildOptions {
  readonly isReadOnly: boolean;
  /** As in CreateOptions. */
  readonly isRestored?: boolean;
}

/** Targets that have nothing of their own on what is below. */
const SECTOR_BY_SECTOR: ReadonlySet<string> = new Set(['linear', 'striped']);

export class TableBuilder {
  readonly #options: TableBuilderOptions;
  readonly #names: DeviceNames;
  readonly #hold: (node: DeviceNode) => OpenDevice;
  readonly #backends: BackendShares;
  readonly #shares = new Shares();
  readonly #claims: Claims;

  /** `hold` counts one more user of a mapped device, or refuses. */
  constructor(
    options: TableBuilderOptions,
    names: DeviceNames,
    hold: (node: DeviceNode) => OpenDevice,
  ) {
    this.#options = options;
    this.#names = names;
    this.#hold = hold;
    this.#backends = new BackendShares(options.openBackend);
    this.#claims = new Claims((device) => names.ofDevice(device)?.device.live ?? null);
  }

  /** Backends and shared objects that are open, and claims that are held. */
  get openCount(): number {
    return this.#backends.size + this.#shares.size + this.#claims.size;
  }

  /** Throws DmError, with everything closed that was opened for the table. */
  async build(node: DeviceNode, text: string, options: BuildOptions): Promise<Table> {
    const lines = parseTable(text);
    const entries: TableEntry[] = [];
    const owner: TableOwner = { node };
    const holdings = new Holdings();
    try {
      for (const line of lines) {
        const type = await this.#options.loadTargetType(line.type);
        if (type === undefined) throw invalid(`table: '${line.type}': unknown target type`);
        const host = this.#host(owner, line, options, holdings);
        entries.push(await makeEntry(type, line, async () => await type.create(line.args, host)));
      }
      return new Table(owner, entries, options.isReadOnly, holdings);
    } catch (error) {
      // The refusal is what counts; nothing has been written yet that closing could lose.
      await closeEntries(entries, holdings).catch(() => undefined);
      throw error;
    }
  }

  /** Holds a device open for who is named. Throws DmError for one that is not alone and wants to be. */
  open(
    node: DeviceNode,
    how: OpenOptions = { by: 'somebody', isReadOnly: false, isAlone: false },
  ): OpenDevice {
    const { device } = node;
    if (device.live === null) {
      throw new DmError(Status.NoDeviceOrAddress, `device ${node.name}: has no live table`);
    }
    const isReadOnly = how.isReadOnly || device.isReadOnly;
    const opening = this.#claims.open({ ...how, device, isReadOnly });
    try {
      if (how.isAlone && !isReadOnly) this.#refuseOthers(device);
      const held = this.#hold(node);
      const close = async (): Promise<void> => {
        opening.close();
        await held.close();
      };
      return { device, close };
    } catch (error) {
      opening.close();
      throw error;
    }
  }

  /** Refuses a device whose sectors another one has that makes something of them, though nobody uses that now. */
  #refuseOthers(device: BlockDevice): void {
    const whole = { device, startSector: 0, lenSectors: device.lenSectors };
    for (const other of this.#names.all) {
      if (this.#isBelow(other.device, device)) continue;
      for (const { target, line } of other.device.live?.entries ?? []) {
        if (SECTOR_BY_SECTOR.has(line.type)) continue;
        for (const range of target.devices()) {
          const both = this.#claims.common(whole, range);
          const whose = `${other.name} (${line.type}) uses`;
          if (both !== undefined) throw isOpen(device, range.device, both, whose);
        }
      }
    }
  }

  /** Whether `lower` is a device, or is under it. */
  #isBelow(lower: BlockDevice, device: BlockDevice): boolean {
    const node = this.#names.ofDevice(device);
    if (node === undefined || lower === device) return lower === device;
    return [...this.usesOf(node)].some((below) => this.#isBelow(lower, below));
  }

  /** Size of what a table could name. Throws DmError. */
  async measure(
    reference: string,
    options: { readonly readOnly: boolean },
  ): Promise<{ readonly lenSectors: number; readonly sizeNote: string | undefined }> {
    const meant = this.#resolve(reference);
    if (typeof meant !== 'string') {
      return { lenSectors: meant.device.lenSectors, sizeNote: undefined };
    }
    const opened = await this.#backends.open(meant, options.readOnly);
    const { lenSectors } = opened.device;
    const { sizeNote } = opened.device as { readonly sizeNote?: string };
    await opened.close();
    return { lenSectors, sizeNote };
  }

  /** Looks after the files and whatever else tables stand on. Never rejects. */
  async look(): Promise<void> {
    await this.#backends.look();
  }

  /** Lower devices in the live and the inactive table. */
  usesOf(node: DeviceNode): Set<BlockDevice> {
    const { device, slots } = node;
    return new Set([...(device.live?.devices() ?? []), ...(slots.inactive?.devices() ?? [])]);
  }

  #host(
    owner: TableOwner,
    line: TableLine,
    { isReadOnly, isRestored = false }: BuildOptions,
    holdings: Holdings,
  ): TargetHost {
    const { engine, clock, random } = this.#options;
    return {
      get device() {
        return owner.node.device;
      },
      get deviceName() {
        return owner.node.name;
      },
      isReadOnly,
      isRestored,
      clonesMax: owner.node.device.set.max,
      startSector: line.startSector,
      lenSectors: line.lenSectors,
      engine,
      clock,
      random,
      event: () => owner.node.event(),
      log: (text) => this.#options.log?.(`device ${owner.node.name}: ${line.type}: ${text}`),
      traitsChanged: () => owner.node.device.live?.readTraits(),
      share: async (kind, key, open) => {
        const share = await this.#shares.provide(kind, key, open);
        holdings.addShare(share);
        return share.object as typeof kind.object;
      },
      findShared: (kind, lower) => {
        const share = this.#names.ofDevice(lower)?.device.live?.holdings.provided(kind)?.use();
        if (share === undefined) return undefined;
        holdings.addShare(share);
        return share.object as typeof kind.object;
      },
      claim: (range, use) => {
        const claim = { owner, table: holdings, range, use, isReadOnly };
        holdings.addClaim(this.#claims.add(claim));
      },
      checkAlone: (range) => this.#claims.checkAlone(owner.node, range, this.#names.all),
      openDevice: async (reference, range) => {
        const device = await this.#open(owner.node, reference, isReadOnly, holdings);
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

  /** Once a table, however many lines name the device, in whatever way. */
  async #open(
    user: DeviceNode,
    reference: string,
    isReadOnly: boolean,
    holdings: Holdings,
  ): Promise<BlockDevice> {
    const meant = this.#resolve(reference);
    const key = typeof meant === 'string' ? meant : meant.device;
    let opened = holdings.device(key);
    if (opened === undefined) {
      opened =
        typeof meant === 'string'
          ? await this.#backends.open(meant, isReadOnly)
          : this.#openMapped(user, meant, reference, isReadOnly);
      holdings.addDevice(key, opened);
    }
    return opened.device;
  }

  #openMapped(
    user: DeviceNode,
    node: DeviceNode,
    reference: string,
    isReadOnly: boolean,
  ): OpenDevice {
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

  /** A mapped device, or what a backend opens: absolute, whatever the current folder will be. */
  #resolve(reference: string): DeviceNode | string {
    const node = this.#names.resolve(reference);
    if (node !== undefined) return node;
    if (this.#options.bareWordsAreDevices === true && isBareWord(reference)) {
      throw new DmError(
        Status.NoDevice,
        `device ${reference}: ${NO_SUCH_MAPPED}; a file is named by a path: ./${reference}`,
      );
    }
    return absoluteReference(reference);
  }

  /** True when `from` is `to` or uses it, at any depth, in a live or an inactive table. */
  #reaches(from: DeviceNode, to: DeviceNode): boolean {
    if (from === to) return true;
    return [...this.usesOf(from)].some((below) => {
      const node = this.#names.ofDevice(below);
      return node !== undefined && this.#reaches(node, to);
    });
  }
}
