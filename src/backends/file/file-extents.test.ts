// Block status of files: what is told, and that the thread is never kept for long.

import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { SEEK_DATA } from '../../io/posix.ts';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import { fileExtents, fileSeeker, type Seeker } from './file-extents.ts';

const BLOCK = 4096;
const SECTORS = BLOCK / 512;

/** A file of `blocks` blocks, every other one a hole; each seek takes `seekMs`. */
function combFile(
  blocks: number,
  seekMs: number,
): Seeker & { nowCount: number; laterCount: number } {
  const find = (atBytes: number, whence: number): number => {
    let block = Math.floor(atBytes / BLOCK);
    const wanted = whence === SEEK_DATA ? 0 : 1;
    if (block % 2 === wanted) return atBytes;
    block++;
    return block < blocks ? block * BLOCK : -Status.NoDeviceOrAddress;
  };
  return {
    nowCount: 0,
    laterCount: 0,
    now(atBytes, whence) {
      this.nowCount++;
      for (const until = performance.now() + seekMs; performance.now() < until; );
      return find(atBytes, whence);
    },
    async later(atBytes, whence) {
      this.laterCount++;
      await new Promise((resolve) => setImmediate(resolve));
      return find(atBytes, whence);
    },
  };
}

/** Turns of the event loop until `work` is done. */
async function turnsDuring<T>(work: Promise<T>): Promise<[T, number]> {
  let turns = 0;
  let isOver = false;
  const count = (): void => {
    turns++;
    if (!isOver) setImmediate(count);
  };
  setImmediate(count);
  const result = await work;
  isOver = true;
  return [result, turns];
}

test('thousands of seeks leave the thread to others in between', async () => {
  const seeker = combFile(2000, 0.02);
  const work = fileExtents(seeker, { sector: 0, lenSectors: 2000 * SECTORS }, 4096);
  const [extents, turns] = await turnsDuring(work);
  assert.equal(extents.length, 2000);
  assert.deepEqual(extents[0], { lenSectors: SECTORS, isHole: false, isZero: false });
  assert.deepEqual(extents[1], { lenSectors: SECTORS, isHole: true, isZero: true });
  // 3000 seeks of 0.02 ms are 60 ms: some 300 slices.
  assert.ok(turns > 100, `${turns} turns`);
});

test('seeks that are slow one by one go to the pool', async () => {
  const seeker = combFile(500, 2);
  const work = fileExtents(seeker, { sector: 0, lenSectors: 500 * SECTORS }, 4096);
  const [extents] = await turnsDuring(work);
  assert.equal(extents.length, 500);
  assert.equal(seeker.nowCount, 1);
  assert.ok(seeker.laterCount > 500);
});

test('an answer ends early, with something, when the file is being closed', async () => {
  const seeker = combFile(500, 0);
  const range = { sector: 0, lenSectors: 500 * SECTORS };
  assert.equal((await fileExtents(seeker, range, 4096, () => true)).length, 1);
});

test('both ways of seeking tell the same of a real file', async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  const fd = openSync(join(folder.path, 'sparse'), 'w+');
  t.after(() => closeSync(fd));
  for (const at of [0, 3, 4, 90]) writeSync(fd, Buffer.alloc(BLOCK, 1), 0, BLOCK, at * BLOCK);
  ftruncateSync(fd, 100 * BLOCK);
  const seeker = fileSeeker(fd);
  const range = { sector: 0, lenSectors: 100 * SECTORS };
  const quick = await fileExtents(seeker, range, 4096);
  const pooled: Seeker = {
    now: (at, whence) => {
      for (const until = performance.now() + 2; performance.now() < until; );
      return seeker.now(at, whence);
    },
    later: (at, whence) => seeker.later(at, whence),
  };
  assert.deepEqual(await fileExtents(pooled, range, 4096), quick);
  assert.equal(
    quick.reduce((sum, e) => sum + e.lenSectors, 0),
    range.lenSectors,
  );
});
