// A disk in memory for LUKS headers: it remembers every write and flush, so that a test can ask for what it
// would hold if the power had gone at any moment; and damage to headers, blind or behind a right checksum.

import { createHash } from 'node:crypto';
import type { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { DmError } from '../base/errors.ts';
import type { FormatOptions } from '../tools/luks/format-luks.ts';
import type { LuksIo } from '../tools/luks/luks-io.ts';

const SECTOR = 512;

/** Cheap enough for tests that try hundreds of keys. */
export const TEST_KDF = { type: 'pbkdf2', hash: 'sha256', iterations: 1000 } as const;

/** A volume with such keys, header and data on one disk. */
export function testFormat(version: 1 | 2, more: Partial<FormatOptions> = {}): FormatOptions {
  return {
    version,
    cipher: 'aes-xts-plain64',
    keyBytes: 32,
    hash: 'sha256',
    kdf: TEST_KDF,
    isDetached: false,
    dataDeviceBytes: 0,
    sectorBytes: 512,
    ...more,
  };
}

/** A sector that was written, or a flush. */
export type DiskEvent = { readonly at: number; readonly data: Uint8Array } | 'flush';

export class LuksDisk implements LuksIo {
  readonly path: string;
  readonly image: Uint8Array;
  isReadOnly = false;
  events: DiskEvent[] = [];
  #start: Uint8Array;

  constructor(image: Uint8Array | number, path = 'disk') {
    this.path = path;
    // A copy, which a Buffer's own `slice` is not; or so many zeroes.
    this.image = typeof image === 'number' ? new Uint8Array(image) : Uint8Array.from(image);
    this.#start = this.image.slice();
  }

  get sizeBytes(): number {
    return this.image.length;
  }

  read(at: number, into: Uint8Array): void {
    if (at < 0 || at + into.length > this.image.length) {
      throw new DmError(Status.Io, `${this.path}: read of ${into.length} bytes at ${at}`);
    }
    into.set(this.image.subarray(at, at + into.length));
  }

  async readBack(at: number, into: Uint8Array): Promise<void> {
    this.read(at, into);
    await Promise.resolve();
  }

  write(at: number, data: Uint8Array): void {
    if (this.isReadOnly) throw new Error(`written: ${data.length} bytes at ${at}`);
    if (at < 0 || at + data.length > this.image.length)
      throw new Error(`write beyond the end, ${at}`);
    this.image.set(data, at);
    const first = at - (at % SECTOR);
    for (let sector = first; sector < at + data.length; sector += SECTOR) {
      this.events.push({ at: sector, data: this.image.slice(sector, sector + SECTOR) });
    }
  }

  flush(): Promise<void> {
    this.events.push('flush');
    return Promise.resolve();
  }

  /** From here on events are counted. */
  mark(): void {
    this.events = [];
    this.#start = this.image.slice();
  }

  /**
   * What is left when the power goes after so many events: all of them, or with `prng` everything
   * flushed and any of the others.
   */
  crashed(after: number, prng?: Prng): Uint8Array {
    const image = this.#start.slice();
    const done = this.events.slice(0, after);
    const durable = done.lastIndexOf('flush');
    for (const [i, event] of done.entries()) {
      if (event === 'flush') continue;
      if (i < durable || prng === undefined || prng.chance(0.5)) image.set(event.data, event.at);
    }
    return image;
  }
}

/** Flips, overwrites, zeroes or copies some bytes of the first `rangeBytes`. */
export function damage(image: Uint8Array, prng: Prng, rangeBytes: number): void {
  const range = Math.min(rangeBytes, image.length);
  const at = prng.below(range);
  const length = Math.min(prng.pick([1, 1, 1, 4, 16, 512, 4096]), range - at);
  switch (prng.below(4)) {
    case 0:
      image[at] = (image[at] ?? 0) ^ (1 << prng.below(8));
      break;
    case 1:
      prng.fill(image.subarray(at, at + length));
      break;
    case 2:
      image.fill(prng.pick([0, 0xff]), at, at + length);
      break;
    default:
      image.copyWithin(at, prng.below(range), prng.below(range));
  }
}

const ABSURD = [
  '0',
  '-1',
  '1',
  '4294967295',
  '4294967296',
  '9007199254740993',
  '18446744073709551615',
  '1e308',
  '"0"',
  '"18446744073709551615"',
  '""',
  'null',
  'true',
  '[]',
  '{}',
  '"argon2id"',
  '"pbkdf2"',
  '"../../etc"',
  '"aes-xts-plain64"',
  '["0","0"]',
];

/** Changes the JSON of both copies of a LUKS2 header, and makes their checksums right again. */
export function damageMetadata(image: Uint8Array, prng: Prng, headerBytes: number): void {
  const area = image.subarray(4096, headerBytes);
  const text = Buffer.from(area.subarray(0, area.indexOf(0))).toString();
  const values = [...text.matchAll(/"(?:[^"\\]|\\.)*"|-?\d+|\[\]|\{\}/g)];
  let changed = text;
  for (let i = prng.between(1, 2); i > 0; i--) {
    const value = prng.pick(values);
    const at = value.index;
    const other = prng.chance(0.7) ? prng.pick(ABSURD) : prng.pick(values)[0];
    changed = changed.slice(0, at) + other + changed.slice(at + value[0].length);
  }
  if (prng.chance(0.1)) changed = changed.slice(0, prng.below(changed.length));
  setMetadata(image, changed, headerBytes);
}

/** Puts text in the JSON areas of both copies, with right checksums. */
export function setMetadata(image: Uint8Array, text: string, headerBytes: number): void {
  const json = Buffer.from(text).subarray(0, headerBytes - 4096 - 1);
  for (const at of [0, headerBytes]) {
    const copy = image.subarray(at, at + headerBytes);
    copy.fill(0, 4096);
    copy.set(json, 4096);
    sealCopy(copy);
  }
}

/** Makes the checksum (sha256) of a copy right. */
export function sealCopy(copy: Uint8Array): void {
  copy.fill(0, 448, 512);
  copy.set(createHash('sha256').update(copy).digest(), 448);
}
