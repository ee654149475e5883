// Writes that fill new blocks entirely: the data goes there first, and the blocks are mapped when
// the write has ended. Until then the write has the cell over them.

import { assert } from '../../base/assert.ts';
import type { Bio } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import type { Cell } from '../../dm/bio-prison.ts';
import { submitMapped } from '../../dm/target.ts';
import { type DataAim, WordBit } from './data-aim.ts';
import type { NewMappings } from './new-mappings.ts';
import type { Deferred } from './no-space-queue.ts';
import type { Pool } from './pool.ts';

export interface Overwrite {
  /** The first thin block. */
  readonly block: number;
  /** Adjacent, and allocated. */
  readonly dataBlocks: readonly number[];
  readonly cell: Cell<Deferred>;
}

export class Overwrites {
  readonly #pool: Pool;
  readonly #aim: DataAim;
  readonly #mappings: NewMappings;
  readonly #underWay = new Map<Bio, Overwrite>();

  constructor(pool: Pool, aim: DataAim, mappings: NewMappings) {
    this.#pool = pool;
    this.#aim = aim;
    this.#mappings = mappings;
  }

  start(bio: Bio, overwrite: Overwrite): void {
    this.#underWay.set(bio, overwrite);
    bio.targetWord |= WordBit.Overwrite;
    this.#aim.aim(bio, overwrite.block, overwrite.dataBlocks[0] as number);
    submitMapped(bio);
  }

  /** The write has come back; it ends once more, when its blocks are mapped. */
  ended(bio: Bio): void {
    const overwrite = this.#underWay.get(bio);
    assert(overwrite !== undefined, 'thin: an overwrite ended twice');
    this.#underWay.delete(bio);
    this.#pool.worker.job(async () => {
      const status = await this.#mappings.settle(bio, overwrite, bio.status);
      this.#mappings.release(overwrite.cell);
      endBio(bio, status);
    });
  }
}
