// What a check is: a name, a load drawn from a seed, and a way to run it on a subject.

import { Prng } from '../../base/prng.ts';
import type { Geometry, LoadOp } from './load.ts';
import type { OpenOptions, Rig, Subject } from './rig.ts';

/** A subject with the seed of one run. */
export class Stage {
  readonly subject: Subject;
  readonly seed: number;
  /** For choices of the run that are not operations. */
  readonly rng: Prng;

  constructor(subject: Subject, seed: number) {
    this.subject = subject;
    this.seed = seed;
    this.rng = new Prng(seed ^ 0x57a6e);
  }

  async open(options: OpenOptions = {}): Promise<Rig> {
    return await this.subject.open(this.seed, {
      clonesMax: this.rng.pick([1, 2, 256]),
      ...options,
    });
  }

  /** Opens, runs, looks at what must hold afterwards; lets go in any case. */
  async withRig(options: OpenOptions, use: (rig: Rig) => Promise<void>): Promise<void> {
    const rig = await this.open(options);
    try {
      await use(rig);
      await rig.finish();
    } catch (error) {
      await rig.abandon();
      throw error;
    }
  }
}

/** Of a subject: that it is simulated, can have its power cut, is not the worse for an error. */
export type Need = 'simulation' | 'power cut' | 'steady';

export interface Check {
  readonly name: string;
  /** One line: what must hold. */
  readonly about: string;
  /** What a subject must offer for it. */
  readonly needs?: readonly Need[];
  /** The load; `scale` 1 is the usual length. */
  draw(rng: Prng, geometry: Geometry, scale: number): readonly LoadOp[];
  /** Throws CheckFailure, StallError or BugError. */
  run(stage: Stage, ops: readonly LoadOp[]): Promise<void>;
}
