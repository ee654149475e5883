// A mapped device with all that belongs to it: identity, tables, users, events; and the verbs that change
// its state. One verb at a time: they queue behind each other, I/O goes on meanwhile.

import { DmError, errorText } from '../base/errors.ts';
import { Status, statusName } from '../base/status.ts';
import { flushDevice } from '../bio/send.ts';
import type { DeviceInfo } from './control.ts';
import type { MappedDevice } from './mapped-device.ts';
import type { Table } from './table.ts';

interface EventWaiter {
  readonly above: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class DeviceNode {
  readonly device: MappedDevice;
  readonly minor: number;
  uuid: string;
  inactive: Table | null = null;
  isReadOnly: boolean;
  openCount = 0;
  isDeferredRemove = false;
  eventNr = 0;
  #isRemoved = false;
  #waiters: EventWaiter[] = [];
  #verbs: Promise<unknown> = Promise.resolve();

  constructor(device: MappedDevice, minor: number, uuid: string, isReadOnly: boolean) {
    this.device = device;
    this.minor = minor;
    this.uuid = uuid;
    this.isReadOnly = isReadOnly;
  }

  get name(): string {
    return this.device.name;
  }

  info(): DeviceInfo {
    const { live } = this.device;
    return {
      name: this.name,
      uuid: this.uuid,
      minor: this.minor,
      state: this.device.isSuspended ? 'SUSPENDED' : 'ACTIVE',
      isReadOnly: live?.isReadOnly ?? this.isReadOnly,
      hasLiveTable: live !== null,
      hasInactiveTable: this.inactive !== null,
      openCount: this.openCount,
      eventNr: this.eventNr,
      targetCount: live?.entries.length ?? 0,
      lenSectors: this.device.lenSectors,
      isDeferredRemove: this.isDeferredRemove,
    };
  }

  /** Runs one verb after those before it, whatever became of them. */
  exclusively<T>(verb: () => Promise<T>): Promise<T> {
    const result = this.#verbs.then(verb, verb);
    this.#verbs = result.catch(() => undefined);
    return result;
  }

  /** Takes a freshly loaded table; the one it replaces is closed. */
  async setInactive(table: Table | null): Promise<void> {
    const old = this.inactive;
    this.inactive = table;
    await old?.close();
  }

  async suspend(noflush: boolean): Promise<void> {
    const { device } = this;
    if (device.isSuspended) return;
    const { live } = device;
    // First, so that what a target gives back stays with the device.
    device.stop();
    for (const entry of live?.entries ?? []) await entry.target.presuspend?.(noflush);
    await device.idle(noflush);
    if (!noflush && live !== null) await this.#flush(live);
    for (const entry of live?.entries ?? []) await entry.target.postsuspend?.();
  }

  async resume(): Promise<void> {
    const { device } = this;
    const next = this.inactive;
    if (next === null && device.live === null) {
      throw new DmError(Status.Invalid, `${this.name}: no table loaded: load one before resume`);
    }
    if (next !== null) await this.suspend(false);
    if (!device.isSuspended) return;
    const table = next ?? device.live;
    if (table === null) return;
    // May refuse: then the old table stays, the device suspended.
    for (const entry of table.entries) await entry.target.preresume?.();
    if (next !== null) {
      this.inactive = null;
      const old = device.swap(next);
      await old?.close();
    }
    for (const entry of table.entries) entry.target.resume?.();
    device.start();
  }

  /** Takes the device out of use. Nobody has it open. */
  async destroy(): Promise<void> {
    this.#isRemoved = true;
    let failure: unknown;
    try {
      await this.suspend(false);
    } catch (error) {
      failure = error;
    }
    this.device.stop();
    await this.setInactive(null);
    await this.device.swap(null)?.close();
    for (const waiter of this.#waiters) waiter.reject(this.#gone());
    this.#waiters = [];
    if (failure !== undefined) throw failure;
  }

  event(): void {
    this.eventNr++;
    const ready = this.#waiters.filter((w) => this.eventNr > w.above);
    this.#waiters = this.#waiters.filter((w) => this.eventNr <= w.above);
    for (const waiter of ready) waiter.resolve();
  }

  /** Rejects with ECANCELED, and waits no more, when `signal` is aborted. */
  waitEvent(above: number, signal?: AbortSignal): Promise<void> {
    if (this.#isRemoved) return Promise.reject(this.#gone());
    if (this.eventNr > above) return Promise.resolve();
    if (signal?.aborted === true) return Promise.reject(this.#givenUp());
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters = this.#waiters.filter((w) => w !== waiter);
        reject(this.#givenUp());
      };
      const settle = (end: () => void): void => {
        signal?.removeEventListener('abort', onAbort);
        end();
      };
      const waiter: EventWaiter = {
        above,
        resolve: () => settle(resolve),
        reject: (error) => settle(() => reject(error)),
      };
      signal?.addEventListener('abort', onAbort);
      this.#waiters.push(waiter);
    });
  }

  #givenUp(): DmError {
    return new DmError(Status.Canceled, `device ${this.name}: wait: given up`);
  }

  #gone(): DmError {
    return new DmError(Status.NoDeviceOrAddress, `device ${this.name}: removed while waited for`);
  }

  async #flush(table: Table): Promise<void> {
    // Also below targets that want to see clients' flushes: what is suspended is on the medium.
    for (const device of table.devices()) {
      const status = await flushDevice(device);
      if (status !== Status.Ok) {
        const what = `${this.name}: flush of ${device.name}: ${statusName(status)}`;
        throw new DmError(status, what);
      }
    }
  }
}

/** Adds a device's name to an error that does not have it. */
export function withDevice(name: string, error: unknown): DmError {
  const status = error instanceof DmError ? error.status : Status.Io;
  return new DmError(status, `device ${name}: ${errorText(error)}`, { cause: error });
}
