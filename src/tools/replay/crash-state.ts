// States that a crash may leave: everything up to the last flush, and of what came after it any part.
//
// A state is named by a seed, the entry at which the crash is, and a number; the same three give the same
// state again. FUA writes are always there: they were durable when they were logged.

import { Prng } from '../../base/prng.ts';
import { LogFlag } from '../../format/log-writes.ts';
import type { LogEntry } from './log-reader.ts';

export interface CrashChoice {
  readonly seed: number;
  /** Which of the states at this entry, counted from 0. */
  readonly state: number;
  /** Writes may be there in part, by 512-byte sectors. */
  readonly isTorn: boolean;
}

/** How likely a write is there; a state has one of these throughout. */
const CHANCES = [0.1, 0.5, 0.9] as const;

/** Decides, entry by entry in the order of the log, what a crash has left. */
export class CrashPicker {
  readonly #rng: Prng;
  readonly #chance: number;
  readonly #isTorn: boolean;
  readonly #keepsSector = (): boolean => this.#rng.chance(0.5);

  constructor(choice: CrashChoice, crashEntry: number) {
    // Far apart, so that no two states of a run share their numbers.
    const mixed = Math.imul(choice.seed, 0x9e3779b1) ^ Math.imul(crashEntry + 1, 0x85ebca77);
    this.#rng = new Prng(mixed ^ Math.imul(choice.state + 1, 0xc2b2ae3d));
    this.#chance = this.#rng.pick(CHANCES);
    this.#isTorn = choice.isTorn;
  }

  /** 'all' of it, 'none', or a function that decides for each sector of it. */
  pick(entry: LogEntry): 'all' | 'none' | (() => boolean) {
    if ((entry.flags & LogFlag.Fua) !== 0) return 'all';
    if (!this.#rng.chance(this.#chance)) return 'none';
    const isWrite = entry.dataBytes > 0;
    return this.#isTorn && isWrite && this.#rng.chance(0.5) ? this.#keepsSector : 'all';
  }
}
