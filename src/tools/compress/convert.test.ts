// Conversions: what is made has what the source had, also of one that was killed, or lost its power, at any moment, as
// often as one likes; and until it is whole it is no volume.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { CODEC_NAMES, type CodecName, implementationsOf } from '../../codec/codec.ts';
import { diskSectorsFor, findSuperblock } from '../../targets/insitu-comp/superblock.format.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { sampleData } from '../../testing/codec-samples.ts';
import { drawOldDisk, OLD_CODECS, oldSizes } from '../../testing/insitu-old-disk.ts';
import { Killed, MemoryImage } from '../../testing/memory-image.ts';
import { SEED } from '../../testing/seed.ts';
import { makeLab } from '../../testing/sim/lab.ts';
import { type CheckResult, checkVolume } from './check.ts';
import { convert, type Converted, deviceSectors } from './convert.ts';
import { type ConvertSource, OldSource, RawSource } from './convert-source.ts';
import { readSuperblocks } from './image.ts';
import { findOldFormat } from './old-image.ts';

const ROUNDS = Number(process.env['LAMINA_STORMS'] ?? 8) * 2;
const REGION_BYTES = 131072;
const CODECS = CODEC_NAMES.filter((name) => implementationsOf(name).length > 0);
/** Bytes of a volume that are errors. */
type Lost = readonly { readonly offsetBytes: number; readonly lenBytes: number }[];

interface Case {
  /** A new one each time, as a new process would have. */
  readonly open: () => Promise<ConvertSource>;
  readonly data: Buffer;
}

function rawCase(prng: Prng): Case {
  const data = Buffer.alloc(prng.between(1, 40 * 256) * 512);
  for (let at = 0; at < data.length; ) {
    const len = Math.min(data.length - at, prng.between(1, 64) * 4096);
    if (prng.chance(0.7)) data.set(sampleData(prng, len), at);
    at += len;
  }
  const io = new MemoryImage(Uint8Array.from(data));
  io.isReadOnly = true;
  return { data, open: async () => await Promise.resolve(new RawSource(io)) };
}

function oldCase(prng: Prng): Case {
  const sectors = 8 * prng.between(3, 1000);
  const { bytes, data } = drawOldDisk(prng, sectors, prng.pick(OLD_CODECS), sampleData);
  const io = new MemoryImage(bytes);
  io.isReadOnly = true;
  return {
    data,
    open: async () => {
      const format = await findOldFormat(io);
      assert.ok(format !== undefined);
      return new OldSource(io, format);
    },
  };
}

/** So fast that all is written down as often as can be. */
function makeClock(): () => number {
  let ms = 0;
  return () => (ms += 10_000);
}

/** The device of a volume, block by block. */
async function readVolume(
  bytes: Uint8Array,
  lenSectors: number,
  blockBytes: number,
): Promise<(Buffer | Status)[]> {
  const lab = makeLab({ seed: SEED });
  const limits = { logicalBlockBytes: blockBytes };
  lab.addDisk({ name: 'test:a', lenSectors: bytes.length / 512, limits, image: bytes.slice() });
  const { scheduler, dm, arena } = lab;
  const table = `0 ${lenSectors} insitu_comp test:a writethrough`;
  await scheduler.settle(dm.create({ name: 'd', table }));
  const open = await dm.openDevice('d');
  const driver = new BioDriver(open.device, arena);
  const blocks: (Buffer | Status)[] = [];
  for (let at = 0; at < lenSectors; at += 8) {
    blocks.push(await scheduler.settle(driver.tryRead(at * 512, 4096)));
  }
  await scheduler.settle(Promise.resolve(open.close()));
  await scheduler.settle(dm.close());
  assert.deepEqual(lab.violations, []);
  return blocks;
}

async function checkMade(
  target: MemoryImage,
  source: ConvertSource,
  data: Buffer,
  lost: Lost,
): Promise<void> {
  const found = await checkVolume(target);
  assert.ok(typeof found !== 'string', typeof found === 'string' ? found : '');
  assert.deepEqual(
    found.faults.map(({ kind, ranges }) => [kind, ranges]),
    lost.map((range) => ['payload', [range]]),
  );
  const sectors = deviceSectors(source);
  const blocks = await readVolume(target.bytes, sectors, target.blockBytes);
  const whole = Buffer.alloc(sectors * 512);
  whole.set(data);
  for (const [b, block] of blocks.entries()) {
    const at = b * 4096;
    const isLost = lost.some((r) => at >= r.offsetBytes && at < r.offsetBytes + r.lenBytes);
    if (isLost) assert.equal(block, Status.Io, `block ${b}`);
    else assert.deepEqual(block, whole.subarray(at, at + 4096), `block ${b}`);
  }
}

function makeTarget(prng: Prng, source: ConvertSource): MemoryImage {
  const regions = Math.ceil(source.sizeBytes / REGION_BYTES);
  const blockBytes = prng.pick([512, 4096]);
  const more = prng.pick([0, 0, 8, 5000 * 8]);
  return new MemoryImage(new Uint8Array((diskSectorsFor(regions) + more) * 512), blockBytes);
}

for (const codec of CODECS) {
  test(`${codec}: an image, and a volume of version 1, LAMINA_SEED=${SEED}`, async () => {
    for (let n = 0; n < 4; n++) {
      const prng = new Prng(SEED + n);
      const of = n % 2 === 0 ? rawCase(prng) : oldCase(prng);
      const source = await of.open();
      const target = makeTarget(prng, source);
      const made = await convert('test', source, target, { codec, level: 0, nowMs: makeClock() });
      assert.equal(made.resumedRegions, 0);
      assert.deepEqual(made.lost, []);
      await checkMade(target, source, of.data, []);
      assert.ok(made.physicalBytes <= made.logicalBytes);
    }
  });
}

/** The volume that was on the disk before. */
type Before = {
  readonly uuid: Uint8Array;
  readonly source: ConvertSource;
  readonly data: Buffer;
} | null;

/** Runs until nobody kills it. What was resumed last. */
async function runKilled(
  prng: Prng,
  of: Case,
  first: MemoryImage,
  codec: CodecName,
  before: Before,
): Promise<{ made: Converted; target: MemoryImage; source: ConvertSource; resumes: number }> {
  let target = first;
  let resumes = 0;
  for (;;) {
    const source = await of.open();
    target.killAfter = prng.chance(0.15)
      ? Number.POSITIVE_INFINITY
      : prng.below(prng.pick([4, 30, 100]));
    try {
      const made = await convert('test', source, target, { codec, level: 0, nowMs: makeClock() });
      if (made.resumedRegions > 0) resumes++;
      return { made, target, source, resumes };
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
    }
    // A process that is killed leaves all it wrote; a power failure any of it that was not flushed.
    const left = prng.chance(0.5) ? target.bytes : target.powerCut(prng);
    target = new MemoryImage(left, first.blockBytes);
    const found = await readSuperblocks(target);
    if (typeof found !== 'string') {
      const isOld = before !== null && Buffer.compare(found.format.uuid, before.uuid) === 0;
      await checkAlmost(target, isOld ? before.source : source, isOld ? before.data : of.data);
    } else assert.match(found, /conversion to it has not ended|4096 zeroes|begins with/);
  }
}

/** There is a superblock, or its copy: then all of the volume is there. */
async function checkAlmost(
  target: MemoryImage,
  source: ConvertSource,
  data: Buffer,
): Promise<void> {
  const found = await checkVolume(target);
  assert.ok(typeof found !== 'string');
  assert.ok(found.faults.every(({ kind }) => kind === 'superblock' || kind === 'copy'));
  const whole = target.bytes.slice();
  const copyAt = (found.format.layout.spillSector + found.format.layout.spillUnits * 8) * 512;
  if (found.superblocks.firstComplaint !== undefined) {
    whole.set(target.bytes.subarray(copyAt, copyAt + 4096), 0);
  }
  const blocks = await readVolume(whole, deviceSectors(source), target.blockBytes);
  const read = Buffer.concat(blocks as Buffer[]);
  assert.deepEqual(read.subarray(0, data.length), data);
}

test(`killed at any moment, ${ROUNDS} conversions, LAMINA_SEED=${SEED}`, async () => {
  let resumes = 0;
  for (let n = 0; n < ROUNDS; n++) {
    const prng = new Prng(SEED + n);
    const of = prng.chance(0.5) ? rawCase(prng) : oldCase(prng);
    const first = makeTarget(prng, await of.open());
    // What was there before comes to nothing, but not before the first block says so.
    let before: Before = null;
    if (prng.chance(0.5)) {
      const { data, open } = rawCase(prng);
      if (data.length <= of.data.length) {
        const source = await open();
        const { format } = await convert('test', source, first, {
          codec: 'lz4',
          level: 0,
          nowMs: makeClock(),
        });
        before = { uuid: format.uuid, source, data };
      } else prng.fill(first.bytes);
    }
    const target = new MemoryImage(first.bytes, first.blockBytes);
    target.canDiscard = prng.chance(0.5);
    const result = await runKilled(prng, of, target, prng.pick(CODECS), before);
    resumes += result.resumes;
    await checkMade(result.target, result.source, of.data, []);
  }
  assert.ok(resumes > 0, 'none went on where it was');
});

test('what was there before is discarded, where that can be done', async () => {
  for (const canDiscard of [true, false]) {
    const target = new MemoryImage(new Uint8Array(diskSectorsFor(20) * 512).fill(0xee));
    target.canDiscard = canDiscard;
    const source = new RawSource(new MemoryImage(new Uint8Array(20 * REGION_BYTES).fill(7)));
    await convert('test', source, target, { codec: 'lz4', level: 0, nowMs: makeClock() });
    const left = target.bytes.filter((byte) => byte === 0xee).length;
    assert.equal(left < 65536, canDiscard, `${left} bytes are left`);
  }
});

for (const codec of OLD_CODECS) {
  test(`${codec}: of a damaged volume just what can be read is there, LAMINA_SEED=${SEED}`, async () => {
    let errors = 0;
    for (let n = 0; n < 12; n++) {
      const prng = new Prng(SEED + n);
      const sectors = 8 * 150;
      const { bytes } = drawOldDisk(prng, sectors, codec, sampleData);
      const image = bytes.slice();
      for (let k = prng.between(1, 20); k > 0; k--) {
        const at = prng.chance(0.5) ? 4096 + prng.below(94) : 8192 + prng.below(148 * 4096);
        image[at] = prng.below(256);
      }
      const lenSectors = oldSizes(sectors).dataBlocks * 8;
      const expected = await readVolume(image, lenSectors, 512);
      errors += expected.filter((block) => typeof block === 'number').length;
      const io = new MemoryImage(image);
      io.isReadOnly = true;
      const format = await findOldFormat(io);
      assert.ok(format !== undefined);
      const source = new OldSource(io, format);
      const target = makeTarget(prng, source);
      await convert('test', source, target, { codec: 'lz4', level: 0, nowMs: makeClock() });
      assert.deepEqual(await readVolume(target.bytes, lenSectors, target.blockBytes), expected);
    }
    assert.ok(errors > 12, `${errors} blocks cannot be read`);
  });
}

test('what was there before does not come back once something is written over', async () => {
  const prng = new Prng(SEED);
  const bytes = new Uint8Array(diskSectorsFor(30) * 512);
  const source = (): ConvertSource =>
    new RawSource(new MemoryImage(sampleData(prng, 20 * REGION_BYTES)));
  const options = { codec: 'lz4', level: 0, nowMs: makeClock() } as const;
  await convert('test', source(), new MemoryImage(bytes), options);
  // The state is there; the copy of the old superblock is there as well.
  let target = new MemoryImage(bytes);
  target.killAfter = 2;
  await assert.rejects(convert('test', source(), target, options), Killed);
  assert.ok(typeof (await readSuperblocks(target)) !== 'string');
  assert.deepEqual(
    ((await checkVolume(target)) as CheckResult).faults.map(({ kind }) => kind),
    ['superblock'],
  );
  target = new MemoryImage(target.bytes);
  target.killAfter = 12;
  await assert.rejects(convert('test', source(), target, options), Killed);
  assert.match((await readSuperblocks(target)) as string, /has not ended.*no copy/);
});

test('a source that has changed meanwhile is converted anew, and so is one with other options', async () => {
  const prng = new Prng(SEED);
  const data = Buffer.from(sampleData(prng, 30 * REGION_BYTES));
  // A region of zeroes would be no write: every one has something.
  for (let r = 0; r < 30; r++) data[r * REGION_BYTES] = 1;
  const begin = async (): Promise<MemoryImage> => {
    const target = new MemoryImage(new Uint8Array(diskSectorsFor(30) * 512));
    // Two states, and three regions more.
    target.killAfter = 32;
    const io = new MemoryImage(data.subarray());
    const work = convert('test', new RawSource(io), target, {
      codec: 'lz4',
      level: 0,
      nowMs: makeClock(),
    });
    await assert.rejects(work, Killed);
    assert.equal(
      findSuperblock(target.bytes.subarray(0, 4096), target.bytes.length / 512).what,
      'other',
    );
    return new MemoryImage(target.bytes);
  };
  const goOn = async (target: MemoryImage, now: Buffer, codec: CodecName): Promise<number> => {
    const source = new RawSource(new MemoryImage(Uint8Array.from(now)));
    const made = await convert('test', source, target, { codec, level: 0, nowMs: makeClock() });
    await checkMade(target, source, now, []);
    return made.resumedRegions;
  };
  assert.equal(await goOn(await begin(), data, 'lz4'), 16);
  assert.equal(await goOn(await begin(), data, 'deflate'), 0);
  const changed = Buffer.from(data);
  changed[7 * REGION_BYTES + 9] = (changed[7 * REGION_BYTES + 9] as number) ^ 1;
  assert.equal(await goOn(await begin(), changed, 'lz4'), 0);
  const changedLater = Buffer.from(data);
  changedLater[20 * REGION_BYTES] = (changedLater[20 * REGION_BYTES] as number) ^ 1;
  assert.equal(await goOn(await begin(), changedLater, 'lz4'), 16);
  assert.equal(await goOn(await begin(), data.subarray(0, 29 * REGION_BYTES), 'lz4'), 0);
});

test(`what version 1 cannot give stays an error, LAMINA_SEED=${SEED}`, async () => {
  for (let n = 0; n < 6; n++) {
    const prng = new Prng(SEED + n);
    const sectors = 8 * 600;
    const { bytes, data } = drawOldDisk(prng, sectors, 'deflate', (_, len) =>
      Buffer.alloc(len, 'text, '),
    );
    const { metaBlocks } = oldSizes(sectors);
    for (let k = 0; k < 5; k++) bytes[(1 + metaBlocks + prng.below(500)) * 4096 + 3] = 0xff;
    bytes.fill(0xff, 4096 + 40, 4096 + 60);
    const io = new MemoryImage(bytes);
    const format = await findOldFormat(io);
    assert.ok(format !== undefined);
    const source = new OldSource(io, format);
    const target = makeTarget(prng, source);
    const { lost } = await convert('test', source, target, {
      codec: 'lz4',
      level: 0,
      nowMs: makeClock(),
    });
    const ranges = lost.flatMap((one) => one.ranges).sort((a, b) => a.offsetBytes - b.offsetBytes);
    assert.ok(
      ranges.some(
        ({ offsetBytes, lenBytes }) =>
          offsetBytes === 2 * REGION_BYTES && lenBytes === REGION_BYTES,
      ),
    );
    const merged: { offsetBytes: number; lenBytes: number }[] = [];
    for (const range of ranges) {
      const last = merged.at(-1);
      const isNear = last !== undefined && last.offsetBytes + last.lenBytes === range.offsetBytes;
      if (isNear && range.offsetBytes % REGION_BYTES !== 0) last.lenBytes += range.lenBytes;
      else merged.push({ ...range });
    }
    await checkMade(target, source, data, merged);
  }
});

test('a target that is too small is left alone', async () => {
  const source = new RawSource(new MemoryImage(new Uint8Array(4 * REGION_BYTES)));
  const target = new MemoryImage(new Uint8Array((diskSectorsFor(4) - 8) * 512));
  target.isReadOnly = true;
  const work = convert('small', source, target, { codec: 'lz4', level: 0, nowMs: makeClock() });
  await assert.rejects(
    work,
    new RegExp(`small: \\d+ bytes are too few: ${diskSectorsFor(4) * 512} needed`),
  );
});
