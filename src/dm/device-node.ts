// A mapped device with all that belongs to it: identity, tables, users, events; and the queue of
// verbs that change its state. One verb at a time, I/O goes on meanwhile.

import { DmError, errorText } from '../base/errors.ts';
import { unlessGivenUp } from '../base/give-up.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { BackendDevice } from './backend.ts';
import type { DeviceInfo } from './control.ts';
import type { LateClosings } from './late-closings.ts';
import type { MappedDevice } from './mapped-device.ts';
import { TableSlots } from './table-slots.ts';

interface EventWaiter {
  readonly above: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class DeviceNode {
  readonly device: MappedDevice;
  readonly slots: TableSlots;
  readonly minor: number;
  uuid: string;
  readonly isReadOnly: boolean;
  openCount = 0;
  isDeferredRemove = false;
  eventNr = 0;
  /** Being made: whether there will be a device is not known yet. */
  isMaking = false;
  /** On its way out: nobody can begin to use the device. */
  isEnding = false;
  /** The export that has the device to itself. */
  holder: () => string | undefined = () => undefined;
  #isRemoved = false;
  readonly #waiters = new Set<EventWaiter>();
  #verbs: Promise<void> = Promise.resolve();

  constructor(
    device: MappedDevice,
    late: LateClosings,
    minor: number,
    uuid: string,
    isReadOnly: boolean,
  ) {
    this.device = device;
    this.slots = new TableSlots(device, late);
    this.minor = minor;
    this.uuid = uuid;
    this.isReadOnly = isReadOnly;
  }

  get name(): string {
    return this.device.name;
  }

  /** While somebody has the device to itself nobody else changes it, or builds on it. */
  refuseHeld(): void {
    const holder = this.holder();
    if (holder === undefined) return;
    const text = `export '${printable(holder)}' has it to itself until its client has gone`;
    throw new DmError(Status.Busy, `device ${this.name}: ${text}`);
  }

  /** What keeps a device open that no other is built on: I/O may outlive the export that it came by. */
  exportedText(): string {
    const { inFlight } = this.device;
    if (inFlight === 0) return ' (exported)';
    return ` (exported; ${inFlight} requests in it are not done, perhaps of an export that is gone: see its status)`;
  }

  ending(): DmError {
    return new DmError(Status.NoDeviceOrAddress, `device ${this.name}: is being removed`);
  }

  info(): DeviceInfo {
    const { live } = this.device;
    return {
      name: this.name,
      uuid: this.uuid,
      minor: this.minor,
      state: this.device.isSuspended ? 'SUSPENDED' : 'ACTIVE',
      failure: this.slots.failure?.message ?? '',
      warning: warningOf(live?.devices() ?? []),
      isReadOnly: live?.isReadOnly ?? this.isReadOnly,
      hasLiveTable: live !== null,
      hasInactiveTable: this.slots.inactive !== null,
      openCount: this.openCount,
      eventNr: this.eventNr,
      targetCount: live?.entries.length ?? 0,
      lenSectors: this.device.lenSectors,
      isDeferredRemove: this.isDeferredRemove,
      waitsFor: this.slots.waitsFor,
    };
  }

  /**
   * Runs one verb after those before it, whatever became of them. Refused when one of these
   * has removed the device, and when the wait for them is given up.
   */
  async exclusively<T>(verb: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.#verbs;
    const result = this.#inTurn(before, verb, signal);
    const ended = result.then(
      () => undefined,
      () => undefined,
    );
    // Also behind a verb that was given up while it waited, whoever comes next waits for those before.
    this.#verbs = before.then(async () => await ended);
    return await result;
  }

  /** Rejects when the device could not be made. */
  async whenMade(signal: AbortSignal): Promise<void> {
    await this.exclusively(async () => await Promise.resolve(), signal);
  }

  async #inTurn<T>(
    before: Promise<void>,
    verb: () => Promise<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    await unlessGivenUp(before, signal, `device ${this.name}: waiting for another verb`);
    if (this.#isRemoved) throw this.#gone('removed meanwhile');
    return await verb();
  }

  /** Halted: closes what the device has. It is gone then, also when that fails. */
  async close(): Promise<void> {
    this.#isRemoved = true;
    for (const waiter of this.#waiters) waiter.reject(this.#gone('removed while waited for'));
    this.#waiters.clear();
    await this.slots.close();
  }

  event(): void {
    this.eventNr++;
    for (const waiter of this.#waiters) {
      if (this.eventNr <= waiter.above) continue;
      this.#waiters.delete(waiter);
      waiter.resolve();
    }
  }

  async waitEvent(above: number, signal?: AbortSignal): Promise<void> {
    if (this.#isRemoved) throw this.#gone('removed while waited for');
    if (this.eventNr > above) return;
    let waiter: EventWaiter | undefined;
    const comes = new Promise<void>((resolve, reject) => {
      waiter = { above, resolve, reject };
      this.#waiters.add(waiter);
    });
    try {
      await unlessGivenUp(comes, signal, `device ${this.name}: waiting for an event`);
    } finally {
      if (waiter !== undefined) this.#waiters.delete(waiter);
    }
  }

  #gone(what: string): DmError {
    return new DmError(Status.NoDeviceOrAddress, `device ${this.name}: ${what}`);
  }
}

/** Of backends among lower devices. */
function warningOf(lower: readonly BlockDevice[]): string {
  return lower
    .map((device) => ({ device, warning: (device as Partial<BackendDevice>).warning ?? '' }))
    .filter(({ warning }) => warning !== '')
    .map(({ device, warning }) => `device ${device.name}: ${warning}`)
    .join('; ');
}

/** Adds a device's name to an error that does not have it. */
export function withDevice(name: string, error: unknown): DmError {
  const status = error instanceof DmError ? error.status : Status.Io;
  const text = errorText(error);
  const named = text.startsWith(`${name}: `) ? text : `${name}: ${text}`;
  return new DmError(status, text.startsWith(`device ${name}: `) ? text : `device ${named}`, {
    cause: error,
  });
}

/** Runs `verb`; when it fails, the error says what the device does now, and how that ends. */
export async function orState(node: DeviceNode, verb: () => Promise<void>): Promise<void> {
  const wasSuspended = node.device.isSuspended;
  try {
    await verb();
  } catch (error) {
    const { status, message } = withDevice(node.name, error);
    const { isSuspended, live } = node.device;
    if (live === null) throw new DmError(status, message, { cause: error });
    const as = isSuspended === wasSuspended ? 'as before' : 'all the same';
    const way = node.slots.failure === null ? '' : ', and holds I/O back: resume lets it go';
    const state = `it is ${isSuspended ? 'suspended' : 'active'} ${as}${way}`;
    throw new DmError(status, `${message}; ${state}`, { cause: error });
  }
}
