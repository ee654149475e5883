// Passphrases and key files, by cryptsetup's rules: what is typed or comes as a line of standard input ends
// before its newline; a key file, and standard input as a key file ('-'), is taken whole, newlines and all.
//
// Never an argument, which everybody on the machine can read.

import { confirm as ask } from './confirm.ts';
import { closeSync, openSync, readSync } from 'node:fs';
import type { Command } from 'commander';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import { MIB } from '../base/units.ts';
import { WrongCall } from './errors.ts';
import { notNegative, positive } from './option-values.ts';
import { tell } from './output.ts';

/** Of a key file, and of a line of standard input. */
const SECRET_BYTES_MAX = 8 * MIB;
/** Of what is typed. */
const TYPED_BYTES_MAX = 512;

export interface SecretFlags {
  readonly keyFile?: string;
  readonly keyfileOffset?: number;
  readonly keyfileSize?: number;
  readonly passphraseEnv?: string;
}

export interface NewSecretFlags {
  readonly newKeyFile?: string;
  readonly newKeyfileOffset?: number;
  readonly newKeyfileSize?: number;
  readonly newPassphraseEnv?: string;
}

export function withSecret(command: Command): Command {
  return command
    .option('-d, --key-file <file>', "read the passphrase from a file, all of it; '-' is stdin")
    .option('--keyfile-offset <bytes>', 'skip so much of the key file', notNegative)
    .option('-l, --keyfile-size <bytes>', 'read so much of the key file', positive)
    .option('--passphrase-env <name>', 'take the passphrase from this environment variable');
}

export function withNewSecret(command: Command): Command {
  return command
    .option('--new-key-file <file>', "read the new passphrase from a file; '-' is stdin")
    .option('--new-keyfile-offset <bytes>', 'skip so much of it', notNegative)
    .option('--new-keyfile-size <bytes>', 'read so much of it', positive)
    .option('--new-passphrase-env <name>', 'take the new one from this environment variable');
}

export function newSecretFlags(flags: NewSecretFlags): SecretFlags {
  const { newKeyFile, newKeyfileOffset, newKeyfileSize, newPassphraseEnv } = flags;
  return {
    ...(newKeyFile === undefined ? {} : { keyFile: newKeyFile }),
    ...(newKeyfileOffset === undefined ? {} : { keyfileOffset: newKeyfileOffset }),
    ...(newKeyfileSize === undefined ? {} : { keyfileSize: newKeyfileSize }),
    ...(newPassphraseEnv === undefined ? {} : { passphraseEnv: newPassphraseEnv }),
  };
}

/** Whether it will be asked for on a terminal. */
export function isTyped(flags: SecretFlags): boolean {
  const { keyFile, passphraseEnv } = flags;
  return keyFile === undefined && passphraseEnv === undefined && process.stdin.isTTY;
}

/**
 * The bytes of a passphrase; the caller zeroes them. `isNew`: typed ones are asked for twice, and an
 * empty one is warned of. Throws DmError.
 */
export async function readSecret(
  flags: SecretFlags,
  prompt: string,
  options: { readonly isNew?: boolean } = {},
): Promise<Buffer> {
  const isNew = options.isNew === true;
  const secret = await readAnySecret(flags, prompt, isNew);
  if (isNew && secret.length === 0) {
    tell('lamina: warning: the new passphrase is empty: whoever has the volume can open it\n');
  }
  return secret;
}

async function readAnySecret(flags: SecretFlags, prompt: string, isNew: boolean): Promise<Buffer> {
  const { keyFile, passphraseEnv } = flags;
  if (keyFile !== undefined && passphraseEnv !== undefined) {
    throw new WrongCall('a key file and an environment variable: give one of them');
  }
  if (passphraseEnv !== undefined) return fromEnvironment(passphraseEnv);
  if (keyFile !== undefined) return fromFile(keyFile, flags);
  if (flags.keyfileOffset !== undefined || flags.keyfileSize !== undefined) {
    throw new WrongCall('offset and size are those of a key file: give --key-file, too');
  }
  if (!process.stdin.isTTY) return fromLine();
  const typed = await typedLine(`${prompt}: `);
  if (!isNew) return typed;
  const again = await typedLine('Verify passphrase: ');
  const isSame = typed.equals(again);
  again.fill(0);
  if (isSame) return typed;
  typed.fill(0);
  throw invalid('the passphrases are not the same');
}

function fromEnvironment(name: string): Buffer {
  const value = process.env[name];
  if (value === undefined) throw invalid(`the environment has no variable ${name}`);
  return Buffer.from(new TextEncoder().encode(value).buffer);
}

function fromFile(path: string, flags: SecretFlags): Buffer {
  const { keyfileOffset = 0, keyfileSize } = flags;
  const name = path === '-' ? 'standard input' : path;
  if (keyfileSize !== undefined && keyfileSize > SECRET_BYTES_MAX) {
    throw invalid(`${name}: a key file has at most ${SECRET_BYTES_MAX} bytes`);
  }
  const fd = path === '-' ? 0 : opened(path);
  const want = keyfileSize ?? SECRET_BYTES_MAX + 1;
  const all = Buffer.alloc(want);
  try {
    skip(fd, keyfileOffset, name);
    const got = readUpTo(fd, all, name);
    if (keyfileSize !== undefined && got < keyfileSize) {
      throw invalid(`${name}: has ${got} bytes from offset ${keyfileOffset}, not ${keyfileSize}`);
    }
    if (got > SECRET_BYTES_MAX) {
      throw invalid(`${name}: is longer than ${SECRET_BYTES_MAX} bytes; give --keyfile-size`);
    }
    const secret = Buffer.alloc(got);
    all.copy(secret, 0, 0, got);
    return secret;
  } finally {
    all.fill(0);
    if (fd !== 0) closeSync(fd);
  }
}

function opened(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot open: ${errorText(error)}`);
  }
}

function skip(fd: number, count: number, name: string): void {
  const piece = Buffer.alloc(65536);
  for (let left = count; left > 0; ) {
    const n = readSome(fd, piece, 0, Math.min(left, piece.length));
    if (n === 0) throw invalid(`${name}: ends before offset ${count}`);
    left -= n;
  }
  piece.fill(0);
}

function readUpTo(fd: number, into: Buffer, name: string): number {
  try {
    for (let done = 0; ; ) {
      const n = done === into.length ? 0 : readSome(fd, into, done, into.length - done);
      if (n === 0) return done;
      done += n;
    }
  } catch (error) {
    throw new DmError(statusOfError(error), `${name}: cannot read: ${errorText(error)}`);
  }
}

/** A pipe whose writer is slow may be in non-blocking mode. */
function readSome(fd: number, into: Buffer, at: number, count: number): number {
  for (;;) {
    try {
      return readSync(fd, into, at, count, null);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === 'EOF') return 0;
      if (code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}

/** Byte by byte, so that the next secret finds the next line. */
function fromLine(): Buffer {
  const line = Buffer.alloc(SECRET_BYTES_MAX);
  const byte = Buffer.alloc(1);
  let length = 0;
  for (;;) {
    const n = readSome(0, byte, 0, 1);
    if (n === 0 && length === 0) throw invalid('nothing to read on standard input');
    if (n === 0 || byte[0] === 0x0a) break;
    if (length === line.length) throw invalid(`the line is longer than ${SECRET_BYTES_MAX} bytes`);
    line[length++] = byte[0] as number;
  }
  const secret = Buffer.alloc(length);
  line.copy(secret, 0, 0, length);
  line.fill(0, 0, length);
  byte.fill(0);
  return secret;
}

const CTRL_C = 0x03;
const CTRL_D = 0x04;
const CTRL_U = 0x15;
const CTRL_Z = 0x1a;
/** After a stop that does not happen, because nobody could end it, typing goes on. */
const NOT_STOPPED_MS = 200;
const BACKSPACES: ReadonlySet<number> = new Set([0x08, 0x7f]);
const ENDS: ReadonlySet<number> = new Set([0x0a, 0x0d, CTRL_D]);
const NONE_TYPED = 'no passphrase: the input has ended; nothing is changed';

/**
 * Without showing it. Control-C ends the program, and so does Control-D where nothing was typed:
 * that is no empty passphrase. Control-Z stops it; then the question comes again.
 */
async function typedLine(prompt: string): Promise<Buffer> {
  const { stdin } = process;
  // First: who sees the question may have typed the answer already.
  stdin.setRawMode(true);
  tell(prompt);
  const typed = Buffer.alloc(TYPED_BYTES_MAX);
  let length = 0;
  try {
    await new Promise<void>((resolve, reject) => {
      const take = (data: Buffer): void => {
        for (const byte of data) {
          if (byte === CTRL_C) reject(new DmError(Status.Canceled, 'given up'));
          else if (byte === CTRL_D && length === 0)
            reject(new DmError(Status.Canceled, NONE_TYPED));
          else if (ENDS.has(byte)) resolve();
          else if (byte === CTRL_U) length = 0;
          else if (byte === CTRL_Z) {
            typed.fill(0);
            length = 0;
            stopUntilContinued(() => tell(prompt));
          } else if (BACKSPACES.has(byte)) length = withoutLast(typed, length);
          else if (length < TYPED_BYTES_MAX) typed[length++] = byte;
          else reject(invalid(`a passphrase has at most ${TYPED_BYTES_MAX} bytes`));
          if (byte === CTRL_C || ENDS.has(byte)) stdin.off('data', take);
        }
        data.fill(0);
      };
      stdin.on('data', take);
      stdin.once('end', () => reject(new DmError(Status.Canceled, NONE_TYPED)));
      stdin.resume();
    });
    const secret = Buffer.alloc(length);
    typed.copy(secret, 0, 0, length);
    return secret;
  } finally {
    typed.fill(0);
    stdin.removeAllListeners('data');
    stdin.setRawMode(false);
    stdin.pause();
    tell('\n');
  }
}

/** Stops the program as the terminal would have done, which shows what is typed meanwhile. */
function stopUntilContinued(again: () => void): void {
  const { stdin } = process;
  const goOn = (): void => {
    clearTimeout(timer);
    process.off('SIGCONT', goOn);
    // The question may be over.
    if (stdin.listenerCount('data') === 0) return;
    stdin.setRawMode(true);
    again();
  };
  tell('\n');
  stdin.setRawMode(false);
  process.on('SIGCONT', goOn);
  const timer = setTimeout(goOn, NOT_STOPPED_MS);
  // Everybody in the foreground: a pipe has several.
  process.kill(0, 'SIGTSTP');
}

/** A character of several bytes goes as a whole. */
function withoutLast(typed: Buffer, length: number): number {
  let end = Math.max(0, length - 1);
  while (end > 0 && ((typed[end] ?? 0) & 0xc0) === 0x80) end--;
  return end;
}

/** Asks before something that cannot be undone. Throws DmError. */
export async function confirm(what: string): Promise<void> {
  await ask(what, '--batch-mode');
}
