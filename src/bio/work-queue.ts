// A work queue of one instance: what a target may not do in `map` continues here, in order.
//
// Each instance has its own, so a stuck one never delays another. Work starts first in, first out, at
// most `runningMax` at a time. `stop` holds what has not started (suspend) and resolves when nothing is
// running; `start` goes on. Work that throws is a bug of its owner: errors belong into its bios.

import { assert } from '../base/assert.ts';
import { spawn } from '../base/spawn.ts';

export interface WorkQueueOptions {
  /** Whose it is, for messages. */
  readonly name: string;
  readonly runningMax: number;
}

export class WorkQueue {
  readonly name: string;
  readonly #runningMax: number;
  readonly #waiting: (() => Promise<void>)[] = [];
  #running = 0;
  #isStopped = false;
  #onIdle: (() => void)[] = [];

  constructor(options: WorkQueueOptions) {
    assert(
      options.runningMax >= 1,
      `work queue ${options.name}: runs ${options.runningMax} at a time`,
    );
    this.name = options.name;
    this.#runningMax = options.runningMax;
  }

  /** Work not ended yet. */
  get length(): number {
    return this.#waiting.length + this.#running;
  }

  push(work: () => Promise<void>): void {
    this.#waiting.push(work);
    this.#next();
  }

  /** Starts nothing more; resolves when what is running has ended. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#running > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }

  start(): void {
    this.#isStopped = false;
    this.#next();
  }

  /** Resolves when nothing is waiting or running. */
  async drain(): Promise<void> {
    while (this.length > 0) await new Promise<void>((resolve) => this.#onIdle.push(resolve));
  }

  #next(): void {
    while (!this.#isStopped && this.#running < this.#runningMax) {
      const work = this.#waiting.shift();
      if (work === undefined) return;
      this.#running++;
      spawn(this.name, this.#run(work));
    }
  }

  async #run(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } finally {
      this.#running--;
      this.#next();
      if (this.#running === 0) {
        const idle = this.#onIdle;
        this.#onIdle = [];
        for (const resolve of idle) resolve();
      }
    }
  }
}
