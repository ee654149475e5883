// What the file backend has under way for a bio: one FileOp leads it through its steps (flush
// before, data, flush after); a transfer of several segments has one more FileOp for each further
// segment.

import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import type { IoDone } from '../../io/engine.ts';
import type { BounceOwner } from './bounce.ts';

export type FileStep = 0 | 1 | 2 | 3;

export const FileStep = {
  /** Reads or writes a segment of the bio. */
  Transfer: 0,
  /** Punches or zeroes the bio's range with `mode`. */
  Range: 1,
  /** Writes zeroes from the device's zero buffer over the bio's range. */
  Zero: 2,
  /** The bio's data is under way in a bounce buffer. */
  Bounce: 3,
} as const;

export interface FileOpHost {
  opDone(op: FileOp, result: number): void;
  partDone(lead: FileOp, status: Status): void;
}

export class FileOp implements IoDone, BounceOwner {
  readonly #host: FileOpHost;
  bio: Bio | null = null;
  /** The op that leads the bio; itself for that one. */
  lead: FileOp = this;
  step: FileStep = FileStep.Transfer;
  offBytes = 0;
  mem = 0;
  leftBytes = 0;
  /** Bits of fallocate(2). */
  mode = 0;
  /** Lead only: parts of the current step that have not ended, and the first error among them. */
  parts = 0;
  status: Status = Status.Ok;
  /** Lead only: its next flush is the one before the data. */
  isPreflush = false;
  /** Link of the list of those waiting for a flush. */
  next: FileOp | null = null;

  constructor(host: FileOpHost) {
    this.#host = host;
  }

  ioDone(_arg: object, result: number): void {
    this.#host.opDone(this, result);
  }

  bounced(status: Status): void {
    this.#host.partDone(this, status);
  }
}
