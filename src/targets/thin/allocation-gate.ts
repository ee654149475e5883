// Keeps commits and half-made allocations apart: a commit with a block that is allocated and not
// mapped would leak it in a crash.

export class AllocationGate {
  /** Blocks allocated and neither mapped nor given back. */
  #unsettled = 0;
  #commits = 0;
  #waiters: (() => void)[] = [];

  /** No commit waits or is under way, so a block may be allocated now. */
  get isOpen(): boolean {
    return this.#commits === 0;
  }

  /**
   * Waits until it is open; the caller will allocate so many blocks. Who has unsettled blocks must
   * not ask for more: a commit may be waiting for them.
   */
  async enter(blocks: number): Promise<void> {
    while (this.#commits > 0) await this.#change();
    this.#unsettled += blocks;
  }

  /** The commit under way allocates a block itself. */
  enterFromCommit(): void {
    this.#unsettled++;
  }

  /** `blocks` allocations are settled: mapped, given back, or never made. */
  settled(blocks: number): void {
    this.#unsettled -= blocks;
    if (this.#unsettled === 0) this.#wake();
  }

  /** Runs a commit when everything allocated is settled; nothing is allocated meanwhile. */
  async commit(work: () => Promise<void>): Promise<void> {
    this.#commits++;
    try {
      while (this.#unsettled > 0) await this.#change();
      await work();
    } finally {
      this.#commits--;
      this.#wake();
    }
  }

  async #change(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#waiters.push(resolve);
    });
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  }
}
