// Time as the block layer sees it. Targets and backends take a Clock from their host and never call
// Date.now or setTimeout, so a simulation can put a virtual clock under the same code.

export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Monotonic milliseconds, fractions allowed; only differences mean anything. */
  nowMs(): number;
  /** Calls `fire` once, `delayMs` or more from now. */
  after(delayMs: number, fire: () => void): Timer;
}

export const realClock: Clock = {
  nowMs: () => performance.now(),
  after(delayMs, fire) {
    const handle = setTimeout(fire, delayMs);
    return { cancel: () => clearTimeout(handle) };
  },
};
