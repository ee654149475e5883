import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { Status } from '../base/status.ts';
import { KIB, MIB } from '../base/units.ts';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { Arena } from './arena.ts';
import type { IoFile } from './engine.ts';
import { InlineIo } from './inline-io.ts';

const arena = new Arena(2 * MIB);
const folder = makeTestFolder();
const path = join(folder.path, 'file');
writeFileSync(path, Buffer.alloc(2 * MIB, 1));
const fd = openSync(path, 'r+');
after(() => {
  closeSync(fd);
  folder.remove();
});
const buffered: IoFile = { fd, isDirect: false, isMemory: false };
const inMemory: IoFile = { fd, isDirect: false, isMemory: true };
const direct: IoFile = { fd, isDirect: true, isMemory: false };
const NOT_INLINE = -Status.Again;

it('writes whole pages, of files in memory any bytes', () => {
  const inline = new InlineIo(arena);
  arena.u8.fill(2, 0, 8192);
  assert.equal(inline.tryWrite(buffered, 4096, 0, 8192), 8192);
  assert.deepEqual(readFileSync(path).subarray(4000, 4100), Buffer.alloc(100, 1).fill(2, 96));
  assert.equal(inline.tryWrite(buffered, 512, 0, 4096), NOT_INLINE);
  assert.equal(inline.tryWrite(buffered, 4096, 0, 512), NOT_INLINE);
  assert.equal(inline.tryWrite(inMemory, 512, 0, 512), 512);
});

it('leaves large and direct I/O alone', () => {
  const inline = new InlineIo(arena);
  assert.equal(inline.tryRead(buffered, 0, 0, 64 * KIB + 1), NOT_INLINE);
  assert.equal(inline.tryWrite(buffered, 0, 0, 68 * KIB), NOT_INLINE);
  assert.equal(inline.tryRead(direct, 0, 0, 4096), NOT_INLINE);
  assert.equal(inline.tryWrite(direct, 0, 0, 4096), NOT_INLINE);
});

it('does a bounded number of bytes in a batch', async () => {
  const inline = new InlineIo(arena);
  const fill = (): number => {
    let done = 0;
    while (inline.tryWrite(buffered, 0, 0, 64 * KIB) === 64 * KIB) done += 64 * KIB;
    return done;
  };
  assert.equal(fill(), MIB);
  assert.equal(inline.tryRead(inMemory, 0, 0, 4096), NOT_INLINE);
  inline.beginBatch();
  assert.equal(fill(), MIB);
  // Without batches the next turn begins anew.
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(fill(), MIB);
});

it('answers the errors of the call', () => {
  const inline = new InlineIo(arena);
  const readOnly = openSync(path, 'r');
  const file: IoFile = { fd: readOnly, isDirect: false, isMemory: true };
  assert.equal(inline.tryWrite(file, 0, 0, 4096), -9);
  assert.equal(inline.tryRead(file, 2 * MIB - 100, 0, 4096), 100);
  closeSync(readOnly);
});
