// Every codec by way of every implementation there is here: each reads what each wrote, room is
// kept to, and damaged input does no harm.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { CodecMemory, sampleData } from '../testing/codec-samples.ts';
import { SEED } from '../testing/seed.ts';
import {
  CODEC_NAMES,
  type Codec,
  type CodecName,
  type CodecOptions,
  implementationsOf,
  openCodec,
} from './codec.ts';

const FILE = 'dist/src/codec/codec.test.js';
console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test ${FILE}`);

const LONG = [4096, 8192, 16384, 32768, 65536, 131072] as const;
const BYTES_MAX = 131072;
/** Levels to write with, besides the usual one. */
const LEVELS: Readonly<Record<string, readonly number[]>> = {
  lz4: [1, 4, 12],
  zstd: [1, 9, 19],
  deflate: [1, 9],
  lzo: [],
};
const DAMAGES = 3000;

const space = new CodecMemory(BYTES_MAX * 2);

function label(codec: Codec): string {
  return `${codec.name} by ${codec.origin}`;
}

function all(name: CodecName, level?: number, options: CodecOptions = {}): Codec[] {
  return implementationsOf(name).map((implementation) =>
    openCodec(name, level, space.memory, { ...options, implementation }),
  );
}

/** Enough for anything that any of the formats makes of `lenBytes`. */
function roomFor(lenBytes: number): number {
  return lenBytes + (lenBytes >> 3) + 512;
}

function compress(codec: Codec, data: Uint8Array, room = roomFor(data.length)): Buffer {
  const dst = space.low(room, data.length % 7);
  const src = space.atEnd(data.length).set(data);
  const bytes = codec.compress(src.at, data.length, dst.at, room);
  const what = `${label(codec)}: ${data.length} bytes into ${room}`;
  dst.check(what);
  src.check(what);
  assert.ok(src.get(data.length).equals(data), `${what}: the source changed`);
  assert.ok(bytes >= 0 && bytes <= room, `${what}: ${bytes} written`);
  return dst.get(bytes);
}

/**
 * The output, or null for damaged input. Both ranges are at the end of the memory, one after the
 * other.
 */
function decompress(codec: Codec, packed: Uint8Array, room: number): Buffer | null {
  const what = `${label(codec)}: ${packed.length} bytes into room for ${room}`;
  const dst = space.low(room, packed.length % 5);
  const src = space.atEnd(packed.length).set(packed);
  const bytes = codec.decompress(src.at, packed.length, dst.at, room);
  dst.check(what);
  src.check(what);
  assert.ok(src.get(packed.length).equals(packed), `${what}: the source changed`);
  assert.ok(Number.isInteger(bytes) && bytes >= -1 && bytes <= room, `${what}: ${bytes}`);
  return bytes < 0 ? null : dst.get(bytes);
}

function lengths(prng: Prng): number[] {
  const short = Array.from({ length: 40 }, (_, i) => i + 1);
  const middle = Array.from({ length: 40 }, () => prng.between(41, 4200));
  return [...short, ...middle, ...LONG];
}

for (const name of CODEC_NAMES) {
  describe(`${name}, LAMINA_SEED=${SEED}`, () => {
    test('every implementation reads what every other wrote', () => {
      const prng = new Prng(SEED);
      const readers = all(name);
      const writers = [undefined, ...(LEVELS[name] ?? [])].flatMap((level) => all(name, level));
      assert.ok(readers.length > 0, 'nothing does it here');
      for (const lenBytes of lengths(prng)) {
        const data = sampleData(prng, lenBytes);
        for (const writer of writers) {
          const packed = compress(writer, data);
          assert.ok(packed.length > 0, `${label(writer)}: ${lenBytes} bytes do not fit`);
          for (const reader of readers) {
            const what = `${label(reader)} reads ${lenBytes} bytes of ${label(writer)}`;
            assert.ok(decompress(reader, packed, lenBytes)?.equals(data), what);
            assert.ok(decompress(reader, packed, lenBytes + 100)?.equals(data), what);
            assert.equal(decompress(reader, packed, lenBytes - 1), null, `${what}: one too many`);
          }
        }
      }
    });

    test('a codec makes the same of the same data, whatever it did before', () => {
      const prng = new Prng(SEED + 1);
      for (const [i, codec] of all(name).entries()) {
        const data = sampleData(prng, 9000);
        const first = compress(codec, data);
        for (let k = 0; k < 5; k++) compress(codec, sampleData(prng, prng.between(1, 20000)));
        assert.ok(compress(codec, data).equals(first), `${label(codec)} after others`);
        assert.ok(compress(all(name)[i] as Codec, data).equals(first), `${label(codec)}, new`);
      }
    });

    test('what does not fit is 0, and room is never exceeded', () => {
      const prng = new Prng(SEED + 2);
      for (const codec of all(name)) {
        for (let round = 0; round < 60; round++) {
          const data = sampleData(prng, prng.between(1, 6000));
          const need = compress(codec, data).length;
          const rooms = [0, 1, need >> 1, need - 1, need, need + 1, need + 40];
          for (const room of rooms) {
            const packed = compress(codec, data, room);
            // Native code may want a little more than it fills, and may find another way where
            // room is scarce.
            if (codec.origin === 'built in') {
              assert.equal(packed.length, room < need ? 0 : need, `${label(codec)} in ${room}`);
            }
            if (packed.length === 0) continue;
            assert.ok(decompress(codec, packed, data.length)?.equals(data), label(codec));
          }
        }
      }
    });

    test('data that cannot be compressed does not fit into less than a sector below', () => {
      const prng = new Prng(SEED + 3);
      const data = new Uint8Array(65536);
      prng.fill(data);
      for (const codec of all(name)) assert.equal(compress(codec, data, 65024).length, 0);
    });

    test('damaged and random input does no harm', () => {
      const prng = new Prng(SEED + 4);
      for (const codec of all(name)) {
        let refused = 0;
        for (let round = 0; round < DAMAGES; round++) {
          const lenBytes = prng.between(1, prng.chance(0.1) ? 8192 : 300);
          const good = compress(codec, sampleData(prng, lenBytes));
          const bad = damage(prng, good);
          for (const room of [lenBytes, prng.below(lenBytes + 1), lenBytes * 3]) {
            if (decompress(codec, bad, room) === null) refused++;
          }
        }
        assert.ok(refused > DAMAGES / 3, `${label(codec)} refused only ${refused}`);
      }
    });

    test('a little that says it is a lot is refused, without the lot', () => {
      const data = new Uint8Array(BYTES_MAX);
      for (const writer of all(name)) {
        const packed = compress(writer, data);
        for (const reader of all(name)) {
          assert.equal(decompress(reader, packed, 4096), null, label(reader));
          for (const byte of [0, 1, 0x1f, 0xff]) {
            const same = new Uint8Array(BYTES_MAX).fill(byte);
            decompress(reader, same, 4096);
            same.set(packed.subarray(0, 12));
            decompress(reader, same, 4096);
          }
        }
      }
    });

    test('nothing at all is damaged, and every cut is', () => {
      const prng = new Prng(SEED + 5);
      const data = sampleData(prng, 700);
      for (const codec of all(name)) {
        const packed = compress(codec, data);
        for (let cut = 0; cut < packed.length; cut++) {
          const out = decompress(codec, packed.subarray(0, cut), data.length);
          assert.ok(out === null || out.length < data.length, `${label(codec)} cut to ${cut}`);
        }
        assert.equal(decompress(codec, new Uint8Array(0), 100), null, label(codec));
      }
    });
  });
}

/** Cut, with bits turned, with bytes replaced, or another thing altogether. */
function damage(prng: Prng, good: Buffer): Uint8Array {
  const bad = Uint8Array.from(good);
  const kind = prng.below(4);
  if (kind === 0) return bad.subarray(0, prng.below(bad.length));
  if (kind === 1) {
    for (let n = prng.between(1, 3); n > 0; n--) {
      const at = prng.below(bad.length);
      bad[at] = (bad[at] as number) ^ (1 << prng.below(8));
    }
  } else if (kind === 2) {
    const from = prng.below(bad.length);
    prng.fill(bad.subarray(from, from + prng.between(1, 8)));
  } else {
    // What a format begins with stays now and then, or nothing would come further.
    prng.fill(bad.subarray(prng.chance(0.5) ? Math.min(bad.length, 6) : 0));
  }
  return bad;
}

test('an unknown codec, a level out of range and an absent implementation are refused by name', () => {
  const open =
    (name: string, level?: number, options: CodecOptions = {}) =>
    () =>
      openCodec(name as CodecName, level, space.memory, options);
  const refusal = (message: RegExp) => (error: unknown) =>
    error instanceof DmError && message.test(error.message);
  assert.throws(open('snappy'), refusal(/codec 'snappy': need one of lz4/));
  for (const level of [0, 13, 1.5, Number.NaN, -1]) {
    assert.throws(open('lz4', level), refusal(/codec lz4: level .*: need a whole number 1 to 12/));
  }
  assert.throws(
    open('lz4', 1, { implementation: 'zlib' }),
    refusal(/codec lz4: by way of 'zlib': need one of .*own/),
  );
});
