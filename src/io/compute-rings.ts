// The shared memory between the owner of a compute and one of its threads: a ring of jobs one way and a
// ring of what is done the other way. Each index has one writer.

import type { SharedMemory } from '../base/wasm.ts';

/** Entries of each ring; a power of two. */
export const RING_SLOTS = 64;

/** Words of a thread's header. */
export const Word = {
  /** Jobs put in so far (owner). */
  JobTail: 0,
  /** Jobs taken out so far (thread). */
  JobHead: 1,
  /** Jobs done so far (thread). */
  DoneTail: 2,
  /** The thread sleeps or is about to (thread). */
  IsAsleep: 3,
  /** What the thread sleeps on (owner). */
  Bell: 4,
  /** Messages posted so far (owner). */
  Mail: 5,
  /** The thread is up and takes jobs (thread). */
  IsReady: 6,
  /** The thread is to end (owner). */
  IsStopped: 7,
  /** The thread runs nothing any more (thread). */
  IsEnded: 8,
} as const;

/** Words of the memory that all threads of a compute share. */
export const OwnerWord = {
  /** The owner sleeps or is about to: who has done something wakes it, once. */
  IsAsleep: 0,
  /** What an owner without a ring sleeps on. */
  Bell: 1,
} as const;

export const JOB_WORDS = 8;
const HEADER_WORDS = 16;
const DONE_WORD = HEADER_WORDS + RING_SLOTS * JOB_WORDS;

export const RINGS_BYTES = (DONE_WORD + RING_SLOTS) * 4;

/** Where a job's words begin: definition, flags, src, dst, bytes, position (two words), token. */
export function jobAt(index: number): number {
  return HEADER_WORDS + (index & (RING_SLOTS - 1)) * JOB_WORDS;
}

/** Where the token of a job that is done stands. */
export function doneAt(index: number): number {
  return DONE_WORD + (index & (RING_SLOTS - 1));
}

export interface ComputeWorkerData {
  readonly rings: SharedArrayBuffer;
  readonly owner: SharedArrayBuffer;
  /** The owner's eventfd; -1 when it sleeps on its bell. */
  readonly wakeFd: number;
  readonly memory: SharedMemory;
  /** Place of this thread's scratch memory in the arena. */
  readonly scratch: number;
}

/** What is posted to a thread. */
export type ComputeMail =
  | {
      readonly kind: 'define';
      readonly id: number;
      readonly module: string;
      readonly recipe: unknown;
    }
  | { readonly kind: 'drop'; readonly id: number };
