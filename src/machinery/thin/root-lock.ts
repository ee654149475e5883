// The one lock of a pool's metadata. Changes exclude each other and every reader. A commit is prepared
// like a change, but while it is being written nothing changes any more, so readers may go on.

export class RootLock {
  #isExclusive = false;
  #readers = 0;
  /** Changes and commits, one after the other. */
  #lastWriter: Promise<void> = Promise.resolve();
  #waitingWriters = 0;
  #wakeups: (() => void)[] = [];

  /** False while something is being changed: then cached metadata must not be looked at. */
  get mayRead(): boolean {
    return !this.#isExclusive;
  }

  async read<T>(work: () => Promise<T>): Promise<T> {
    while (this.#isExclusive || this.#waitingWriters > 0) await this.#wakeup();
    this.#readers++;
    try {
      return await work();
    } finally {
      this.#readers--;
      this.#wake();
    }
  }

  async change<T>(work: () => Promise<T>): Promise<T> {
    return await this.#inTurn(async () => await this.#exclusively(work));
  }

  /** `prepare` runs as a change; then `write`, with readers but without other changes. */
  async commit(prepare: () => Promise<boolean>, write: () => Promise<void>): Promise<void> {
    await this.#inTurn(async () => {
      if (await this.#exclusively(prepare)) await write();
    });
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#lastWriter.then(work);
    this.#lastWriter = turn.then(nothing, nothing);
    return await turn;
  }

  async #exclusively<T>(work: () => Promise<T>): Promise<T> {
    this.#waitingWriters++;
    while (this.#readers > 0) await this.#wakeup();
    this.#waitingWriters--;
    this.#isExclusive = true;
    try {
      return await work();
    } finally {
      this.#isExclusive = false;
      this.#wake();
    }
  }

  async #wakeup(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wakeups.push(resolve);
    });
  }

  #wake(): void {
    const wakeups = this.#wakeups;
    this.#wakeups = [];
    for (const wake of wakeups) wake();
  }
}

function nothing(): void {}
