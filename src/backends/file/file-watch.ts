// Whether a file that is open is still the one that people see at its path. A file that is deleted or replaced goes on
// taking writes, and they are gone when it is closed: nothing else would ever tell.

import { fstat, stat } from 'node:fs';
import { promisify } from 'node:util';
import { Status, statusOfError } from '../../base/status.ts';
import type { OpenedFile } from './file-open.ts';

const fstatAsync = promisify(fstat);
const statAsync = promisify(stat);

export class FileWatch {
  readonly #name: string;
  readonly #file: OpenedFile;
  readonly #log: (line: string) => void;
  /** What an operator must know; '' when all is well. */
  warning = '';

  constructor(name: string, file: OpenedFile, log: (line: string) => void) {
    this.#name = name;
    this.#file = file;
    this.#log = log;
  }

  /** Logs what has come to be since the last look. `servedBytes`: what the file is to have. */
  async look(servedBytes: number): Promise<void> {
    if (this.#file.isBlockDevice) return;
    const warning = await this.#find(servedBytes);
    if (warning === undefined || warning === this.warning) return;
    this.warning = warning;
    if (warning !== '') this.#log(`device ${this.#name}: ${warning}`);
  }

  /** Undefined: it cannot be told. */
  async #find(servedBytes: number): Promise<string | undefined> {
    const open = await fstatAsync(this.#file.fd, { bigint: true });
    if (Number(open.size) < servedBytes) {
      return `the file has become shorter: it has ${open.size} bytes, ${servedBytes} are served`;
    }
    let isOther: boolean;
    try {
      const { ino, dev } = await statAsync(this.#file.path, { bigint: true });
      if (ino === open.ino && dev === open.dev) return '';
      isOther = true;
    } catch (error) {
      const status = statusOfError(error);
      if (status !== Status.NoEntry && status !== Status.NotDirectory) return undefined;
      isOther = false;
    }
    if (open.nlink === 0n) {
      const what = isOther ? 'has been replaced by another one' : 'has been deleted';
      return `the file ${what}: what is written is gone when the device is closed; copy it before`;
    }
    return isOther
      ? 'another file is at its path now: I/O goes to the old one, which has another name'
      : 'the file is not at its path any more';
  }
}
