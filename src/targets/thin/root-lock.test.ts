import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { RootLock } from './root-lock.ts';
import { SEED } from '../../testing/seed.ts';

const FILE = 'dist/src/targets/thin/root-lock.test.js';
console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test ${FILE}`);

async function pause(turns: number): Promise<void> {
  for (let i = 0; i < turns; i++) await Promise.resolve();
}

test('in any mix, changes are alone, commits write without changes, everything ends', async () => {
  const prng = new Prng(SEED);
  const lock = new RootLock();
  const active = { readers: 0, changes: 0, writes: 0 };
  const most = { readers: 0, readersInWrites: 0 };
  let done = 0;
  const change = async (): Promise<void> => {
    assert.deepEqual(active, { readers: 0, changes: 0, writes: 0 });
    assert.equal(lock.mayRead, false);
    active.changes++;
    await pause(prng.below(5));
    active.changes--;
    if (prng.chance(0.1)) throw new Error('a change fails');
  };
  const jobs: Promise<void>[] = [];
  for (let i = 0; i < 3000; i++) {
    const action = prng.unit();
    if (action < 0.5) {
      jobs.push(
        lock.read(async () => {
          assert.equal(active.changes, 0);
          assert.equal(lock.mayRead, true);
          active.readers++;
          most.readers = Math.max(most.readers, active.readers);
          if (active.writes > 0) most.readersInWrites++;
          await pause(prng.below(5));
          active.readers--;
        }),
      );
    } else if (action < 0.9) jobs.push(lock.change(change));
    else {
      jobs.push(
        lock.commit(
          async () => {
            await change();
            return prng.chance(0.8);
          },
          async () => {
            active.writes++;
            await pause(prng.below(10));
            assert.deepEqual([active.changes, active.writes], [0, 1]);
            active.writes--;
          },
        ),
      );
    }
    await pause(prng.below(4));
  }
  for (const job of await Promise.allSettled(jobs)) {
    done++;
    if (job.status === 'rejected') assert.equal(String(job.reason), 'Error: a change fails');
  }
  assert.equal(done, 3000);
  assert.ok(most.readers > 1 && most.readersInWrites > 0, JSON.stringify(most));
});
