// Buffers with one kept back: who gets what, when there is none.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { KIB, MIB } from '../base/units.ts';
import { SEED } from '../testing/seed.ts';
import { Arena, NONE } from './arena.ts';
import { ReservedBuffers } from './reserved-buffers.ts';

/** Takes all that is left of an arena; the function gives one chunk back. */
function spend(arena: Arena, bytes: number): () => void {
  const taken: number[] = [];
  for (let mem = arena.tryAlloc(bytes); mem !== NONE; mem = arena.tryAlloc(bytes)) taken.push(mem);
  return () => {
    const mem = taken.pop();
    if (mem !== undefined) arena.free(mem, bytes);
  };
}

test('no memory for the reserve is an error that says for what', () => {
  const arena = new Arena(MIB);
  spend(arena, MIB);
  assert.throws(
    () => new ReservedBuffers(arena, 64 * KIB, 'copies of the pool'),
    (error) =>
      error instanceof DmError &&
      error.status === Status.NoMemory &&
      error.message.startsWith('copies of the pool: no buffer memory left: 65536 bytes'),
  );
});

test('when the arena is spent, the reserve goes round among those who wait, oldest first', async () => {
  const arena = new Arena(2 * MIB);
  const buffers = new ReservedBuffers(arena, 64 * KIB, 'test');
  spend(arena, 64 * KIB);
  spend(arena, 4096);
  const first = await buffers.take(256 * KIB);
  assert.equal(buffers.lengthOf(first, 256 * KIB), 64 * KIB);
  assert.equal(buffers.lengthOf(first, 4096), 4096);
  assert.equal(buffers.tryTake(4096), NONE);
  const order: number[] = [];
  const uses = [0, 1, 2, 3].map(async (i) => {
    const mem = await buffers.take(MIB);
    order.push(i);
    buffers.give(mem, MIB);
  });
  assert.equal(buffers.waiting, 4);
  buffers.give(first, 256 * KIB);
  await Promise.all(uses);
  assert.deepEqual(order, [0, 1, 2, 3]);
  assert.equal(buffers.waiting, 0);
});

test('memory that others give back to the arena reaches who waits, though the reserve is out', async () => {
  const arena = new Arena(2 * MIB);
  const buffers = new ReservedBuffers(arena, 4096, 'test');
  const free = spend(arena, 64 * KIB);
  const small = spend(arena, 4096);
  const reserve = await buffers.take(4096);
  const waiting = buffers.take(64 * KIB);
  // Too little for the one who waits: it goes on waiting, and hears of the next.
  small();
  assert.equal(buffers.waiting, 1);
  free();
  const mem = await waiting;
  assert.equal(buffers.lengthOf(mem, 64 * KIB), 64 * KIB);
  buffers.give(mem, 64 * KIB);
  buffers.give(reserve, 4096);
});

test(`whoever waits gets a buffer, and all come back, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const arena = new Arena(MIB);
  const owners = [1, 2].map((i) => new ReservedBuffers(arena, 16 * KIB, `owner ${i}`));
  const before = arena.usedBytes;
  let done = 0;
  let reserves = 0;
  const use = async (): Promise<void> => {
    const buffers = rng.pick(owners);
    const bytes = rng.pick([4096, 16 * KIB, 64 * KIB, 256 * KIB, MIB]);
    const mem = await buffers.take(bytes);
    const length = buffers.lengthOf(mem, bytes);
    if (length < bytes) reserves++;
    arena.u8.fill(done & 255, mem, mem + length);
    for (let i = rng.below(4); i > 0; i--) await Promise.resolve();
    buffers.give(mem, bytes);
    done++;
  };
  await Promise.all(Array.from({ length: 2000 }, use));
  assert.equal(done, 2000);
  assert.ok(reserves > 0, 'the reserve was needed');
  assert.equal(arena.usedBytes, before);
  for (const buffers of owners) buffers.close();
  assert.equal(arena.usedBytes, 0);
});
