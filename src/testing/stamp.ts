// What tests write: each piece of data says which write it is from and where it belongs, so that whatever is
// found later can be told apart. Number 0 is zeroes.

import { SECTOR_BYTES } from '../base/units.ts';

export interface Stamp {
  /** Length of one piece. */
  readonly bytes: number;
  /** Marks the `count` pieces of write `number` from `place` on. */
  put(into: Uint32Array, number: number, place: number, count: number): void;
  /** The number of the write that piece `i` of `data` is from, or what it is instead. */
  identify(data: Uint8Array, i: number, place: number): number | string;
}

const WORDS = SECTOR_BYTES / 4;
const MAGIC = 0x4c414d49;
const ZERO_SECTOR = new Uint8Array(SECTOR_BYTES);
const expected = new Uint32Array(WORDS);
const expectedBytes = new Uint8Array(expected.buffer);

/** A sector: damage anywhere in it is found. */
export const SECTOR_STAMP: Stamp = {
  bytes: SECTOR_BYTES,
  put(into, number, place, count) {
    for (let i = 0; i < count; i++) stampSector(into, i * WORDS, number, place + i);
  },
  identify(data, i, sector) {
    const bytes = data.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES);
    if (bytes.length < SECTOR_BYTES) return `only ${bytes.length} bytes`;
    if (Buffer.compare(bytes, ZERO_SECTOR) === 0) return 0;
    const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR_BYTES);
    if (view.getUint32(0, true) !== MAGIC) {
      return `garbage (${Buffer.from(bytes.subarray(0, 16)).toString('hex')}...)`;
    }
    const number = view.getUint32(4, true);
    const place = view.getUint32(8, true);
    stampSector(expected, 0, number, place);
    const isWhole = Buffer.compare(bytes, expectedBytes) === 0;
    if (place !== sector) {
      return `sector ${place} of write ${number}${isWhole ? '' : ', damaged'}`;
    }
    return isWhole ? number : `write ${number}, damaged`;
  },
};

/** Eight bytes, for requests that do not keep to sectors. */
export const WORD_STAMP: Stamp = {
  bytes: 8,
  put(into, number, place, count) {
    for (let i = 0; i < count; i++) {
      into[2 * i] = number;
      into[2 * i + 1] = (place + i) ^ MAGIC;
    }
  },
  identify(data, i, expectedPlace) {
    if (data.length < (i + 1) * 8) return `only ${data.length - i * 8} bytes`;
    const view = new DataView(data.buffer, data.byteOffset + i * 8, 8);
    const [number, mark] = [view.getUint32(0, true), view.getUint32(4, true)];
    if (number === 0 && mark === 0) return 0;
    const place = (mark ^ MAGIC) >>> 0;
    if (place === expectedPlace) return number;
    return `garbage (${Buffer.from(data.subarray(i * 8, i * 8 + 8)).toString('hex')})`;
  },
};

function stampSector(words: Uint32Array, at: number, number: number, sector: number): void {
  words[at] = MAGIC;
  words[at + 1] = number;
  words[at + 2] = sector;
  let x = (Math.imul(number, 0x9e3779b1) ^ Math.imul(sector + 1, 0x85ebca77)) | 1;
  // Two writes in three can be compressed.
  const every = number % 3 === 0 ? 1 : 8;
  for (let i = 3; i < WORDS; i++) {
    if (i % every === 0) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
    }
    words[at + i] = x;
  }
}
