// Mapped devices by name, UUID and minor number. A name belongs to its node from the beginning of its
// creation to the end of its removal: nobody else can get the name, and nobody else can lose it.

import { DmError, invalid } from '../base/errors.ts';
import { nameFault } from '../base/names.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { DeviceNode } from './device-node.ts';
import { mappedWord, NO_SUCH_MAPPED } from './references.ts';
import type { Table } from './table.ts';
import type { DeviceRange } from './target.ts';

const NAME_BYTES_MAX = 127;
const UUID_BYTES_MAX = 128;
const MINORS = 1 << 20;

export class DeviceNames {
  /** In the order of creation. */
  readonly #nodes = new Set<DeviceNode>();
  readonly #byName = new Map<string, DeviceNode>();
  readonly #byDevice = new Map<BlockDevice, DeviceNode>();

  /** In the order of creation. */
  get all(): DeviceNode[] {
    return [...this.#nodes];
  }

  /** Throws DmError when there is none. */
  find(name: string): DeviceNode {
    const node = this.#byName.get(name);
    if (node !== undefined) return node;
    throw new DmError(Status.NoDeviceOrAddress, `Device ${name} not found`);
  }

  ofDevice(device: BlockDevice): DeviceNode | undefined {
    return this.#byDevice.get(device);
  }

  /** Reserves the node's name. Everything has been checked. */
  add(node: DeviceNode): void {
    this.#nodes.add(node);
    this.#byName.set(node.name, node);
    this.#byDevice.set(node.device, node);
  }

  /** Takes away this node, under whatever name it has now. */
  delete(node: DeviceNode): void {
    this.#nodes.delete(node);
    this.#byDevice.delete(node.device);
    if (this.#byName.get(node.name) === node) this.#byName.delete(node.name);
  }

  rename(node: DeviceNode, name: string): void {
    this.checkName(name);
    this.#byName.delete(node.name);
    node.device.name = name;
    this.#byName.set(name, node);
  }

  /** May a new device have this name? Throws DmError. */
  checkName(name: string): void {
    checkDeviceName(name);
    if (this.#byName.has(name)) {
      throw new DmError(Status.Exists, `device ${name}: name already exists`);
    }
  }

  /** May a device get this UUID? '' is none. Throws DmError. */
  checkUuid(uuid: string): void {
    const bytes = Buffer.byteLength(uuid);
    if (bytes > UUID_BYTES_MAX) {
      throw invalid(`UUID '${uuid}': ${bytes} bytes; the limit is ${UUID_BYTES_MAX}`);
    }
    const fault = nameFault(uuid);
    if (fault !== undefined) throw invalid(`UUID '${uuid}': ${fault}`);
    const owner = this.all.find((node) => uuid !== '' && node.uuid === uuid);
    if (owner !== undefined) {
      throw new DmError(Status.Exists, `UUID '${uuid}': device ${owner.name} has it already`);
    }
  }

  /**
   * Refuses a table that has sectors which a device has whose UUID begins so, in a live or an
   * inactive table. Throws DmError.
   */
  checkApart(node: DeviceNode, table: Table, uuidStart: string): void {
    const mine = rangesOf(table);
    for (const other of this.#nodes) {
      if (other === node || !other.uuid.startsWith(uuidStart)) continue;
      const theirs = [other.device.live, other.slots.inactive].flatMap(rangesOf);
      if (!mine.some((range) => theirs.some((their) => isOverlap(range, their)))) continue;
      throw new DmError(Status.Busy, `is open already, as device ${other.name}`);
    }
  }

  /** Refuses a table when another device has a volume of it, in a live or an inactive table. Throws DmError. */
  checkOnlyUser(node: DeviceNode, table: Table): void {
    const volumes = table.entries.flatMap(({ target }) => target.lineage ?? []);
    for (const other of this.#nodes) {
      if (other === node) continue;
      const tables = [other.device.live, other.slots.inactive];
      const theirs = tables.flatMap((t) => t?.entries ?? []).map(({ target }) => target.lineage);
      if (!theirs.some((l) => l !== undefined && volumes.some((mine) => mine.isSame(l)))) continue;
      throw new DmError(Status.Busy, `its volume is active already, as ${other.name}`);
    }
  }

  /** The wanted minor number, or the lowest free one. Throws DmError. */
  chooseMinor(wanted: number | undefined): number {
    const used = new Set(this.all.map((node) => node.minor));
    if (wanted !== undefined) {
      if (!Number.isSafeInteger(wanted) || wanted < 0 || wanted >= MINORS) {
        throw invalid(`minor ${wanted}: need 0..${MINORS - 1}`);
      }
      if (used.has(wanted)) throw new DmError(Status.Busy, `minor ${wanted}: in use`);
      return wanted;
    }
    let minor = 0;
    while (used.has(minor)) minor++;
    return minor;
  }

  /**
   * The mapped device that a table's word means; undefined when there is none and the word may mean
   * something else. Throws DmError.
   */
  resolve(reference: string): DeviceNode | undefined {
    const word = mappedWord(reference);
    if (word === undefined) return undefined;
    const byName = this.#byName.get(word.name);
    if (byName !== undefined) return byName;
    const byMinor = this.all.find((node) => String(node.minor) === word.minor);
    if (byMinor !== undefined || !word.isSure) return byMinor;
    throw new DmError(Status.NoDevice, `device ${reference}: ${NO_SUCH_MAPPED}`);
  }
}

function rangesOf(table: Table | null): readonly DeviceRange[] {
  return (table?.entries ?? []).flatMap(({ target }) => target.devices());
}

function isOverlap(a: DeviceRange, b: DeviceRange): boolean {
  return (
    a.device === b.device &&
    a.startSector < b.startSector + b.lenSectors &&
    b.startSector < a.startSector + a.lenSectors
  );
}

/** Can any device have this name? Throws DmError. */
export function checkDeviceName(name: string): void {
  const bytes = Buffer.byteLength(name);
  if (bytes === 0 || bytes > NAME_BYTES_MAX) {
    throw invalid(`device name '${name}': ${bytes} bytes; need 1..${NAME_BYTES_MAX}`);
  }
  if (name.includes('/') || name === '.' || name === '..') {
    throw invalid(`device name '${name}': may not be '.', '..' or contain '/'`);
  }
  const fault = nameFault(name);
  if (fault !== undefined) throw invalid(`device name '${name}': ${fault}`);
}
