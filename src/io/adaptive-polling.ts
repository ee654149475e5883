// When it pays to look at a ring again and again before sleeping in it. Being woken costs this thread and
// whoever wakes it several microseconds each, on virtual machines some twenty; a client that answers
// sooner than that is better waited for awake. One that takes longer would only make a core busy.

/** Looks that went well and may be followed by ones that do not. */
const CREDIT_MAX = 16;
/** One that finds nothing outweighs so many that did: below 4 of 5, polling stops. */
const MISS_COST = 4;
/** Without credit, every so many-th wait looks all the same: the client may have become quick. */
const PROBE_EVERY = 64;

export class AdaptivePolling {
  /** How long to look before sleeping, milliseconds. 0: never look. */
  readonly windowMs: number;
  #credit = 0;
  #waits = 0;

  constructor(windowMs: number) {
    this.windowMs = windowMs;
  }

  /** The last looks found something. */
  get isPaying(): boolean {
    return this.#credit > 0;
  }

  /** Asked before each wait; after `true`, tell how it went with `ended`. */
  shouldPoll(): boolean {
    if (this.windowMs === 0) return false;
    if (this.#credit > 0) return true;
    this.#waits = (this.#waits + 1) % PROBE_EVERY;
    return this.#waits === 0;
  }

  /** Something came within the window, or nothing did. */
  ended(foundSome: boolean): void {
    if (foundSome) this.#credit = Math.min(CREDIT_MAX, this.#credit + 1);
    else this.#credit = Math.max(0, this.#credit - MISS_COST);
  }
}
