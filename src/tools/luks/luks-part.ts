// A part of another place as the place of a volume: a partition of an image.

import { endsEarly, type LuksIo } from './luks-io.ts';

export interface LuksPartRange {
  readonly offsetBytes: number;
  readonly lenBytes: number;
}

export class LuksPart implements LuksIo {
  readonly path: string;
  readonly sizeBytes: number;
  readonly #whole: LuksIo;
  readonly #offsetBytes: number;

  /** `path` is the part's, for messages. The range must be within the whole. */
  constructor(whole: LuksIo, path: string, { offsetBytes, lenBytes }: LuksPartRange) {
    this.path = path;
    this.sizeBytes = lenBytes;
    this.#whole = whole;
    this.#offsetBytes = offsetBytes;
  }

  read(at: number, into: Uint8Array): void {
    this.#check(at + into.length);
    this.#whole.read(this.#offsetBytes + at, into);
  }

  async readBack(at: number, into: Uint8Array): Promise<void> {
    this.#check(at + into.length);
    await this.#whole.readBack(this.#offsetBytes + at, into);
  }

  write(at: number, data: Uint8Array): void {
    this.#check(at + data.length);
    this.#whole.write(this.#offsetBytes + at, data);
  }

  async flush(): Promise<void> {
    await this.#whole.flush();
  }

  #check(end: number): void {
    if (end > this.sizeBytes) throw endsEarly(this.path, end, this.sizeBytes);
  }
}
