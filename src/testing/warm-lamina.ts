// The command line in one process for many calls, for tests that make so many that starting a process for each takes
// longer than all the rest. A call is a whole one: arguments, standard input, what it prints, its exit status.
//
// Calls are synchronous. The process ends when this one does, or when `Symbol.dispose` is called.

import { spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeTestFolder } from './lamina-server.ts';

const PROCESS = fileURLToPath(new URL('./warm-lamina-process.js', import.meta.url));
const LONGEST_CALL_MS = 120_000;
const NEVER = new Int32Array(new SharedArrayBuffer(4));

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class WarmLamina implements Disposable {
  readonly #folder = makeTestFolder();
  readonly #calls: number;
  readonly #answers: number;
  #isStarted = false;

  constructor(env: Readonly<Record<string, string | undefined>> = process.env, cwd?: string) {
    for (const name of ['calls', 'answers']) spawnSync('mkfifo', [this.#at(name)]);
    // Both ends, so that opening waits for nobody.
    this.#calls = openSync(this.#at('calls'), constants.O_RDWR);
    this.#answers = openSync(this.#at('answers'), constants.O_RDONLY | constants.O_NONBLOCK);
    for (const name of ['stdout', 'stderr']) writeFileSync(this.#at(name), '');
    const log = openSync(this.#at('stderr'), 'w');
    const child = spawn(process.execPath, [PROCESS, this.#folder.path], {
      stdio: ['ignore', 'ignore', log],
      env,
      cwd,
    });
    closeSync(log);
    child.unref();
  }

  run(args: readonly string[], input: string | Buffer = ''): Ran {
    writeFileSync(this.#at('stdin'), input);
    writeSync(this.#calls, `${JSON.stringify(args)}\n`);
    const status = this.#answer(args);
    const [stdout, stderr] = [this.#read('stdout'), this.#read('stderr')];
    return { status, stdout, stderr };
  }

  #at(name: string): string {
    return join(this.#folder.path, name);
  }

  #read(name: string): string {
    return readFileSync(this.#at(name), 'utf8');
  }

  #answer(args: readonly string[]): number {
    const until = performance.now() + LONGEST_CALL_MS;
    const bytes = Buffer.alloc(16);
    let text = '';
    while (!text.endsWith('\n')) {
      const n = this.#readSome(bytes);
      if (n !== undefined && n > 0) text += bytes.toString('latin1', 0, n);
      else if ((n === 0 && this.#isStarted) || performance.now() > until) {
        const why = n === 0 ? 'its process has ended' : 'it does not end';
        throw new Error(`lamina ${args.join(' ')}: ${why}: ${this.#read('stderr')}`);
      } else Atomics.wait(NEVER, 0, 0, 1);
    }
    return Number(text);
  }

  /** Undefined: nothing yet. Nobody writes to it before the process has started, and after it has ended. */
  #readSome(into: Buffer): number | undefined {
    try {
      return readSync(this.#answers, into, 0, into.length, null);
    } catch (error) {
      if ((error as { code?: string }).code !== 'EAGAIN') throw error;
      this.#isStarted = true;
      return undefined;
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#calls);
    closeSync(this.#answers);
    this.#folder.remove();
  }
}
