// What a command prints. Every byte gets out, or the command fails: a disk that is full is no reason to exit
// with 0. A reader that goes away (`| head`) ends the command without a word, with the status that the shell
// gives to a program that SIGPIPE has ended.
//
// Node's streams take a short write for a whole one where stdout is a file, and throw from nowhere where it is a
// pipe; descriptors are written to here, and waited for.

import { fstatSync, statSync, writeSync } from 'node:fs';
import { DmError, errorText } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status, statusOfError } from '../base/status.ts';

/** 128 + SIGPIPE. */
export const EXIT_PIPE = 141;

/** Nobody reads what a command prints any more. */
export class OutputGone extends Error {
  override readonly name = 'OutputGone';
}

/** Text to stdout, all of it. Throws OutputGone, or DmError when it cannot be written. */
export function print(text: string): void {
  try {
    writeAll(1, Buffer.from(text));
  } catch (error) {
    const status = statusOfError(error);
    if (status === Status.BrokenPipe) throw new OutputGone('stdout');
    const isClosed = status === Status.BadDescriptor;
    const reason = isClosed ? 'standard output is closed' : errorText(error);
    throw new DmError(status, `cannot write to stdout: ${reason}`);
  }
}

/** Whether what is printed goes nowhere. Where stdout was closed, bin/lamina or node puts the null device. */
export function isStdoutNull(): boolean {
  const { rdev } = fstatSync(1);
  return rdev !== 0 && rdev === statSync('/dev/null', { throwIfNoEntry: false })?.rdev;
}

/** A line, whose end is added where it is missing. */
export function printLine(text: string): void {
  print(text === '' || text.endsWith('\n') ? text : `${text}\n`);
}

export function printJson(value: unknown): void {
  printLine(JSON.stringify(value, null, 2));
}

export interface JsonFlag {
  readonly json?: true;
}

/** The help of --json where a verb changes something. */
export const JSON_DONE = 'print as JSON what was done';

/** What a command has done: `value` for a program that called with --json, else `text`, which may be empty. */
export function printDone(flags: JsonFlag, value: object, text = ''): void {
  if (flags.json === true) printJson(value);
  else printLine(text);
}

/** A name as dmsetup prints one that is not plain: `my\\x20disk`. One word, and harmless to a terminal. */
export function shownName(name: string): string {
  return printable(name.replaceAll(/[\\\s"'`$]/g, escaped));
}

function escaped(char: string): string {
  return [...Buffer.from(char)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join('');
}

/** Text to stderr, as far as somebody reads it. */
export function tell(text: string): void {
  try {
    writeAll(2, Buffer.from(text));
  } catch {
    // There is no third place.
  }
}

/** Long text at the speed of its reader, so that it is never all in memory. */
export async function printAll(pieces: AsyncIterable<string>): Promise<void> {
  let text = '';
  for await (const piece of pieces) {
    text += piece;
    if (text.length < PIECE_CHARS) continue;
    print(text);
    text = '';
  }
  print(text);
}

const PIECE_CHARS = 65536;
const LOOK_AGAIN_MS = 5;
/** Nobody wakes whoever waits for this. */
const STILL = new Int32Array(new SharedArrayBuffer(4));

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let rest = bytes; rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      // Whoever shares the descriptor may have made it non-blocking.
      if (statusOfError(error) !== Status.Again) throw error;
      Atomics.wait(STILL, 0, 0, LOOK_AGAIN_MS);
    }
  }
}
