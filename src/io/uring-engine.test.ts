// The uring engine when the kernel refuses to take what is queued: every operation ends all the same,
// once, with its own result.

import assert from 'node:assert/strict';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test, type TestContext } from 'node:test';
import koffi from 'koffi';
import { Status } from '../base/status.ts';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { Arena } from './arena.ts';
import { syscall6 } from './posix.ts';
import { UringEngine } from './uring-engine.ts';
import { type Enter, UringRing, UringUnavailable } from './uring-ring.ts';

const ENTRIES = 4;
const OPERATIONS = 50;

const folder = makeTestFolder();
const path = join(folder.path, 'file');
let fd: number;

before(() => {
  // Byte n is n.
  writeFileSync(
    path,
    Uint8Array.from({ length: OPERATIONS }, (_, i) => i),
  );
  fd = openSync(path, 'r');
});

after(() => {
  closeSync(fd);
  folder.remove();
});

/** Null, and the test skipped, where there is no io_uring. */
function openRing(t: TestContext, enter: Enter): UringRing | null {
  try {
    return new UringRing(ENTRIES, enter);
  } catch (error) {
    if (!(error instanceof UringUnavailable)) throw error;
    t.skip(error.message);
    return null;
  }
}

/** Reads byte `i` of the file to place `i` of the arena; how it ended. */
function readByte(engine: UringEngine, i: number): Promise<number> {
  let ends = 0;
  return new Promise((resolve) => {
    const ioDone = (_arg: object, result: number): void => {
      assert.equal(++ends, 1, `operation ${i} ended twice`);
      resolve(result);
    };
    engine.read({ fd, isDirect: false, isMemory: false }, i, i, 1, { ioDone }, {});
  });
}

for (const [name, errno] of [
  ['EAGAIN', Status.Again],
  ['EBUSY', Status.Busy],
] as const) {
  test(`operations queued while the kernel answers ${name} are not lost`, async (t) => {
    let refusals = 20;
    const ring = openRing(t, (...args) => {
      if (refusals-- <= 0) return syscall6(...args);
      koffi.errno(errno);
      return -1;
    });
    if (ring === null) return;
    const arena = new Arena(1 << 20);
    const engine = new UringEngine(arena, 0, ring);
    arena.u8.fill(0xff, 0, OPERATIONS);
    const reads = Array.from({ length: OPERATIONS }, (_, i) => readByte(engine, i));
    // An operation that was overwritten never ends, and this test neither.
    assert.deepEqual(
      await Promise.all(reads),
      reads.map(() => 1),
    );
    assert.deepEqual(
      [...arena.u8.subarray(0, OPERATIONS)],
      reads.map((_, i) => i),
    );
    assert.ok(refusals < 0, 'all refusals were used');
    engine.close();
  });
}

test('another error of the kernel ends the program with its words', (t) => {
  const ring = openRing(t, () => {
    koffi.errno(Status.BadDescriptor);
    return -1;
  });
  if (ring === null) return;
  assert.throws(() => ring.enter(0, 0), { message: 'io_uring_enter: Bad file descriptor' });
  ring.close();
});
