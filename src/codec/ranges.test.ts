// The built-in codecs touch nothing outside their two ranges, not even to read it: the memory they
// are given here looks at every access.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { sampleData } from '../testing/codec-samples.ts';
import { SEED } from '../testing/seed.ts';
import { Bytes } from './byte-copy.ts';
import { Lz4Compressor, lz4Decompress } from './lz4-block.ts';
import { Lzo1xCompressor, lzo1xDecompress } from './lzo1x.ts';

const ROUNDS = 500;
const SRC = 1000;
const DST = 5000;

interface Range {
  begin: number;
  end: number;
}

/**
 * Memory that is asked for nothing but what is in two ranges; only the second may be written to.
 */
class WatchedBytes {
  readonly src: Range = { begin: 0, end: 0 };
  readonly dst: Range = { begin: 0, end: 0 };
  readonly bytes: Bytes;
  readonly memory: Uint8Array;

  constructor() {
    const real = new Bytes(new SharedArrayBuffer(16384));
    this.memory = real.u8;
    const read = (at: number, len: number): void => {
      if (len > 0 && !isIn(this.src, at, len) && !isIn(this.dst, at, len)) fail('read', at, len);
    };
    const write = (at: number, len: number): void => {
      if (len > 0 && !isIn(this.dst, at, len)) fail('write', at, len);
    };
    const methods: Record<string, unknown> = {
      copyWithin(to: number, from: number, end: number): void {
        read(from, end - from);
        write(to, end - from);
        real.u8.copyWithin(to, from, end);
      },
      fill(value: number, from: number, to: number): void {
        write(from, to - from);
        real.u8.fill(value, from, to);
      },
    };
    const u8 = new Proxy(real.u8, {
      get(target, key) {
        if (typeof key !== 'string' || !/^-?\d+$/.test(key)) return methods[String(key)];
        read(Number(key), 1);
        return target[Number(key)];
      },
      set(target, key, value) {
        write(Number(key), 1);
        target[Number(key)] = value as number;
        return true;
      },
    });
    const view = {
      getInt32(at: number): number {
        read(at, 4);
        return real.view.getInt32(at, true);
      },
      setInt32(at: number, value: number): void {
        write(at, 4);
        real.view.setInt32(at, value, true);
      },
    };
    this.bytes = { u8, view: view as unknown as DataView };
  }

  set(data: Uint8Array, room: number): void {
    Object.assign(this.src, { begin: SRC, end: SRC + data.length });
    Object.assign(this.dst, { begin: DST, end: DST + room });
    // What is behind the source looks as if it went on.
    this.memory.fill(0x41, SRC, DST);
    this.memory.set(data, SRC);
  }
}

function isIn({ begin, end }: Range, at: number, len: number): boolean {
  return at >= begin && at + len <= end;
}

function fail(what: string, at: number, len: number): never {
  assert.fail(`${what} of ${len} bytes at ${at}; the source is at ${SRC}, the room at ${DST}`);
}

for (const name of ['lz4', 'lzo'] as const) {
  test(`${name} keeps to its ranges, LAMINA_SEED=${SEED}`, () => {
    const prng = new Prng(SEED);
    const watched = new WatchedBytes();
    const { bytes } = watched;
    const compressor = name === 'lz4' ? new Lz4Compressor(bytes) : new Lzo1xCompressor(bytes);
    const decompress = name === 'lz4' ? lz4Decompress : lzo1xDecompress;
    for (let round = 0; round < ROUNDS; round++) {
      const data = sampleData(prng, prng.between(1, prng.chance(0.1) ? 3000 : 300));
      watched.set(data, data.length + 100);
      const size = compressor.compress(SRC, data.length, DST, data.length + 100);
      const packed = watched.memory.slice(DST, DST + size);
      const scarce = prng.below(size + 1);
      watched.set(data, scarce);
      compressor.compress(SRC, data.length, DST, scarce);
      watched.set(packed, data.length);
      assert.equal(decompress(bytes, SRC, size, DST, data.length), data.length);
      for (let k = 0; k < 4; k++) {
        const cut = packed.slice(0, prng.chance(0.5) ? size : prng.below(size));
        if (k > 1 && cut.length > 0) cut[prng.below(cut.length)] = prng.below(256);
        const room = prng.below(data.length * 2);
        watched.set(cut, room);
        decompress(bytes, SRC, cut.length, DST, room);
      }
    }
  });
}
