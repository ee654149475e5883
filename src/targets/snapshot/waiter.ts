// Who waits for something and starts over when it is there.

import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import { MapResult, submitMapped } from '../../dm/target.ts';

export interface Waiter {
  /** Looks again. It may wait again. */
  retry(): void;
}

/** A bio that `map` has kept, as it was mapped. */
export class WaitingBio implements Waiter {
  readonly #user: { map(bio: Bio): MapResult };
  readonly #bio: Bio;

  constructor(user: { map(bio: Bio): MapResult }, bio: Bio) {
    this.#user = user;
    this.#bio = bio;
  }

  retry(): void {
    const bio = this.#bio;
    const result = this.#user.map(bio);
    if (result === MapResult.Remapped) submitMapped(bio);
    else if (result === MapResult.Kill)
      endBio(bio, bio.status === Status.Ok ? Status.Io : bio.status);
  }
}
