// A bash that is given one command after another, as somebody does who pastes the lines of a page.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const POLL_MS = 20;

export interface Ended {
  readonly status: number;
  readonly output: string;
  /** What the command and its jobs in the background have printed by now. */
  readonly soFar: () => string;
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The processes that a process has started and that are there, by Linux's own list. */
function childrenOf(pid: number): number[] {
  let text = '';
  try {
    text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  } catch {
    return [];
  }
  return text
    .trim()
    .split(' ')
    .filter((w) => w !== '')
    .map(Number);
}

/** Everything below a process. */
function descendants(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => [child, ...descendants(child)]);
}

/** Whether bash takes the text for whole commands: nothing is left open, no here-document lacks its end. */
export function isWhole(text: string): boolean {
  if (text.endsWith('\\')) return false;
  const { status, stderr } = spawnSync('bash', ['-n', '-c', `${text}\n`], { encoding: 'utf8' });
  return status === 0 && stderr === '';
}

export class Terminal {
  readonly #shell: ChildProcess;
  readonly #files = mkdtempSync(join(tmpdir(), 'terminal-'));
  /** Exit statuses that the shell has told and nobody has taken. */
  #told = '';
  #count = 0;
  /** What the command in the foreground prints; undefined while the shell waits for a command. */
  #foreground: string | undefined;
  /** Jobs in the background when that command was typed: Ctrl-C is not for them. */
  #background: readonly number[] = [];

  constructor(cwd: string, env: NodeJS.ProcessEnv) {
    this.#shell = spawn('bash', ['--norc', '--noprofile'], {
      cwd,
      env,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#shell.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#told += text;
    });
  }

  get isBusy(): boolean {
    return this.#foreground !== undefined;
  }

  /** Runs a command to its end. One that takes longer than the time is left with status -1. */
  async run(text: string): Promise<Ended> {
    this.start(text);
    return await this.wait();
  }

  /** Waits for the end of the command that was started. */
  async wait(timeMs = 120_000): Promise<Ended> {
    await this.printed(() => false, timeMs);
    const path = this.#foreground ?? '/dev/null';
    const soFar = (): string => readFileSync(path, 'utf8');
    const output = soFar();
    const end = this.#told.indexOf('\n');
    if (end < 0) return { status: -1, output, soFar };
    const status = Number(this.#told.slice(0, end));
    this.#told = this.#told.slice(end + 1);
    this.#foreground = undefined;
    return { status, output, soFar };
  }

  /** Types a command and does not wait for it. */
  start(text: string): void {
    if (this.#foreground !== undefined) throw new Error('the terminal is busy');
    const script = join(this.#files, `${this.#count}.sh`);
    this.#foreground = join(this.#files, `${this.#count++}.out`);
    writeFileSync(script, `${text}\n`);
    writeFileSync(this.#foreground, '');
    this.#background = childrenOf(this.#shell.pid ?? 0);
    this.#shell.stdin?.write(`. ${script} </dev/null >>${this.#foreground} 2>&1; echo $?\n`);
  }

  /** Waits until what the command prints is enough, or until it ends or the time is over. Returns what it printed. */
  async printed(isEnough: (output: string) => boolean, timeMs = 120_000): Promise<string> {
    for (const until = Date.now() + timeMs; ; ) {
      const output = this.#output();
      if (isEnough(output) || this.#told.includes('\n') || Date.now() > until) return output;
      await sleep(POLL_MS);
    }
  }

  /** Ctrl-C: SIGINT for everything in the foreground, at once. */
  async interrupt(timeMs = 60_000): Promise<Ended> {
    for (const child of childrenOf(this.#shell.pid ?? 0)) {
      if (this.#background.includes(child)) continue;
      for (const pid of [child, ...descendants(child)]) signal(pid, 'SIGINT');
    }
    return await this.wait(timeMs);
  }

  /** Ends background jobs with SIGTERM, and the shell. Returns each job that did not end with 0, and how. */
  async close(): Promise<string[]> {
    const wrong: string[] = [];
    if (this.isBusy) {
      const { status, output } = await this.interrupt();
      if (status !== 0) wrong.push(`status ${status} after Ctrl-C; printed:\n${output}`);
    }
    if (!this.isBusy) {
      const jobs = await this.run(
        `for p in $(jobs -p); do kill -TERM $p 2>/dev/null; wait $p || echo "status $?, job $p"; done`,
      );
      if (jobs.output !== '' || jobs.status !== 0) wrong.push(`after SIGTERM: ${jobs.output}`);
    }
    for (const pid of descendants(this.#shell.pid ?? 0)) signal(pid, 'SIGKILL');
    this.#shell.stdin?.end();
    this.#shell.kill('SIGKILL');
    rmSync(this.#files, { recursive: true, force: true });
    return wrong;
  }

  #output(): string {
    return readFileSync(this.#foreground ?? '/dev/null', 'utf8');
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // The process has ended meanwhile.
    if ((error as { code?: string }).code !== 'ESRCH') throw error;
  }
}
