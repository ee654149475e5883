// Compute threads that cannot all be started, or end when they have hardly begun.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { Arena, NONE } from './arena.ts';
import { type ComputeDefinition, SCRATCH_BYTES } from './compute.ts';
import { ThreadCompute } from './thread-compute.ts';

const THREADS = 3;

const DEFINITION: ComputeDefinition = {
  name: 'test',
  // Exports nothing that the threads would ask for before there is a job.
  module: `data:text/javascript,export function makeHandler() { return { run() {} }; }`,
  makeHandler: () => ({ run() {} }),
  recipes: Array.from({ length: THREADS }, () => null),
  isSticky: false,
  weight: 1,
};

function run(compute: ThreadCompute): Promise<number> {
  return new Promise((resolve) => {
    const queue = compute.define(DEFINITION);
    const ioDone = (_arg: object, result: number): void => {
      queue.close();
      resolve(result);
    };
    queue.push(0, 0, 0, 1, 0, false, { ioDone }, {});
  });
}

test('without memory for every thread there is an error and no thread', async () => {
  const arena = new Arena(1 << 20);
  const taken: number[] = [];
  for (let mem = arena.tryAlloc(SCRATCH_BYTES); mem !== NONE; ) {
    taken.push(mem);
    mem = arena.tryAlloc(SCRATCH_BYTES);
  }
  // Enough for all but one.
  for (let i = 1; i < THREADS; i++) arena.free(taken.pop() as number, SCRATCH_BYTES);
  const usedBytes = arena.usedBytes;
  const compute = new ThreadCompute(arena, THREADS);
  assert.throws(
    () => compute.define(DEFINITION),
    (error: unknown) => {
      assert.ok(error instanceof DmError);
      assert.equal(error.status, Status.NoMemory);
      assert.match(error.message, /^compute thread 3 of 3: no buffer memory/);
      return true;
    },
  );
  assert.equal(arena.usedBytes, usedBytes, 'what the others had is free again');
  // Once there is memory, all is well.
  arena.free(taken.pop() as number, SCRATCH_BYTES);
  assert.equal(await run(compute), 0);
  compute.close();
  assert.equal(arena.usedBytes, usedBytes - SCRATCH_BYTES);
});

test('threads that have hardly begun are no longer loading when close returns', () => {
  const compute = new ThreadCompute(new Arena(8 << 20), THREADS);
  // What a thread's recipe holds: 1 while its definition is being made, 2 behind that.
  const made = Array.from({ length: THREADS }, () => new Int32Array(new SharedArrayBuffer(4)));
  compute.define({
    ...DEFINITION,
    module: `data:text/javascript,export function makeHandler(memory, scratch, made) {
      Atomics.store(made, 0, 1);
      for (const end = Date.now() + 50; Date.now() < end; );
      Atomics.store(made, 0, 2);
      return { run() {} };
    }`,
    recipes: made,
  });
  compute.close();
  assert.deepEqual(
    made.map((words) => Atomics.load(words, 0)),
    made.map(() => 2),
  );
});
