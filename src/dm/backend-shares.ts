// Backends by what tables call them: opened once, shared by all tables that name them, closed behind the last.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BackendDevice } from './backend.ts';
import type { OpenDevice } from './holdings.ts';

export type OpenBackend = (
  reference: string,
  options: { readonly readOnly: boolean },
) => Promise<BackendDevice>;

interface SharedBackend {
  readonly opened: Promise<BackendDevice>;
  readonly isReadOnly: boolean;
  users: number;
}

export class BackendShares {
  readonly #open: OpenBackend;
  readonly #backends = new Map<string, SharedBackend>();
  /** Backends on their way out, which still hold their locks; never rejects. */
  readonly #closing = new Map<string, Promise<void>>();

  constructor(open: OpenBackend) {
    this.#open = open;
  }

  /** How many are open or on their way out. */
  get size(): number {
    return this.#backends.size + this.#closing.size;
  }

  /** Has every backend look after what it stands on. Never rejects. */
  async look(): Promise<void> {
    const looks = [...this.#backends.values()].map(async ({ opened }) => (await opened).look?.());
    await Promise.allSettled(looks);
  }

  /** `reference` is what two tables must have in common to share. Throws DmError. */
  async open(reference: string, isReadOnly: boolean): Promise<OpenDevice> {
    for (let closing; (closing = this.#closing.get(reference)) !== undefined; ) await closing;
    let shared = this.#backends.get(reference);
    if (shared !== undefined && shared.isReadOnly && !isReadOnly) {
      throw new DmError(
        Status.ReadOnly,
        `device ${reference}: another table has opened it read-only; it cannot be opened for writing`,
      );
    }
    if (shared === undefined) {
      shared = { opened: this.#open(reference, { readOnly: isReadOnly }), isReadOnly, users: 0 };
      this.#backends.set(reference, shared);
    }
    shared.users++;
    try {
      const device = await shared.opened;
      device.remeasure?.();
      return { device, close: this.#closer(reference, shared) };
    } catch (error) {
      await this.#release(reference, shared).catch(() => undefined);
      throw error;
    }
  }

  #closer(reference: string, shared: SharedBackend): () => Promise<void> {
    let isOpen = true;
    return async () => {
      if (!isOpen) return;
      isOpen = false;
      await this.#release(reference, shared);
    };
  }

  async #release(reference: string, shared: SharedBackend): Promise<void> {
    if (--shared.users > 0) return;
    this.#backends.delete(reference);
    const closed = shared.opened.then(async (device) => await device.close());
    const settled = closed.then(
      () => undefined,
      () => undefined,
    );
    this.#closing.set(reference, settled);
    await settled;
    if (this.#closing.get(reference) === settled) this.#closing.delete(reference);
    await closed;
  }
}
