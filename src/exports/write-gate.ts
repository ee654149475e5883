// Who may write to an exported device at the moment.
//
// A write of whole blocks needs nothing but to be counted. A write of part of a block reads the block,
// changes it and writes it back; another write to the same block in between would be lost. Such a write
// waits until it is alone and keeps others out: rare, so one gate for the whole device is enough.

export interface GateWaiter {
  /** It has entered; it must leave. */
  gateEntered(): void;
}

interface Queued {
  readonly waiter: GateWaiter;
  readonly isExclusive: boolean;
}

export class WriteGate {
  #writers = 0;
  #isExclusive = false;
  #queue: Queued[] = [];

  /** True: entered. False: `waiter.gateEntered` will be called later. */
  enter(waiter: GateWaiter, isExclusive: boolean): boolean {
    if (this.#queue.length === 0 && this.#admits(isExclusive)) {
      this.#admit(isExclusive);
      return true;
    }
    this.#queue.push({ waiter, isExclusive });
    return false;
  }

  leave(): void {
    if (this.#isExclusive) this.#isExclusive = false;
    else this.#writers--;
    if (this.#queue.length > 0) this.#next();
  }

  #admits(isExclusive: boolean): boolean {
    return !this.#isExclusive && (!isExclusive || this.#writers === 0);
  }

  #admit(isExclusive: boolean): void {
    if (isExclusive) this.#isExclusive = true;
    else this.#writers++;
  }

  #next(): void {
    for (;;) {
      const first = this.#queue[0];
      if (first === undefined || !this.#admits(first.isExclusive)) return;
      this.#queue.shift();
      this.#admit(first.isExclusive);
      first.waiter.gateEntered();
    }
  }
}
