// What one table holds: the devices its lines name, each opened once, the objects it shares with
// other tables, and what it has claimed. Everything is closed with the table, the latest first.

import { closeAll } from '../base/close-all.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { Share, Shared, ShareKind } from './shares.ts';

/** A device held open. */
export interface OpenDevice {
  readonly device: BlockDevice;
  close(): Promise<void>;
}

export class Holdings {
  readonly #devices = new Map<string | BlockDevice, OpenDevice>();
  readonly #shares: Share[] = [];
  readonly #inOrder: { close(): Promise<void> }[] = [];

  /** The device that a line has named before: a backend's reference, or a mapped device. */
  device(key: string | BlockDevice): OpenDevice | undefined {
    return this.#devices.get(key);
  }

  addDevice(key: string | BlockDevice, opened: OpenDevice): void {
    this.#devices.set(key, opened);
    this.#inOrder.push(opened);
  }

  addShare(share: Share): void {
    this.#shares.push(share);
    this.#inOrder.push(share);
  }

  addClaim(claim: { close(): Promise<void> }): void {
    this.#inOrder.push(claim);
  }

  /** What this table provides of a kind. */
  provided(kind: ShareKind<Shared>): Share | undefined {
    return this.#shares.find((share) => share.isProvider && share.kind === kind);
  }

  /** Closes all, whatever fails. Throws the first error. */
  async close(): Promise<void> {
    const latestFirst = this.#inOrder.splice(0).toReversed();
    await closeAll(latestFirst.map((one) => async () => await one.close()));
  }
}
