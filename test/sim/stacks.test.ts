// Stacks of mapped devices over disks that complete in random order: data, order, flushes, suspending and
// swapping tables under load, and progress with one clone a device. LAMINA_SEED repeats a run.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { BioFlag, Op } from '../../src/bio/bio.ts';
import { DEFAULT_LIMITS } from '../../src/bio/limits.ts';
import { MapResult, type Target } from '../../src/dm/target.ts';
import { BioDriver } from '../../src/testing/bio-driver.ts';
import { makeTestMapper, type TestDisk, type TestMapper } from '../../src/testing/test-mapper.ts';
import { SEED } from '../../src/testing/seed.ts';

const ROUNDS = Number(process.env['LAMINA_ROUNDS'] ?? 12);
const LEG = 1024;

/** Random striped on linear on striped; the name of the top device. */
async function randomStack(t: TestMapper, rng: Prng): Promise<{ top: string; disks: TestDisk[] }> {
  const disks: TestDisk[] = [];
  const lower: string[] = [];
  const chunk = (): number => rng.pick([1, 3, 8, 16, 64].filter((c) => LEG % c === 0));
  for (let i = 0; i < rng.pick([2, 4]); i++) {
    const legs = rng.pick([1, 2]);
    const words: string[] = [];
    for (let l = 0; l < legs; l++) {
      const disk = t.disk(`d${i}-${l}`, LEG + 64);
      disks.push(disk);
      words.push(`${disk.name} ${rng.below(64)}`);
    }
    await t.dm.create({
      name: `low${i}`,
      table: `0 ${LEG * legs} striped ${legs} ${chunk()} ${words.join(' ')}`,
    });
    // Two pieces of it the other way round.
    const half = (LEG * legs) / 2;
    await t.dm.create({
      name: `mid${i}`,
      table: `0 ${half} linear low${i} ${half}\n${half} ${half} linear low${i} 0`,
    });
    lower.push(`mid${i} 0`);
  }
  const table = `0 ${LEG * lower.length} striped ${lower.length} ${chunk()} ${lower.join(' ')}`;
  await t.dm.create({ name: 'top', table });
  return { top: 'top', disks };
}

/** Mixed I/O on `lanes` lanes, each in a region of its own, against a flat model. */
class Storm {
  readonly model: Uint8Array;
  readonly #driver: BioDriver;
  readonly #rng: Prng;
  readonly #what: string;
  mayGoOn = true;
  count = 0;

  constructor(driver: BioDriver, rng: Prng, what: string) {
    this.#driver = driver;
    this.#rng = rng;
    this.#what = what;
    this.model = new Uint8Array(driver.device.lenSectors * 512);
  }

  stop(): void {
    this.mayGoOn = false;
  }

  async run(lanes: number, perLane: number): Promise<void> {
    const size = Math.floor(this.model.length / lanes / 512) * 512;
    const work: Promise<void>[] = [];
    for (let lane = 0; lane < lanes; lane++) work.push(this.#lane(lane * size, size, perLane));
    await Promise.all(work);
    const all = await this.#driver.read(0, 65536);
    assert.ok(all.equals(Buffer.from(this.model.buffer, 0, 65536)), `${this.#what}: at the end`);
  }

  async #lane(from: number, size: number, count: number): Promise<void> {
    for (let i = 0; i < count && this.mayGoOn; i++) {
      const sectors = this.#rng.between(1, Math.min(96, size / 512));
      const off = from + this.#rng.below(size / 512 - sectors + 1) * 512;
      await this.#one(off, sectors * 512);
      this.count++;
    }
  }

  async #one(off: number, len: number): Promise<void> {
    const rng = this.#rng;
    const ok = (status: Status): void => assert.equal(status, Status.Ok, this.#what);
    const kind = rng.below(100);
    if (kind < 40) {
      const data = new Uint8Array(len);
      rng.fill(data);
      const cut = rng.between(1, len);
      const segments = cut < len ? [cut, len - cut] : [len];
      const flags = rng.chance(0.2) ? BioFlag.Fua : rng.chance(0.1) ? BioFlag.Preflush : 0;
      ok(await this.#driver.write(off, data, { segments, flags }));
      this.model.set(data, off);
    } else if (kind < 50) {
      ok(await this.#driver.zero(off, len));
      this.model.fill(0, off, off + len);
    } else if (kind < 58) {
      ok(await this.#driver.discard(off, len));
      this.model.fill(0, off, off + len);
    } else if (kind < 65) ok(await this.#driver.flush());
    else {
      const data = await this.#driver.read(off, len);
      const expected = Buffer.from(this.model.buffer, off, len);
      assert.ok(data.equals(expected), `${this.#what}: read ${off}+${len} differs`);
    }
  }
}

for (let round = 0; round < ROUNDS; round++) {
  const seed = SEED + round;
  test(`random stack equals a flat model, LAMINA_SEED=${seed}`, async () => {
    const rng = new Prng(seed);
    const t = makeTestMapper(seed, rng.pick([1, 2, 256]));
    const { top } = await randomStack(t, rng);
    const open = await t.dm.openDevice(top);
    await new Storm(new BioDriver(open.device, t.arena), rng, `seed ${seed}`).run(12, 25);
    await open.close();
    await t.dm.close();
    assert.equal(t.arena.usedBytes <= 4096, true, 'every buffer is back');
  });
}

for (const clones of [1, 2, 256]) {
  test(`a target says each time anew how much fits, ${clones} clones, LAMINA_SEED=${SEED}`, async () => {
    const rng = new Prng(SEED);
    const t = makeTestMapper(SEED, clones);
    const disk = t.disk('a', 4096);
    const target: Target = {
      traits: { boundarySectors: 8 },
      fit: (_bio, maxSectors) => (rng.chance(0.3) ? maxSectors : rng.between(1, maxSectors)),
      map(bio) {
        bio.device = disk;
        return MapResult.Remapped;
      },
      status: () => '',
      devices: () => [{ device: disk, startSector: 0, lenSectors: 4096 }],
    };
    t.targetType({ name: 'moody', version: [1, 0, 0], create: () => Promise.resolve(target) });
    await t.dm.create({ name: 'm', table: '0 4096 moody' });
    const open = await t.dm.openDevice('m');
    const storm = new Storm(new BioDriver(open.device, t.arena), rng, `seed ${SEED}`);
    await t.scheduler.settle(storm.run(12, 60), () => 'parked for good');
    await open.close();
    await t.dm.close();
  });
}

test(`a hundred table swaps and suspends under load lose nothing, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const t = makeTestMapper(SEED, 2);
  const { top } = await randomStack(t, rng);
  const sectors = (await t.dm.info(top)).lenSectors;
  await t.dm.create({ name: 'face', table: `0 ${sectors} linear ${top} 0` });
  const open = await t.dm.openDevice('face');
  const storm = new Storm(new BioDriver(open.device, t.arena), rng, `seed ${SEED}`);
  const running = storm.run(12, 1_000_000);
  for (let i = 0; i < 100; i++) {
    const before = storm.count;
    if (rng.chance(0.5)) {
      const half = rng.between(1, sectors - 1);
      const rest = sectors - half;
      await t.dm.load('face', `0 ${half} linear ${top} 0\n${half} ${rest} linear ${top} ${half}`);
    }
    await t.dm.suspend('face', { noflush: rng.chance(0.3) });
    assert.equal((await t.dm.info('face')).state, 'SUSPENDED');
    await t.dm.resume('face');
    if (i % 10 === 0) while (storm.count === before) await new Promise((r) => setImmediate(r));
  }
  storm.stop();
  await running;
  assert.ok(storm.count > 100, `${storm.count} requests went through meanwhile`);
  await open.close();
  await t.dm.close();
});

test('nothing reaches the lower device while suspended, and order is kept at the resume', async () => {
  const t = makeTestMapper(1, 4);
  const disk = t.disk('a', 256);
  await t.dm.create({ name: 'm', table: '0 256 linear test:a 0' });
  const open = await t.dm.openDevice('m');
  const driver = new BioDriver(open.device, t.arena);
  await t.dm.suspend('m');
  const seen = disk.seen.length;
  const writes = [5, 3, 9, 1].map((s) => driver.write(s * 512, new Uint8Array(512).fill(s)));
  await new Promise((r) => setImmediate(r));
  assert.equal(disk.seen.length, seen);
  await t.dm.resume('m');
  assert.deepEqual(await Promise.all(writes), [0, 0, 0, 0]);
  assert.deepEqual(
    disk.seen.slice(seen).map((b) => b.sector),
    [5, 3, 9, 1],
  );
  await open.close();
  await t.dm.close();
});

/** Call depth at the disk below so many layers. */
async function depthBelow(layers: number): Promise<number> {
  const t = makeTestMapper(7, 1);
  const disk = t.disk('a', 4096);
  disk.measuresDepth = true;
  let below = 'test:a';
  for (let i = 0; i < layers; i++) {
    await t.dm.create({ name: `l${i}`, table: `0 4096 striped 1 8 ${below} 0` });
    below = `l${i}`;
  }
  const open = await t.dm.openDevice(below);
  const driver = new BioDriver(open.device, t.arena);
  const data = new Uint8Array(1 << 20);
  new Prng(3).fill(data);
  const two = await Promise.all([
    driver.write(0, data.subarray(0, 1 << 19)),
    driver.write(1 << 19, data.subarray(1 << 19), { flags: BioFlag.Fua }),
  ]);
  assert.deepEqual(two, [0, 0]);
  assert.ok((await driver.read(0, 1 << 20)).equals(data));
  assert.ok(disk.seen.every((b) => b.lenSectors <= 8));
  await open.close();
  await t.dm.close();
  return disk.callDepthMax;
}

test('sixteen layers that split every 4 KiB finish with one clone each, at constant depth', async () => {
  const [shallow, deep] = [await depthBelow(1), await depthBelow(16)];
  assert.ok(deep <= shallow + 2, `depth ${deep} with 16 layers, ${shallow} with one`);
});

test('a flush goes once to every lower device, a discard once to every stripe', async () => {
  const t = makeTestMapper(5, 1);
  const disks = ['a', 'b', 'c'].map((n) => t.disk(n, 128));
  await t.dm.create({ name: 's', table: '0 384 striped 3 8 test:a 0 test:b 0 test:c 0' });
  await t.dm.create({ name: 'm', table: '0 100 linear s 0\n100 284 linear s 100' });
  const open = await t.dm.openDevice('m');
  const driver = new BioDriver(open.device, t.arena);
  assert.equal(await driver.flush(), Status.Ok);
  assert.equal(await driver.write(0, new Uint8Array(512), { flags: BioFlag.Preflush }), Status.Ok);
  assert.equal(await driver.discard(0, 384 * 512), Status.Ok);
  for (const disk of disks) {
    assert.equal(disk.seen.filter((b) => b.op === Op.Flush).length, 2);
    const discarded = disk.seen.filter((b) => b.op === Op.Discard);
    // One for each of the two linear pieces.
    assert.equal(discarded.length, 2);
    assert.equal(
      discarded.reduce((sum, b) => sum + b.lenSectors, 0),
      128,
    );
  }
  await open.close();
  await t.dm.close();
});

test('a discard that fails counts against the stripe it was for, also with devices in between', async () => {
  const t = makeTestMapper(9, 4);
  t.disk('a', 128);
  t.disk('b', 128).badSectors.add(5);
  await t.dm.create({ name: 'la', table: '0 128 linear test:a 0' });
  await t.dm.create({ name: 'lb', table: '0 128 linear test:b 0' });
  await t.dm.create({ name: 's', table: '0 256 striped 2 8 la 0 lb 0' });
  const open = await t.dm.openDevice('s');
  const driver = new BioDriver(open.device, t.arena);
  assert.equal(await driver.discard(0, 256 * 512), Status.Io);
  assert.equal((await t.dm.status('s'))[0]?.params, '2 la lb 1 AD');
  await open.close();
  await t.dm.close();
});

test('an error stays with the bio it belongs to', async () => {
  const t = makeTestMapper(9, 1);
  const disk = t.disk('a', 256);
  disk.badSectors.add(17);
  await t.dm.create({ name: 's', table: '0 256 striped 1 8 test:a 0' });
  const open = await t.dm.openDevice('s');
  const driver = new BioDriver(open.device, t.arena);
  const write = (s: number, n: number): Promise<Status> =>
    driver.write(s * 512, new Uint8Array(n * 512).fill(7));
  const results = await Promise.all([write(0, 16), write(16, 1), write(17, 1), write(8, 64)]);
  assert.deepEqual(results, [Status.Ok, Status.Ok, Status.Io, Status.Io]);
  const lines = await t.dm.status('s');
  assert.equal(lines[0]?.params, '1 test:a 1 D');
  await open.close();
  await t.dm.close();
});

test('I/O that waits for a table with larger blocks ends with an error, if it is not whole ones', async () => {
  const t = makeTestMapper(11, 2);
  const disk = t.disk('a', 256, { ...DEFAULT_LIMITS, logicalBlockBytes: 4096 });
  await t.dm.create({ name: 'm', table: '0 256 zero' });
  const open = await t.dm.openDevice('m');
  const driver = new BioDriver(open.device, t.arena);
  await t.dm.suspend('m');
  const io = Promise.all([
    driver.write(512, new Uint8Array(4096)),
    driver.write(0, new Uint8Array(512)),
    driver.discard(0, 4096 + 512),
    driver.write(8192, new Uint8Array(4096)),
  ]);
  await t.dm.load('m', '0 256 linear test:a 0');
  await t.dm.resume('m');
  assert.deepEqual(await t.scheduler.settle(io), [Status.Io, Status.Io, Status.Io, Status.Ok]);
  assert.deepEqual(
    disk.seen.map((bio) => bio.sector),
    [16],
  );
  assert.deepEqual(t.violations, []);
  await open.close();
  await t.dm.close();
});

test('what a target pushes back is mapped again by the next table', async () => {
  const t = makeTestMapper(11, 2);
  t.disk('a', 256);
  t.targetType({
    name: 'pushback',
    version: [1, 0, 0],
    create: () => {
      const target: Target = {
        map: () => MapResult.Requeue,
        status: () => '',
        devices: () => [],
      };
      return Promise.resolve(target);
    },
  });
  // A piece in the middle of a split is pushed back while its parent waits for it.
  await t.dm.create({
    name: 'm',
    table: '0 8 linear test:a 0\n8 8 pushback\n16 240 linear test:a 16',
  });
  const open = await t.dm.openDevice('m');
  const driver = new BioDriver(open.device, t.arena);
  const data = new Uint8Array(32 * 512);
  new Prng(1).fill(data);
  const write = driver.write(0, data);
  await new Promise((r) => setImmediate(r));
  await t.dm.suspend('m', { noflush: true });
  await t.dm.load('m', '0 256 linear test:a 0');
  await t.dm.resume('m');
  assert.equal(await write, Status.Ok);
  assert.ok((await driver.read(0, data.length)).equals(data));
  await open.close();
  await t.dm.close();
});
