import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BugError } from '../base/assert.ts';
import { bytes, getU64, setU64, struct, u8, u16, u32, u64, u64big } from './struct.ts';

const Sample = struct('sample', 32, {
  kind: u8(0),
  flags: u8(1),
  count: u16(2),
  csum: u32(4),
  block: u64(8),
  magic: u64big(16),
  tail: bytes(24, 8),
});

test('a struct decodes to what was encoded, little-endian, at any base', () => {
  const view = new DataView(new ArrayBuffer(64));
  const values = {
    kind: 1,
    flags: 2,
    count: 0x1234,
    csum: 0xdeadbeef,
    block: 2 ** 53 - 1,
    magic: 0x1122334455667788n,
    tail: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8),
  };
  Sample.$encode(view, 7, values);
  assert.deepEqual(Sample.$decode(view, 7), values);
  assert.deepEqual([...new Uint8Array(view.buffer, 7, 4)], [1, 2, 0x34, 0x12]);
  assert.equal(Sample.block.get(view, 7), 2 ** 53 - 1);
});

test('a declaration with a gap, an overlap or a wrong total does not load', () => {
  assert.throws(() => struct('gap', 8, { a: u16(0), b: u32(4) }), BugError);
  assert.throws(() => struct('overlap', 6, { a: u32(0), b: u32(2) }), BugError);
  assert.throws(() => struct('total', 9, { a: u32(0), b: u32(4) }), BugError);
});

test('a u64 that is not a safe integer is refused both ways', () => {
  const view = new DataView(new ArrayBuffer(8));
  assert.throws(() => setU64(view, 0, 2 ** 53), BugError);
  assert.throws(() => setU64(view, 0, -1), BugError);
  view.setBigUint64(0, 1n << 53n, true);
  assert.throws(() => getU64(view, 0), RangeError);
  view.setBigUint64(0, (1n << 53n) - 1n, true);
  assert.equal(getU64(view, 0), 2 ** 53 - 1);
});
