// Runs a check that the user has given as a shell command.

import { spawn } from 'node:child_process';

export interface CheckOutcome {
  readonly isGood: boolean;
  /** How it ended: `exit 4`, `SIGKILL`. */
  readonly ending: string;
  /** The shell could not run it at all. */
  readonly isMissing: boolean;
  /** The beginning of what it printed, to stdout and stderr together. */
  readonly output: string;
}

const OUTPUT_CHARS_MAX = 16384;

/** `{}` in the command is the path, quoted for the shell. Exit 0 is good. */
export function runCheck(command: string, path: string): Promise<CheckOutcome> {
  const quoted = `'${path.replaceAll("'", "'\\''")}'`;
  const child = spawn('/bin/sh', ['-c', command.replaceAll('{}', () => quoted)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const take = (chunk: Buffer): void => {
    if (output.length < OUTPUT_CHARS_MAX) output += chunk.toString();
  };
  child.stdout.on('data', take);
  child.stderr.on('data', take);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      const ending = signal ?? `exit ${code}`;
      const isMissing = code === 126 || code === 127;
      resolve({ isGood: code === 0, ending, isMissing, output: output.slice(0, OUTPUT_CHARS_MAX) });
    });
  });
}
