// Thin devices as the metadata knows them: one object for each that is open or has changed, with
// the details that the details tree gets at the next commit.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { THIN_ID_MAX } from './metadata.format.ts';
import { Prison } from '../../dm/bio-prison.ts';
import type { Deferred } from './no-space-queue.ts';
import type { ThinMetadataStore } from './metadata-store.ts';

/** A thin device; the same object for all who have it open. */
export class ThinDevice {
  readonly id: number;
  mappedBlocks = 0;
  /** The pool's transaction id when the device was made. */
  transactionId = 0;
  creationTime = 0;
  /** Mappings older than this are shared. */
  snapshottedTime = 0;
  openCount = 0;
  /** The highest block that may be mapped; -1: none. Known while the device is open. */
  highestMapped = -1;
  /** Its details are newer than those in the tree. */
  isChanged = false;
  /** An abort took away changes of it. */
  hasLostChanges = false;
  /** Deleted, or made in a transaction that was aborted. */
  isGone = false;
  /** Cells over its blocks, of all who have it open. */
  readonly prison = new Prison<Deferred>();

  constructor(id: number) {
    this.id = id;
  }

  noteMapped(block: number): void {
    this.highestMapped = Math.max(this.highestMapped, block);
  }
}

export class ThinDeviceTable {
  readonly #devices = new Map<number, ThinDevice>();

  /** The device with this id. ENODEV if there is none. */
  async get(store: ThinMetadataStore, id: number): Promise<ThinDevice> {
    const known = this.#devices.get(id);
    if (known !== undefined) return known;
    const details = await store.details.lookup(store.state.detailsRoot, id);
    if (details === undefined) throw noDevice(id);
    // Somebody else may have been waiting for the same details.
    const device = this.#devices.get(id) ?? Object.assign(new ThinDevice(id), details);
    this.#devices.set(id, device);
    return device;
  }

  /** Refuses an id that a new device cannot have. */
  async refuseAsNew(store: ThinMetadataStore, id: number): Promise<void> {
    if (!Number.isInteger(id) || id < 0 || id > THIN_ID_MAX) {
      throw invalid(`thin metadata: device id ${id}: need 0..${THIN_ID_MAX}`);
    }
    const exists =
      this.#devices.has(id) ||
      (await store.details.lookup(store.state.detailsRoot, id)) !== undefined;
    if (exists) throw new DmError(Status.Exists, `thin metadata: there is a device ${id} already`);
  }

  /** A device made in this transaction; its details are to be written. */
  add(device: ThinDevice): void {
    device.isChanged = true;
    this.#devices.set(device.id, device);
  }

  remove(device: ThinDevice): void {
    device.isGone = true;
    this.#devices.delete(device.id);
  }

  /** Brings what has changed into the details tree. */
  async writeDetails(store: ThinMetadataStore): Promise<void> {
    const { details, state } = store;
    for (const device of this.#devices.values()) {
      if (device.isChanged) {
        state.detailsRoot = (await details.insert(state.detailsRoot, device.id, device)).root;
      }
    }
  }

  /** What `writeDetails` wrote is durable. */
  committed(): void {
    for (const device of this.#devices.values()) {
      device.isChanged = false;
      if (device.openCount === 0) this.#devices.delete(device.id);
    }
  }

  /** After an abort: back to what the last commit knows. */
  async reload(store: ThinMetadataStore): Promise<void> {
    for (const device of this.#devices.values()) {
      const details = await store.details.lookup(store.state.detailsRoot, device.id);
      if (details === undefined) device.isGone = true;
      else Object.assign(device, details);
      if (device.isGone || device.openCount === 0) this.#devices.delete(device.id);
      device.hasLostChanges ||= device.isChanged;
      device.isChanged = false;
    }
  }
}

export function noDevice(id: number): DmError {
  return new DmError(Status.NoDevice, `thin metadata: there is no device ${id}`);
}
