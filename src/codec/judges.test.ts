// What others say of the formats: each reads what was written here, and what it writes is read
// here. A judge that is not installed is skipped.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, type TestContext, test } from 'node:test';
import koffi from 'koffi';
import { Prng } from '../base/prng.ts';
import { CodecMemory, sampleData } from '../testing/codec-samples.ts';
import { SEED } from '../testing/seed.ts';
import { type Codec, type CodecName, implementationsOf, openCodec } from './codec.ts';

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/src/codec/judges.test.js`);

const folder = mkdtempSync(join(tmpdir(), 'lamina-judges-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const BYTES_MAX = 131072;
const space = new CodecMemory(BYTES_MAX * 2);

function all(name: CodecName, windowBits = 15): Codec[] {
  return implementationsOf(name).map((implementation) =>
    openCodec(name, undefined, space.memory, { implementation, windowBits }),
  );
}

function compress(codec: Codec, data: Uint8Array): Buffer {
  const room = data.length + (data.length >> 3) + 64;
  const [src, dst] = [space.atEnd(data.length).set(data), space.low(room)];
  return dst.get(codec.compress(src.at, data.length, dst.at, room));
}

function decompress(codec: Codec, packed: Uint8Array, lenBytes: number): Buffer {
  const [src, dst] = [space.atEnd(packed.length).set(packed), space.low(lenBytes)];
  const bytes = codec.decompress(src.at, packed.length, dst.at, lenBytes);
  assert.equal(bytes, lenBytes, `${codec.name} by ${codec.origin}`);
  return dst.get(bytes);
}

function samples(count: number, long: readonly number[] = [4096, 65536, BYTES_MAX]): Buffer[] {
  const prng = new Prng(SEED);
  const lengths = Array.from({ length: count }, () => prng.between(1, 4200));
  return [...lengths, ...long].map((len) => Buffer.from(sampleData(prng, len)));
}

/**
 * Runs a program over a file; what it says, or null (and the test is skipped) where there is none.
 */
function run(t: TestContext, words: readonly string[], input: Uint8Array): Buffer | null {
  const [program = '', ...args] = words;
  const file = join(folder, 'input');
  writeFileSync(file, input);
  const result = spawnSync(program, [...args, file], { maxBuffer: 1 << 24 });
  if (result.error !== undefined) {
    t.skip(`no ${program}`);
    return null;
  }
  assert.equal(result.status, 0, `${words.join(' ')}: ${result.stderr.toString()}`);
  return result.stdout;
}

/** Whether one implementation and a program, in each direction, agree on the samples. */
function compare(
  t: TestContext,
  name: CodecName,
  unpack: readonly string[],
  wrap: (packed: Buffer, data: Buffer) => Buffer,
  pack: readonly string[],
  unwrap: (file: Buffer) => Buffer,
  datas: readonly Buffer[] = samples(6),
): void {
  for (const data of datas) {
    for (const codec of all(name)) {
      const out = run(t, unpack, wrap(compress(codec, data), data));
      if (out === null) return;
      assert.ok(out.equals(data), `${unpack[0]} reads ${data.length} bytes of ${codec.origin}`);
    }
    const file = run(t, pack, data);
    if (file === null) return;
    for (const codec of all(name)) {
      const out = decompress(codec, unwrap(file), data.length);
      assert.ok(out.equals(data), `${codec.origin} reads ${data.length} bytes of ${pack[0]}`);
    }
  }
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

test(`lz4, the program, LAMINA_SEED=${SEED}`, (t) => {
  // The old frame: a magic number, then blocks with their length.
  const wrap = (packed: Buffer): Buffer =>
    Buffer.concat([u32(0x184c2102), u32(packed.length), packed]);
  const unwrap = (file: Buffer): Buffer => file.subarray(8, 8 + file.readUInt32LE(4));
  compare(t, 'lz4', ['lz4', '-dc'], wrap, ['lz4', '-lc'], unwrap);
});

test(`zstd, the program, LAMINA_SEED=${SEED}`, (t) => {
  const same = (bytes: Buffer): Buffer => bytes;
  for (const level of ['-3', '-19', '--fast=5']) {
    const pack = ['zstd', '-q', '-c', '--no-check', level];
    compare(t, 'zstd', ['zstd', '-q', '-dc'], same, pack, same);
  }
});

const INFLATE = `
import sys, zlib
sys.stdout.buffer.write(zlib.decompressobj(-int(sys.argv[1])).decompress(open(sys.argv[2], 'rb').read()))
`;
const DEFLATE = `
import sys, zlib
c = zlib.compressobj(9, zlib.DEFLATED, -int(sys.argv[1]))
sys.stdout.buffer.write(c.compress(open(sys.argv[2], 'rb').read()) + c.flush())
`;

test(`the zlib of Python, LAMINA_SEED=${SEED}`, (t) => {
  const same = (bytes: Buffer): Buffer => bytes;
  const python = (code: string): string[] => ['python3', '-c', code, '15'];
  // Python takes a while to start.
  const few = samples(0, [4096, BYTES_MAX]);
  compare(t, 'deflate', python(INFLATE), same, python(DEFLATE), same, few);
});

test('a window of 11 bits is kept to', (t) => {
  // What is 2500 bytes back may be referred to with the usual window only.
  const prng = new Prng(SEED);
  const piece = new Uint8Array(2500);
  prng.fill(piece);
  const data = Buffer.concat([piece, piece, piece]);
  for (const codec of all('deflate', 11)) {
    const packed = compress(codec, data);
    assert.ok(packed.length > data.length * 0.9, `${codec.origin}: ${packed.length} bytes`);
    const out = run(t, ['python3', '-c', INFLATE, '11'], packed);
    if (out === null) return;
    assert.ok(out.equals(data));
  }
  for (const codec of all('deflate')) assert.ok(compress(codec, data).length < data.length * 0.4);
});

type Lzo2Call = (
  src: Uint8Array,
  len: number,
  dst: Uint8Array,
  out: BigUint64Array,
  work: Uint8Array | null,
) => number;

/** The functions of liblzo2, which is tested against and not a part of this. */
interface Lzo2 {
  readonly compress: Lzo2Call;
  readonly hard: Lzo2Call;
  readonly decompress: Lzo2Call;
}

function lzo2(): Lzo2 | null {
  try {
    const library = koffi.load('liblzo2.so.2');
    const find = (name: string): unknown =>
      library.func(
        `int ${name}(const uint8_t *src, size_t len, _Out_ uint8_t *dst, _Inout_ uint64_t *out, uint8_t *work)`,
      );
    return {
      compress: find('lzo1x_1_compress'),
      hard: find('lzo1x_999_compress'),
      decompress: find('lzo1x_decompress_safe'),
    } as Lzo2;
  } catch {
    return null;
  }
}

test(`liblzo2, LAMINA_SEED=${SEED}`, (t) => {
  const library = lzo2();
  if (library === null) {
    t.skip('no liblzo2');
    return;
  }
  const work = new Uint8Array(1 << 20);
  const [codec] = all('lzo') as [Codec];
  for (const data of samples(300)) {
    const packed = compress(codec, data);
    const out = Buffer.alloc(data.length);
    const size = new BigUint64Array([BigInt(out.length)]);
    assert.equal(library.decompress(packed, packed.length, out, size, null), 0, 'liblzo2 reads');
    assert.equal(Number(size[0]), data.length);
    assert.ok(out.equals(data), `liblzo2 reads ${data.length} bytes`);
    for (const pack of [library.compress, library.hard]) {
      const theirs = Buffer.alloc(data.length * 2 + 64);
      size[0] = BigInt(theirs.length);
      assert.equal(pack(data, data.length, theirs, size, work), 0);
      const mine = decompress(codec, theirs.subarray(0, Number(size[0])), data.length);
      assert.ok(mine.equals(data), `${data.length} bytes of liblzo2`);
    }
  }
});

test('damaged LZO is refused where liblzo2 refuses it, and read as it reads it', (t) => {
  const library = lzo2();
  if (library === null) {
    t.skip('no liblzo2');
    return;
  }
  const prng = new Prng(SEED + 1);
  const [codec] = all('lzo') as [Codec];
  const work = new Uint8Array(1 << 20);
  let [read, refused] = [0, 0];
  for (let round = 0; round < 4000; round++) {
    const data = Buffer.from(sampleData(prng, prng.between(1, 200)));
    const theirs = Buffer.alloc(data.length * 2 + 64);
    const size = new BigUint64Array([BigInt(theirs.length)]);
    library.hard(data, data.length, theirs, size, work);
    const packed = theirs.subarray(0, Number(size[0]));
    for (let n = prng.below(3); n > 0; n--) packed[prng.below(packed.length)] = prng.below(256);
    const room = data.length + prng.below(40);
    const out = Buffer.alloc(room);
    size[0] = BigInt(room);
    const status: number = library.decompress(packed, packed.length, out, size, null);
    const [src, dst] = [space.atEnd(packed.length).set(packed), space.low(room)];
    const bytes = codec.decompress(src.at, packed.length, dst.at, room);
    const what = `round ${round}, LAMINA_SEED=${SEED}: ${packed.toString('hex')} into ${room}`;
    assert.equal(bytes, status === 0 ? Number(size[0]) : -1, `${what}: ${status}`);
    if (bytes >= 0) assert.ok(dst.get(bytes).equals(out.subarray(0, bytes)), what);
    if (bytes < 0) refused++;
    else read++;
  }
  assert.ok(read > 500 && refused > 500, `${read} read, ${refused} refused`);
});

test('lzop, the program', (t) => {
  const data = readFileSync(new URL(import.meta.url));
  const file = run(t, ['lzop', '-1', '-c', '--no-checksum', '--no-name'], data);
  if (file === null) return;
  // 9 bytes of magic; versions (6), method, level, flags (4), mode (4), times (8); the name, a
  // checksum.
  const name = 9 + 6 + 2 + 4 + 4 + 8;
  const blocks = name + 1 + (file[name] as number) + 4;
  const [whole, packed] = [file.readUInt32BE(blocks), file.readUInt32BE(blocks + 4)];
  assert.equal(whole, data.length);
  const body = blocks + 8;
  const [codec] = all('lzo') as [Codec];
  assert.ok(decompress(codec, file.subarray(body, body + packed), whole).equals(data));
  const own = compress(codec, data);
  const sizes = Buffer.alloc(8);
  sizes.writeUInt32BE(data.length, 0);
  sizes.writeUInt32BE(own.length, 4);
  const mine = Buffer.concat([file.subarray(0, blocks), sizes, own, Buffer.alloc(4)]);
  const named = join(folder, 'mine.lzo');
  writeFileSync(named, mine);
  const result = spawnSync('lzop', ['-dc', named], { maxBuffer: 1 << 24 });
  assert.equal(result.status, 0, result.stderr.toString());
  assert.ok(result.stdout.equals(data));
});
