// The one lock of a pool's metadata. Changes exclude each other and every reader. A commit is
// prepared like a change, but while it is being written nothing changes any more, so readers may go
// on.

export class RootLock {
  #isExclusive = false;
  #readers = 0;
  /** A change or a commit is under way; the others wait here, first come, first served. */
  #isTaken = false;
  readonly #turns: (() => void)[] = [];
  /** A writer waits for readers to finish; new ones wait for it. */
  #writerWaits = false;
  #wakeups: (() => void)[] = [];

  /** False while something is being changed: then cached metadata must not be looked at. */
  get mayRead(): boolean {
    return !this.#isExclusive;
  }

  /** May something be changed in this very turn, without the lock? */
  get mayChange(): boolean {
    return !this.#isTaken && this.#readers === 0;
  }

  async read<T>(work: () => Promise<T>): Promise<T> {
    while (this.#isExclusive || this.#writerWaits) await this.#wakeup();
    this.#readers++;
    try {
      return await work();
    } finally {
      this.#readers--;
      this.#wake();
    }
  }

  async change<T>(work: () => Promise<T>): Promise<T> {
    if (this.#isTaken) await this.#turn();
    this.#isTaken = true;
    try {
      return await this.#exclusively(work);
    } finally {
      this.#endTurn();
    }
  }

  /**
   * `prepare` runs as a change; if it answers true, `write` follows, with readers but no changes.
   */
  async commit(prepare: () => Promise<boolean>, write: () => Promise<void>): Promise<void> {
    if (this.#isTaken) await this.#turn();
    this.#isTaken = true;
    try {
      if (await this.#exclusively(prepare)) await write();
    } finally {
      this.#endTurn();
    }
  }

  async #exclusively<T>(work: () => Promise<T>): Promise<T> {
    while (this.#readers > 0) {
      this.#writerWaits = true;
      await this.#wakeup();
    }
    this.#writerWaits = false;
    this.#isExclusive = true;
    try {
      return await work();
    } finally {
      this.#isExclusive = false;
      this.#wake();
    }
  }

  async #turn(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#turns.push(resolve);
    });
  }

  /** Hands the turn over while it is still taken, so that nobody slips in between. */
  #endTurn(): void {
    const next = this.#turns.shift();
    if (next === undefined) this.#isTaken = false;
    else next();
  }

  async #wakeup(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wakeups.push(resolve);
    });
  }

  #wake(): void {
    if (this.#wakeups.length === 0) return;
    const wakeups = this.#wakeups;
    this.#wakeups = [];
    for (const wake of wakeups) wake();
  }
}
