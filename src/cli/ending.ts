// How a server ends: one state machine for `lamina serve` and `lamina daemon`.
//
//   starting --ready--> serving --signal--> ending --everything closed--> gone
//      |  \--failed or signal------------------^  \--a further signal, or --grace over--> gone
//
// What a server has made is held here from the moment it is there and closed in the reverse order. SIGTERM,
// SIGINT, SIGHUP, SIGQUIT and SIGPWR end it in order: whoever tells it to stop, or a terminal that is closed.
// Other signals that would end a process by default, unasked and with nothing flushed, are ignored.
//
// Exit status 0 means that everything was closed without an error. Nothing here waits without a bound: when the
// grace is over, or at a further signal, the process ends at once, says what was not flushed, and leaves no
// socket or folder behind. The last line of a server that could not end well says so, and why. A signal may arrive twice for one wish (a terminal sends it to a whole group, and
// `timeout`, npm or a script pass it on), so a further one counts from REPEAT_MS on.

import type { EventEmitter } from 'node:events';
import { BugError } from '../base/assert.ts';
import type { Clock, Timer } from '../base/clock.ts';
import { EXIT_FAILED, errorLines, exitStatusOf } from './errors.ts';

export const GRACE_SECONDS = 30;

const END_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGPWR'] as const;
/** SIGUSR1 would open Node's debugger. */
const IGNORED_SIGNALS = [
  'SIGUSR1',
  'SIGUSR2',
  'SIGPIPE',
  'SIGALRM',
  'SIGVTALRM',
  'SIGXFSZ',
] as const;

/** Signals closer to the first one are the same wish. */
const REPEAT_MS = 200;
/** An end that takes longer says what it waits for. */
const SILENT_MS = 1000;
/** How long a start that was interrupted may take to come back, when all it had is closed. */
const START_MS = 3000;
/** How long the data plane may take to say what is not flushed. */
const ASK_MS = 250;

/** Something that must not outlive the server. */
export interface Closable {
  /** In order: drained, flushed, closed. */
  close(): Promise<void> | void;
  /** What no process may leave behind even if it has no time: a socket's file, a folder. Never waits. */
  abandon?(): void;
}

/** Thrown in a start that a signal has interrupted; nobody needs to hear of it. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
}

export interface EndingOptions {
  readonly graceMs: number;
  readonly clock: Clock;
  /** Where signals come from: `process`. */
  readonly signals: Pick<EventEmitter, 'on'>;
  readonly log: (line: string) => void;
  /** Ends the process at once. */
  readonly exit: (status: number) => void;
}

export class Ending {
  readonly #options: EndingOptions;
  readonly #held: Closable[] = [];
  readonly #closing = new Set<Closable>();
  #state: 'starting' | 'serving' | 'ending' | 'gone' = 'starting';
  #reason = '';
  #endedAtMs = 0;
  #start: Promise<void> = Promise.resolve();
  /** The exit status to be, and what made it so. */
  #status = 0;
  #why = '';
  #onExit: (status: number, why: string) => void = () => undefined;
  #timers: Timer[] = [];
  /** What is not flushed yet, in words; set once there is a data plane. */
  #pending: () => Promise<readonly string[]> = () => Promise.resolve([]);

  constructor(options: EndingOptions) {
    this.#options = options;
    const { signals } = options;
    for (const signal of END_SIGNALS) signals.on(signal, () => this.#signalled(signal));
    for (const signal of IGNORED_SIGNALS) signals.on(signal, () => undefined);
    signals.on('uncaughtException', (error: unknown) => this.#bug(error));
  }

  get isEnding(): boolean {
    return this.#state === 'ending' || this.#state === 'gone';
  }

  /** Runs the start of a server. What it has held is closed when it fails, and the process ends. */
  async run(start: () => Promise<void>): Promise<void> {
    this.#start = start();
    try {
      await this.#start;
      if (this.#state === 'starting') this.#state = 'serving';
    } catch (error) {
      // Closing what an interrupted start waits for makes it fail in its own words.
      if (this.isEnding) return;
      this.#failed(error);
      // Not what #end waits for: it has come to its end.
      this.#start = Promise.resolve();
      await this.#end('the start failed');
    }
  }

  /** Takes over what was made. When the server is ending already, it is closed at once, and this throws. */
  async hold(held: Closable): Promise<void> {
    if (!this.isEnding) {
      this.#held.push(held);
      return;
    }
    await this.#close(held);
    throw new Interrupted(this.#reason);
  }

  /** `pending` tells what is not flushed yet, while the server is ending. */
  onQuestion(pending: () => Promise<readonly string[]>): void {
    this.#pending = pending;
  }

  /** `tell` hears with which status the process ends, and why if not 0; it must not wait. */
  onExit(tell: (status: number, why: string) => void): void {
    this.#onExit = tell;
  }

  #signalled(signal: string): void {
    const { clock, log } = this.#options;
    if (!this.isEnding) {
      void this.#end(signal);
      return;
    }
    if (this.#state === 'gone' || clock.nowMs() - this.#endedAtMs < REPEAT_MS) return;
    log(`${signal}: ending at once`);
    void this.#giveUp();
  }

  async #end(reason: string): Promise<void> {
    const { clock, graceMs, log } = this.#options;
    const wasStarting = this.#state === 'starting';
    this.#state = 'ending';
    this.#reason = reason;
    this.#endedAtMs = clock.nowMs();
    this.#timers = [
      clock.after(SILENT_MS, () => void this.#tellWhatIsPending()),
      clock.after(graceMs, () => {
        log(`not everything could be ended in ${graceMs / 1000} s (--grace)`);
        void this.#giveUp();
      }),
    ];
    for (let held = this.#held.pop(); held !== undefined; held = this.#held.pop()) {
      await this.#close(held);
    }
    if (wasStarting) await this.#startOver();
    // A start that failed has just said why.
    if (this.#status !== 0 && !wasStarting) this.#sayStatus(this.#status);
    this.#exit(this.#status);
  }

  /** A start may be about to make something: it has some time to see that the server is ending. */
  async #startOver(): Promise<void> {
    const { clock } = this.#options;
    await new Promise<void>((resolve) => {
      this.#timers.push(clock.after(START_MS, resolve));
      this.#start.then(resolve, () => resolve());
    });
  }

  async #close(held: Closable): Promise<void> {
    this.#closing.add(held);
    try {
      await held.close();
    } catch (error) {
      this.#failed(error);
    }
    this.#closing.delete(held);
  }

  async #tellWhatIsPending(): Promise<void> {
    const pending = await this.#ask();
    if (this.#state !== 'ending') return;
    const what = pending.length === 0 ? 'what is open is closed' : pending.join('; ');
    this.#options.log(`${this.#reason}: ending takes a while: ${what}`);
  }

  async #giveUp(): Promise<void> {
    const pending = await this.#ask();
    if (this.#state === 'gone') return;
    for (const line of pending) this.#options.log(`not flushed: ${line}`);
    if (this.#why === '') {
      this.#why = pending.length === 0 ? 'not everything was closed' : `not flushed: ${pending[0]}`;
    }
    this.#sayStatus(EXIT_FAILED);
    this.#exit(EXIT_FAILED);
  }

  /** Whoever should answer may be what does not end. */
  #ask(): Promise<readonly string[]> {
    const { clock } = this.#options;
    return new Promise((resolve) => {
      const timer = clock.after(ASK_MS, () => resolve(['the data plane does not answer']));
      const tell = (lines: readonly string[]): void => {
        timer.cancel();
        resolve(lines);
      };
      this.#pending().then(tell, () => tell([]));
    });
  }

  #sayStatus(status: number): void {
    this.#options.log(`exit status ${status}: ${this.#why}`);
  }

  #failed(error: unknown): void {
    const lines = errorLines(error);
    if (this.#status === 0) {
      this.#status = exitStatusOf(error);
      this.#why = lines[0] ?? '';
    }
    for (const line of lines) this.#options.log(line);
  }

  /** A broken invariant, here or in the data plane: stopped, not survived. */
  #bug(error: unknown): void {
    const lines = errorLines(error instanceof Error ? error : new BugError(String(error)));
    for (const line of lines) this.#options.log(line);
    this.#why = lines[0] ?? '';
    this.#exit(EXIT_FAILED);
  }

  #exit(status: number): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    for (const timer of this.#timers) timer.cancel();
    for (const held of [...this.#closing, ...this.#held.toReversed()]) {
      try {
        held.abandon?.();
      } catch {
        // The other ones must go, too.
      }
    }
    try {
      this.#onExit(status, this.#why);
    } catch {
      // Whoever was to hear of it sees that the process is gone.
    }
    this.#options.exit(status);
  }
}
