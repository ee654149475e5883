// What the clients of one storm share: the device's model, what may go wrong just now, and counts.

import type { VersionModel } from '../version-model.ts';
import type { Scheduler } from './scheduler.ts';

/** What all clients of a storm share. */
export interface NbdWorld {
  readonly scheduler: Scheduler;
  readonly model: VersionModel;
  readonly sizeBytes: number;
  /** Bytes before this are lanes, each of one client alone; the model has what comes behind. */
  readonly modelStart: number;
  /** Errors that a request may end with because of disks. */
  readonly mayFail: () => boolean;
  /** The server is ending: connections may be cut off. */
  readonly isEnding: () => boolean;
  /** No client flushes: what is there after a power cut was written with FUA, or by chance. */
  readonly hasFlushes: boolean;
  /** Whole blocks are written and nothing is read, so no disk has to be read either. */
  readonly isWhole: boolean;
  readonly counts: NbdCounts;
  fail(what: string): void;
}

export interface NbdCounts {
  requests: number;
  answered: number;
  refused: number;
  failed: number;
  partial: number;
  streamed: number;
  cut: number;
}
