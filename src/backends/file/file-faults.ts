// Tells the operator what went wrong with a file while it was in use: a line for each I/O that failed, one
// for the first flush that did.

import { fstatSync } from 'node:fs';
import type { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, Op } from '../../bio/bio.ts';

const WORDS: Readonly<Record<number, string>> = {
  [Op.Read]: 'read',
  [Op.Write]: 'write',
  [Op.Discard]: 'discard',
  [Op.WriteZeroes]: 'zeroing',
};

export class FileFaults {
  readonly #name: string;
  readonly #fd: number;
  readonly #log: (line: string) => void;
  #hasToldFlush = false;

  constructor(name: string, fd: number, log: (line: string) => void) {
    this.#name = name;
    this.#fd = fd;
    this.#log = log;
  }

  /** A bio that is no flush has failed. */
  failed(bio: Bio, status: Status): void {
    const offBytes = bio.sector * SECTOR_BYTES;
    const what = `${WORDS[bio.op] ?? 'I/O'} of ${bio.lenBytes} bytes at ${offBytes}`;
    const why = errnoText(status) + this.#shortness(offBytes + bio.lenBytes);
    this.#log(`device ${this.#name}: ${what}: ${why}`);
  }

  flushFailed(status: Status): void {
    if (this.#hasToldFlush) return;
    this.#hasToldFlush = true;
    this.#log(
      `device ${this.#name}: flush: ${errnoText(status)}: what was written may not be on the medium; ` +
        'every flush fails until the device is closed',
    );
  }

  #shortness(endBytes: number): string {
    const stat = fstatSync(this.#fd);
    if (!stat.isFile() || stat.size >= endBytes) return '';
    return `: the file has become shorter, it has ${stat.size} bytes`;
  }
}
