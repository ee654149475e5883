// The modes that a pool degrades through. Each change is an event; a change for the worse is told
// to the operator as well, with its reason, once.
//
// `write`; `out of data space` (writes that need a block wait, then fail); `out of metadata space`
// (they fail); `read only` (after an error of the metadata, which is then marked as in need of a
// check); `fail` (nothing works). A better mode comes back only by resume, or when space appears.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';

export type PoolMode =
  | 'write'
  | 'out of data space'
  | 'out of metadata space'
  | 'read only'
  | 'fail';

export interface ModeWatch {
  /** Something that `wait` waits for has happened. */
  event(): void;
  /** One line for the operator. */
  log(text: string): void;
  /** Nothing can be written any more. */
  stuck(): void;
}

export class PoolModes {
  readonly #watch: ModeWatch;
  #current: PoolMode = 'write';

  constructor(watch: ModeWatch) {
    this.#watch = watch;
  }

  get current(): PoolMode {
    return this.#current;
  }

  /** May metadata be changed now? */
  get mayChange(): boolean {
    return this.#current !== 'read only' && this.#current !== 'fail';
  }

  /** Throws DmError when metadata may not be changed. */
  checkMayChange(): void {
    if (this.mayChange) return;
    const text = `thin pool: is in mode '${this.#current}'; metadata stays as it is`;
    throw new DmError(Status.Io, text);
  }

  /** `why` is for the operator; none: the operator has asked for it. */
  set(mode: PoolMode, why?: string): void {
    if (mode === this.#current) return;
    this.#current = mode;
    if (why !== undefined) this.#watch.log(`${mode}: ${why}`);
    this.#watch.event();
    if (!this.mayChange) this.#watch.stuck();
  }
}
