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

test('no memory for the reserve is an error', () => {
  const arena = new Arena(MIB);
  spend(arena);
  assert.throws(() => new Kcopyd(arena), /copies: no buffer memory left/);
});
