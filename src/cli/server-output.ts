// What a server says on stdout and stderr. Nobody may be there to read: a pipe that is full or whose reader has
// gone, a stopped or closed terminal, a full disk. None of that may hold up or end a server, so a line that
// cannot be written at once is lost, and counted; the next one that gets through says how many were.
//
// Node's own streams wait there, or throw. Setting O_NONBLOCK on descriptor 2 would change it for the shell and
// for everybody else who has the same one, so pipes and terminals are opened once more, non-blocking.

import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { printable } from '../base/names.ts';
import { canWriteNow, sendNow } from '../io/output-calls.ts';

/** A pipe takes so much at once or nothing: PIPE_BUF. */
const LINE_BYTES_MAX = 4096;
/** For what a program waits for, the ready line: how long its reader may take, and how often to look. */
const DELIVER_MS = 5000;
const LOOK_MS = 10;

/** Writes without waiting; how many bytes were taken. Throws what the system says. */
type WriteNow = (bytes: Uint8Array) => number;

export class ServerOutput {
  readonly #write: WriteNow;
  #lost = 0;

  /** `fd` is 1 or 2, or whatever a test has. */
  constructor(fd: number) {
    this.#write = writerFor(fd);
  }

  /** Lines that could not be written since the last one that could. */
  get lost(): number {
    return this.#lost;
  }

  /** A line for people, cut if it is long; control characters in `text` are shown, not sent. */
  log(text: string): void {
    const note = this.#lost === 0 ? '' : `lamina: ${this.#lost} lines before this one were lost\n`;
    let bytes = Buffer.from(`${note}lamina: ${printable(text)}\n`);
    if (bytes.length > LINE_BYTES_MAX) {
      bytes = Buffer.concat([bytes.subarray(0, LINE_BYTES_MAX - 4), Buffer.from('...\n')]);
    }
    try {
      this.#lost = this.#write(bytes) === bytes.length ? 0 : this.#lost + 1;
    } catch {
      this.#lost++;
    }
  }

  /** All of a text that a program reads, as long as the reader is not too slow; false when it is lost. */
  async deliver(text: string): Promise<boolean> {
    const until = performance.now() + DELIVER_MS;
    for (let bytes: Uint8Array = Buffer.from(text); ; ) {
      try {
        bytes = bytes.subarray(this.#write(bytes));
      } catch (error) {
        if ((error as { code?: string }).code !== 'EAGAIN') return false;
      }
      if (bytes.length === 0) return true;
      if (performance.now() > until) return false;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }
}

function writerFor(fd: number): WriteNow {
  let stat: ReturnType<typeof fstatSync>;
  try {
    stat = fstatSync(fd);
  } catch {
    return () => {
      throw new Error('closed');
    };
  }
  if (stat.isSocket()) return (bytes) => Math.max(0, sendNow(fd, bytes));
  if (!stat.isFIFO() && !isatty(fd)) return (bytes) => writeSync(fd, bytes);
  const own = openAgain(fd);
  if (own !== undefined) return (bytes) => writeSync(own, bytes);
  // Somebody else's terminal or pipe, after `su` for one: where there is room, a line does not wait.
  return (bytes) => (canWriteNow(fd) ? writeSync(fd, bytes.subarray(0, LINE_BYTES_MAX)) : 0);
}

function openAgain(fd: number): number | undefined {
  try {
    const own = openSync(
      `/proc/self/fd/${fd}`,
      constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
    );
    const [a, b] = [fstatSync(fd), fstatSync(own)];
    if (a.ino === b.ino && a.dev === b.dev) return own;
    closeSync(own);
  } catch {
    // No /proc, or no permission.
  }
  return undefined;
}
