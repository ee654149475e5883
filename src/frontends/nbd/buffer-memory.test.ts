// Who waits for memory, and that nobody is forgotten.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeLab } from '../../testing/sim/lab.ts';
import { BufferMemory, type MemoryUser, PATIENCE_MS } from './buffer-memory.ts';

/** A connection that counts what it hears. */
class User implements MemoryUser {
  heldBytes = 0;
  isOwed = false;
  progress = 0;
  retries = 0;
  drops = 0;

  retryMemory(): void {
    this.retries++;
  }

  dropForMemory(): void {
    this.drops++;
  }
}

test('who was passed over while its client took nothing goes on when the client takes again', async () => {
  const { engine, arena, scheduler } = makeLab({ seed: 1 });
  const memory = new BufferMemory(engine);
  const passes = async (ms: number): Promise<void> =>
    await scheduler.settle(new Promise<void>((resolve) => void scheduler.after(ms, resolve)));
  const user = new User();
  memory.add(user);
  user.isOwed = true;
  memory.wait(user);
  await passes(PATIENCE_MS / 2);
  assert.equal(user.retries, 0);
  // Something is freed while the client still owes: of no use to this one.
  arena.free(arena.tryAlloc(4096), 4096);
  await passes(PATIENCE_MS / 4);
  assert.equal(user.retries, 0, 'more would be of no use');
  user.isOwed = false;
  user.progress++;
  await passes(PATIENCE_MS / 4);
  assert.ok(user.retries > 0, 'nothing will ever be freed that could wake it');
  assert.equal(user.drops, 0);
  memory.delete(user);
});
