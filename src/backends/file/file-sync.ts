// Flushes of one file, gathered: while an fdatasync runs, all who ask for one wait together for the
// next. (One that is running does not count: it may have passed over what they want covered.)
//
// A failed fdatasync is final. The kernel has dropped the pages and told it once; a later success
// would speak only of what was written after. So every flush from then on fails with the first
// error.

import { Status } from '../../base/status.ts';
import type { IoDone, IoEngine } from '../../io/engine.ts';
import type { FileOp } from './file-op.ts';
import type { OpenedFile } from './file-open.ts';

export class FileSync implements IoDone {
  readonly #engine: IoEngine;
  readonly #file: OpenedFile;
  readonly #synced: (op: FileOp, status: Status) => void;
  /** Covered by the fdatasync that runs; linked through `next`. */
  #covered: FileOp | null = null;
  /** Waiting for the one after. */
  #waiting: FileOp | null = null;
  #isRunning = false;
  #error: Status = Status.Ok;

  constructor(engine: IoEngine, file: OpenedFile, synced: (op: FileOp, status: Status) => void) {
    this.#engine = engine;
    this.#file = file;
    this.#synced = synced;
  }

  /** The first error there was. */
  get error(): Status {
    return this.#error;
  }

  /** Makes what has completed durable, then calls `synced(op)`. */
  sync(op: FileOp): void {
    op.next = this.#waiting;
    this.#waiting = op;
    if (!this.#isRunning) this.#start();
  }

  ioDone(_arg: object, result: number): void {
    if (result === -Status.Interrupted) {
      this.#engine.sync(this.#file, this, this);
      return;
    }
    if (result < 0 && this.#error === Status.Ok) this.#error = -result;
    const covered = this.#covered;
    this.#covered = null;
    this.#isRunning = false;
    // Before anybody is told: what they submit then waits for the next one as it should.
    if (this.#waiting !== null) this.#start();
    this.#tell(covered);
  }

  #start(): void {
    this.#isRunning = true;
    this.#covered = this.#waiting;
    this.#waiting = null;
    this.#engine.sync(this.#file, this, this);
  }

  #tell(covered: FileOp | null): void {
    const status = this.#error;
    for (let op = covered; op !== null; ) {
      const { next } = op;
      op.next = null;
      this.#synced(op, status);
      op = next;
    }
  }
}
