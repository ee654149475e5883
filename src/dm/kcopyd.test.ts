// Copying and zeroing: with and without memory, to the end or to the first error.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { MIB } from '../base/units.ts';
import { Op } from '../bio/bio.ts';
import { IoContext } from '../bio/context.ts';
import { Arena, NONE } from '../io/arena.ts';
import { makeLab } from '../testing/index.ts';
import { SEED } from '../testing/seed.ts';
import { CopyThrottle } from './copy-throttle.ts';
import { Kcopyd } from './kcopyd.ts';

/** Takes what is left of an arena, and answers how to give it back. */
function spend(arena: Arena): () => void {
  const taken: number[] = [];
  for (let mem = arena.tryAlloc(4096); mem !== NONE; mem = arena.tryAlloc(4096)) taken.push(mem);
  return () => {
    for (const mem of taken) arena.free(mem, 4096);
  };
}

for (const isSpent of [false, true]) {
  const memory = isSpent ? 'on the reserve alone' : 'with memory';
  test(`jobs copy and zero what they are told, ${memory}, LAMINA_SEED=${SEED}`, async () => {
    const arena = new Arena(8 * MIB);
    const lab = makeLab({ seed: SEED, arena });
    const rng = new Prng(SEED);
    const from = lab.disk('from', 8192);
    const to = lab.disk('to', 8192, { maxWriteZeroesSectors: isSpent ? 0 : 100 });
    rng.fill(from.bytes);
    rng.fill(to.bytes);
    const model = Buffer.from(to.bytes);
    const kcopyd = new Kcopyd(arena);
    const giveBack = isSpent ? spend(arena) : (): void => undefined;
    const ctx = new IoContext({ name: 'client' });
    const jobs: Promise<Status>[] = [];
    for (let i = 0; i < 8; i++) {
      const sector = i * 1024;
      const sectors = i === 0 ? 1024 : rng.between(1, 1024);
      const source = rng.below(8192 - sectors);
      const place = { device: to, sector };
      const bytes = model.subarray(sector * 512, (sector + sectors) * 512);
      if (rng.chance(0.3)) {
        bytes.fill(0);
        jobs.push(kcopyd.zero(place, sectors, ctx));
      } else {
        bytes.set(from.bytes.subarray(source * 512, (source + sectors) * 512));
        jobs.push(kcopyd.copy({ device: from, sector: source }, place, sectors, ctx));
      }
    }
    assert.ok(ctx.refs > 1, 'jobs keep the account that they run on');
    const statuses = await lab.scheduler.settle(Promise.all(jobs));
    assert.ok(statuses.every((status) => status === Status.Ok));
    assert.ok(model.equals(to.bytes));
    assert.equal(ctx.refs, 1);
    assert.deepEqual(lab.violations, []);
    kcopyd.close();
    giveBack();
    assert.equal(arena.usedBytes, 0);
  });
}

test('the first error ends a job, and what was under way ends before', async () => {
  const arena = new Arena(8 * MIB);
  const lab = makeLab({ seed: 1, arena });
  const disk = lab.disk('disk', 16384);
  disk.badSectors.add(700);
  disk.faults.status = Status.NoSpace;
  const kcopyd = new Kcopyd(arena);
  const ctx = new IoContext({ name: 'client' });
  const places = [
    { device: disk, sector: 0 },
    { device: disk, sector: 8192 },
  ] as const;
  const copied = await lab.scheduler.settle(kcopyd.copy(...places, 8192, ctx));
  assert.equal(copied, Status.NoSpace);
  const written = disk.seen.filter((bio) => bio.op === Op.Write).length;
  assert.ok(written < 16, `${written} of 16 pieces written`);
  disk.badSectors.clear();
  disk.faults.writeErrorRate = 1;
  assert.equal(await lab.scheduler.settle(kcopyd.zero(places[0], 8192, ctx)), Status.NoSpace);
  assert.equal(ctx.refs, 1);
  kcopyd.close();
  assert.equal(arena.usedBytes, 0);
});

for (const isSpent of [false, true]) {
  const memory = isSpent ? 'on the reserve alone' : 'with memory';
  test(`a job fills several destinations, in order if asked to, ${memory}, LAMINA_SEED=${SEED}`, async () => {
    const arena = new Arena(8 * MIB);
    const lab = makeLab({ seed: SEED, arena });
    const from = lab.disk('from', 8192);
    new Prng(SEED).fill(from.bytes);
    const to = ['a', 'b', 'c'].map((name) => lab.disk(name, 9000));
    const kcopyd = new Kcopyd(arena);
    const giveBack = isSpent ? spend(arena) : (): void => undefined;
    const ctx = new IoContext({ name: 'client' });
    const places = to.map((device, i) => ({ device, sector: i * 100 }));
    const source = { device: from, sector: 0 };
    const job = kcopyd.copyToAll(source, places, 8000, ctx, { isOrdered: true });
    const { read, writes } = await lab.scheduler.settle(job);
    assert.deepEqual([read, ...writes], [Status.Ok, Status.Ok, Status.Ok, Status.Ok]);
    for (const [i, { bytes, seen }] of to.entries()) {
      const copied = bytes.subarray(i * 100 * 512, (i * 100 + 8000) * 512);
      assert.equal(Buffer.compare(copied, from.bytes.subarray(0, 8000 * 512)), 0, `disk ${i}`);
      const sectors = seen.filter(({ op }) => op === Op.Write).map(({ sector }) => sector);
      assert.deepEqual(
        sectors,
        sectors.toSorted((a, b) => a - b),
      );
      assert.ok(sectors.length >= 16);
    }
    const reads = from.seen.filter(({ op }) => op === Op.Read).map(({ lenSectors }) => lenSectors);
    assert.equal(
      reads.reduce((sum, n) => sum + n, 0),
      8000,
      'read once',
    );
    assert.equal(ctx.refs, 1);
    assert.deepEqual(lab.violations, []);
    kcopyd.close();
    giveBack();
    assert.equal(arena.usedBytes, 0);
  });
}

for (const isSpent of [false, true]) {
  const memory = isSpent ? 'on the reserve alone' : 'with memory';
  test(`parts of a range go to places of their own, ${memory}`, async () => {
    const arena = new Arena(8 * MIB);
    const lab = makeLab({ seed: 9, arena });
    const [from, to] = [lab.disk('from', 1024), lab.disk('to', 1024)];
    new Prng(9).fill(from.bytes);
    const kcopyd = new Kcopyd(arena);
    const giveBack = isSpent ? spend(arena) : (): void => undefined;
    const ctx = new IoContext({ name: 'client' });
    const place = { device: from, sector: 100 };
    // Two parts, and what is between them is not wanted.
    const parts = [
      { atSector: 0, lenSectors: 200, to: { device: to, sector: 700 } },
      { atSector: 300, lenSectors: 100, to: { device: to, sector: 10 } },
    ];
    assert.equal(await lab.scheduler.settle(kcopyd.scatter(place, 400, parts, ctx)), Status.Ok);
    const model = new Uint8Array(1024 * 512);
    model.set(from.bytes.subarray(100 * 512, 300 * 512), 700 * 512);
    model.set(from.bytes.subarray(400 * 512, 500 * 512), 10 * 512);
    assert.equal(Buffer.compare(model, to.bytes), 0);
    if (!isSpent)
      assert.deepEqual(
        from.seen.map(({ lenSectors }) => lenSectors),
        [400],
      );
    to.badSectors.add(50);
    assert.equal(await lab.scheduler.settle(kcopyd.scatter(place, 400, parts, ctx)), Status.Io);
    from.badSectors.add(200);
    assert.equal(await lab.scheduler.settle(kcopyd.scatter(place, 400, parts, ctx)), Status.Io);
    assert.equal(ctx.refs, 1);
    assert.deepEqual(lab.violations, []);
    kcopyd.close();
    giveBack();
    assert.equal(arena.usedBytes, 0);
  });
}

test('a destination that fails ends the job, or is left out when that is asked for', async () => {
  const arena = new Arena(8 * MIB);
  const lab = makeLab({ seed: 3, arena });
  const from = lab.disk('from', 8192);
  new Prng(3).fill(from.bytes);
  const [good, bad] = [lab.disk('good', 8192), lab.disk('bad', 8192)];
  bad.badSectors.add(1000);
  const kcopyd = new Kcopyd(arena);
  const ctx = new IoContext({ name: 'client' });
  const source = { device: from, sector: 0 };
  const places = [good, bad].map((device) => ({ device, sector: 0 }));
  const ended = await lab.scheduler.settle(kcopyd.copyToAll(source, places, 8192, ctx));
  assert.deepEqual([ended.read, ...ended.writes], [Status.Ok, Status.Ok, Status.Io]);
  assert.notEqual(Buffer.compare(good.bytes, from.bytes), 0, 'the job has ended early');
  const all = kcopyd.copyToAll(source, places, 8192, ctx, { leavesOut: true });
  const { read, writes } = await lab.scheduler.settle(all);
  assert.deepEqual([read, ...writes], [Status.Ok, Status.Ok, Status.Io]);
  assert.equal(Buffer.compare(good.bytes, from.bytes), 0);
  // With no destination left the job ends, and so it does when nothing can be read.
  const alone = kcopyd.copyToAll(source, places.slice(1), 8192, ctx, { leavesOut: true });
  const reads = from.seen.length;
  assert.deepEqual((await lab.scheduler.settle(alone)).writes, [Status.Io]);
  assert.ok(from.seen.length - reads < 16);
  from.badSectors.add(0);
  const unread = kcopyd.copyToAll(source, places, 8192, ctx, { leavesOut: true });
  assert.equal((await lab.scheduler.settle(unread)).read, Status.Io);
  kcopyd.close();
});

test('a throttle keeps copies to their share of the time, however many services have it', async () => {
  for (const percent of [20, 50, 100]) {
    const arena = new Arena(8 * MIB);
    const lab = makeLab({ seed: 5, arena });
    const throttle = new CopyThrottle(lab.scheduler, percent);
    const services = [new Kcopyd(arena, throttle), new Kcopyd(arena, throttle)];
    const disk = lab.disk('disk', 65536);
    const ctx = new IoContext({ name: 'client' });
    let busyMs = 0;
    let lastMs = 0;
    const look = (): void => {
      const now = lab.scheduler.nowMs();
      if (disk.inFlight > 0) busyMs += now - lastMs;
      lastMs = now;
    };
    let isDone = false;
    const watch = async (): Promise<void> => {
      for (;;) {
        if (isDone) return;
        look();
        await new Promise<void>((resolve) => lab.scheduler.after(0.2, resolve));
      }
    };
    const jobs = services.map(async (service, i) => {
      const from = { device: disk, sector: i * 32768 };
      return await service.copy(from, { device: disk, sector: i * 32768 + 16384 }, 16384, ctx);
    });
    const all = Promise.all(jobs).then(() => (isDone = true));
    await lab.scheduler.settle(Promise.all([all, watch()]));
    const share = (busyMs / lab.scheduler.nowMs()) * 100;
    assert.ok(share <= percent * 1.25, `${share.toFixed(1)} % of the time, ${percent} allowed`);
    assert.ok(share >= percent * 0.5, `${share.toFixed(1)} % of the time, ${percent} allowed`);
    for (const service of services) service.close();
    assert.equal(arena.usedBytes, 0);
  }
});

test('no memory for the reserve is an error', () => {
  const arena = new Arena(MIB);
  spend(arena);
  assert.throws(() => new Kcopyd(arena), /copies: no buffer memory left/);
});
