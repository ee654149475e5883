// The files of the daemon's state in memory, on which everything can go wrong: a call that fails, a write that
// is short, a disk that is full, and an end of the process in the middle of any of it.

import type { StateFile, StateFiles } from '../daemon/state-store.ts';

export type Fault =
  /** The call fails, and does nothing. */
  | { readonly kind: 'error'; readonly code: string; readonly errno: number }
  /** A write takes one byte; other calls are as always. */
  | { readonly kind: 'short' }
  /** The process ends at this call: it and all later ones never return. A write has done half. */
  | { readonly kind: 'kill' };

type Failing = Extract<Fault, { kind: 'error' }>;

export const FULL: Failing = { kind: 'error', code: 'ENOSPC', errno: -28 };
export const BROKEN: Failing = { kind: 'error', code: 'EIO', errno: -5 };

export class FaultyFiles implements StateFiles {
  /** By path. */
  readonly contents = new Map<string, Buffer>();
  /** Calls so far that change something. */
  calls = 0;
  isKilled = false;
  /** No new bytes fit. */
  isFull = false;
  #fault: Fault | undefined;
  #at = 0;
  #onKill = (): void => {};

  /** The fault comes once, at the `after`th call from now. */
  injectAfter(after: number, fault: Fault, onKill: () => void = () => undefined): void {
    this.#at = this.calls + after;
    this.#fault = fault;
    this.#onKill = onKill;
  }

  /** Whether the fault is still to come. */
  get isArmed(): boolean {
    return this.#fault !== undefined;
  }

  disarm(): void {
    this.#fault = undefined;
  }

  /** What the next process finds. */
  afterwards(): FaultyFiles {
    const next = new FaultyFiles();
    for (const [path, bytes] of this.contents) next.contents.set(path, Buffer.from(bytes));
    return next;
  }

  async read(path: string): Promise<string | undefined> {
    return await Promise.resolve(this.contents.get(path)?.toString());
  }

  async makeFolder(): Promise<void> {
    await this.#call();
  }

  async create(path: string): Promise<StateFile> {
    await this.#call(() => void this.contents.set(path, Buffer.alloc(0)));
    return {
      write: async (bytes, offset) => {
        const rest = bytes.subarray(offset);
        let taken = 0;
        const take = (count: number): void => {
          const old = this.contents.get(path) ?? Buffer.alloc(0);
          this.contents.set(path, Buffer.concat([old, rest.subarray(0, count)]));
          taken = count;
        };
        if (this.isFull) throw failure(FULL);
        await this.#call(
          (fault) => take(fault?.kind === 'short' ? 1 : rest.length),
          () => take(rest.length >> 1),
        );
        return taken;
      },
      sync: async () => await this.#call(),
      close: async () => await this.#call(),
    };
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#call(() => {
      this.contents.set(to, this.contents.get(from) ?? Buffer.alloc(0));
      this.contents.delete(from);
    });
  }

  async syncFolder(): Promise<void> {
    await this.#call();
  }

  async remove(path: string): Promise<void> {
    await this.#call(() => void this.contents.delete(path));
  }

  async #call(done?: (fault: Fault | undefined) => void, half?: () => void): Promise<void> {
    await Promise.resolve();
    if (this.isKilled) await never();
    const fault = this.#fault !== undefined && this.calls === this.#at ? this.#fault : undefined;
    this.calls++;
    if (fault !== undefined) this.#fault = undefined;
    if (fault?.kind === 'kill') {
      this.isKilled = true;
      half?.();
      this.#onKill();
      await never();
    }
    if (fault?.kind === 'error') throw failure(fault);
    done?.(fault);
  }
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}

function failure(fault: Failing): Error {
  return Object.assign(new Error(`${fault.code}: injected`), fault);
}
