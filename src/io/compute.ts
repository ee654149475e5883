// Work on arena memory that other threads may do: encryption, compression.
//
// Whoever has such work names a module that makes a handler from a recipe, once a thread. Jobs are plain
// numbers, so nothing is cloned and nothing allocated. Each definition has a queue of its own, and the
// queues take turns by bytes: one that is full does not hold up another.

import type { SharedMemory } from '../base/wasm.ts';
import type { IoDone } from './engine.ts';

/** Bytes of scratch memory that each thread gives its handlers. */
export const SCRATCH_BYTES = 65536;

/** Does jobs of one definition in one thread. The words of a job mean what the handler says. */
export interface ComputeHandler {
  run(flags: number, src: number, dst: number, lenBytes: number, position: number): void;
}

/** `scratch`: SCRATCH_BYTES at this place of the arena, this thread's own. */
export type MakeHandler = (
  memory: SharedMemory,
  scratch: number,
  recipe: unknown,
) => ComputeHandler;

export interface ComputeDefinition {
  /** For messages. */
  readonly name: string;
  /** A module that exports `makeHandler`. */
  readonly module: string;
  /** The same function, for an engine that does without threads. */
  readonly makeHandler: MakeHandler;
  /** One for each thread; can be cloned. */
  readonly recipes: readonly unknown[];
  /** Every job on the same thread. */
  readonly isSticky: boolean;
  /** How much more it gets than one of weight 1. */
  readonly weight: number;
}

/** Something that jobs can be given to. */
export interface ComputeQueue {
  /**
   * True when a thread is there to take jobs and so little is queued that it is worth the wait;
   * otherwise the caller does the work himself.
   */
  readonly isWelcome: boolean;
  /**
   * `src` and `dst` are places in the arena, `position` a safe integer. `isUrgent` jobs go before the
   * others of this queue. Ends with `done.ioDone(arg, 0)`, in any order.
   */
  push(
    flags: number,
    src: number,
    dst: number,
    lenBytes: number,
    position: number,
    isUrgent: boolean,
    done: IoDone,
    arg: object,
  ): void;
  /** Nothing is queued or running. The recipes may be taken apart afterwards. */
  close(): void;
}

export interface Compute {
  /** Threads beside the caller's; 0 when there are none, and then nothing may be defined. */
  readonly threads: number;
  /** Jobs up to this many bytes cost less where they are than the way to a thread and back. */
  readonly inlineBytesMax: number;
  define(definition: ComputeDefinition): ComputeQueue;
}
