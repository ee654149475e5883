// Streams of LZ4 and LZO1X written by hand from the formats' descriptions, right ones and wrong
// ones: what the built-in decoders make of each.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CodecMemory } from '../testing/codec-samples.ts';
import { type Codec, type CodecName, implementationsOf, openCodec } from './codec.ts';

const ROOM = 1000;
const space = new CodecMemory(4096);

/** A stream in hexadecimal, and what it says; null when it is damaged. */
type Case = readonly [stream: string, expected: string | null];

/**
 * What is behind a range must not matter: neither what would go on with the stream, nor anything
 * else.
 */
function checkCuts(codec: Codec, packed: Buffer): void {
  for (let cut = 0; cut < packed.length; cut++) {
    const rest = packed.length - cut;
    const behind = [packed.subarray(cut), Buffer.alloc(rest), Buffer.alloc(rest, 255)];
    const results = behind.map((more) => {
      const src = space.atEnd(packed.length).set(Buffer.concat([packed.subarray(0, cut), more]));
      const dst = space.low(ROOM);
      const bytes = codec.decompress(src.at, cut, dst.at, ROOM);
      return bytes < 0 ? null : dst.get(bytes).toString('latin1');
    });
    const what = `${packed.toString('hex')} cut to ${cut} by ${codec.origin}`;
    const src = space.atEnd(cut).set(packed.subarray(0, cut));
    const dst = space.low(ROOM);
    const bytes = codec.decompress(src.at, cut, dst.at, ROOM);
    const alone = bytes < 0 ? null : dst.get(bytes).toString('latin1');
    assert.deepEqual(results, [alone, alone, alone], what);
  }
}

function check(name: CodecName, cases: readonly Case[], implementations = ['own']): void {
  for (const implementation of implementationsOf(name)) {
    if (!implementations.includes(implementation)) continue;
    const codec = openCodec(name, undefined, space.memory, { implementation });
    for (const [stream, expected] of cases) {
      const packed = Buffer.from(stream.replaceAll(' ', ''), 'hex');
      checkCuts(codec, packed);
      // The room is just enough, and then more than that.
      for (const room of [expected?.length ?? ROOM, ROOM]) {
        const [src, dst] = [space.atEnd(packed.length).set(packed), space.low(room)];
        const bytes = codec.decompress(src.at, packed.length, dst.at, room);
        dst.check(stream);
        const text = bytes < 0 ? null : dst.get(bytes).toString('latin1');
        assert.equal(text, expected, `${stream} by ${codec.origin}`);
      }
      if (expected === null || expected === '') continue;
      const less = space.low(expected.length - 1);
      const src = space.atEnd(packed.length).set(packed);
      const bytes = codec.decompress(src.at, packed.length, less.at, expected.length - 1);
      assert.equal(bytes, -1, `${stream}: one byte too many`);
      less.check(stream);
    }
  }
}

const TAIL = '50 6162636465';
const TAIL_TEXT = 'abcde';

test('LZ4 blocks, of every implementation', () => {
  const cases: readonly Case[] = [
    ['00', ''],
    ['10 41', 'A'],
    [`14 41 0100 ${TAIL}`, `${'A'.repeat(9)}${TAIL_TEXT}`],
    [`3f 414243 0300 05 ${TAIL}`, `ABC${'ABC'.repeat(8)}${TAIL_TEXT}`],
    [`1f 41 0100 ff00 ${TAIL}`, `A${'A'.repeat(274)}${TAIL_TEXT}`],
    [`f0 01 ${'41'.repeat(16)}`, 'A'.repeat(16)],
    ['', null],
    // Literals, a length and a distance that are cut off.
    ['20 41', null],
    ['f0', null],
    ['f0 ff', null],
    ['10 41 01', null],
    ['14 41 01', null],
    ['1f 41 0100', null],
    ['1f 41 0100 ff', null],
    // A distance before the first byte.
    [`14 41 0200 ${TAIL}`, null],
    [`04 0100 ${TAIL}`, null],
    // No literals behind the last match.
    ['14 41 0100', null],
    // More than there is room for.
    [`1f 41 0100 ffffffffff00 ${TAIL}`, null],
    [`f0 ${'ff'.repeat(4)}00 ${'41'.repeat(1035)}`, null],
  ];
  check('lz4', cases, ['own', 'library']);
  // A distance of 0, which liblz4 takes for zeroes.
  check('lz4', [[`14 41 0000 ${TAIL}`, null]]);
});

test('LZO1X streams', () => {
  const end = '11 0000';
  const cases: readonly Case[] = [
    [end, ''],
    [`12 41 ${end}`, 'A'],
    [`14 414243 ${end}`, 'ABC'],
    [`15 41424344 ${end}`, 'ABCD'],
    [`01 41424344 ${end}`, 'ABCD'],
    [`00 01 ${'41'.repeat(19)} ${end}`, 'A'.repeat(19)],
    [`00 0001 ${'41'.repeat(274)} ${end}`, 'A'.repeat(274)],
    // Two bytes from near by, behind one literal; then with one more literal behind it.
    [`12 41 00 00 ${end}`, 'AAA'],
    [`12 41 01 00 42 ${end}`, 'AAAB'],
    [`14 414243 08 00 ${end}`, 'ABCAB'],
    // Three and eight bytes, distance 4.
    [`15 41424344 4c 00 ${end}`, 'ABCDABC'],
    [`15 41424344 ec 00 ${end}`, 'ABCDABCDABCD'],
    [`15 41424344 4d 00 45 ${end}`, 'ABCDABCE'],
    // The same with 14 bits of distance, and long.
    [`15 41424344 21 0c00 ${end}`, 'ABCDABC'],
    [`15 41424344 20 0001 0000 ${end}`, `ABCD${'D'.repeat(289)}`],
    ['', null],
    ['11', null],
    ['11 00', null],
    ['12 41', null],
    ['12 41 11 00', null],
    ['17 4142', null],
    ['00 0000', null],
    ['15 41424344 4c', null],
    ['15 41424344 20 0000', null],
    ['15 41424344 21 0c', null],
    [`15 41424344 4f 00 45`, null],
    // A byte behind the end.
    [`12 41 ${end} 00`, null],
    // Before the first byte, in each way.
    [`12 41 04 00 ${end}`, null],
    [`15 41424344 00 00 ${end}`, null],
    [`15 41424344 50 00 ${end}`, null],
    [`15 41424344 21 1000 ${end}`, null],
    [`15 41424344 11 0400 ${end}`, null],
    [`40 00 ${end}`, null],
    // More than there is room for.
    [`15 41424344 20 000000000001 0000 ${end}`, null],
    [`00 00000000 01 ${'41'.repeat(1039)} ${end}`, null],
  ];
  check('lzo', cases);
});

test('what begins like zstd and is not one frame is refused', () => {
  const cases: readonly Case[] = [
    // "A" as a raw block, content size 1.
    ['28b52ffd 20 01 090000 41', 'A'],
    // Without the content's size.
    ['28b52ffd 00 00 090000 41', 'A'],
    ['28b52ffd 20 01 090000 41 00', null],
    ['28b52ffd 20 01 090000 41 28b52ffd 20 01 090000 41', null],
    ['502a4d18 00000000 28b52ffd 20 01 090000 41', null],
    ['502a4d18 00000000', null],
    ['28b52ffd 20 02 090000 41', null],
    ['28b52f', null],
    // A window of 2^41 bytes, content of 2^60.
    ['28b52ffd 00 f8 090000', null],
    ['28b52ffd e0 0000000000000010 090000 41', null],
    ['24b52ffd 20 01 090000 41', null],
  ];
  check('zstd', cases, ['node', 'library']);
});
