// The write log, against a plain list of writes.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { BioVec } from '../../bio/vec.ts';
import { Cmd } from '../../format/nbd.ts';
import { NbdRequest } from './request.ts';
import { WriteLog } from './write-log.ts';

const SIZE = 1000;

function write(offBytes: number, lenBytes: number, cmd: number = Cmd.Write): NbdRequest {
  const request = new NbdRequest({ requestDone: () => {} });
  request.begin(cmd, offBytes, lenBytes);
  // Two segments, begun in the middle of the first one.
  const first = Math.ceil(lenBytes / 2);
  request.vec = new BioVec([0, 5000], [first + 3, Math.max(1, lenBytes - first)], request);
  request.segmentDone = 3;
  return request;
}

function memory(fill: number): Uint8Array {
  return Uint8Array.from({ length: 10_000 }, (_, i) => (i < 5000 ? i : i - 4990) * 7 + fill);
}

function dataOf(request: NbdRequest, u8: Uint8Array): Buffer {
  const first = Math.ceil(request.lenBytes / 2);
  const second = u8.subarray(5000, 5000 + request.lenBytes - first);
  return Buffer.concat([u8.subarray(3, 3 + first), second]);
}

describe('the write log', () => {
  it('keeps what was written until a flush that was sent after it', () => {
    const log = new WriteLog(SIZE);
    assert.equal(log.isDirty, false);
    log.add(write(0, 10), memory(1));
    const mark = log.mark;
    log.add(write(512, 10), memory(2));
    log.flushed(mark);
    assert.equal(log.isDirty, true);
    assert.equal(log.end - log.first, 1);
    assert.equal(log.offBytes(log.first), 512);
    log.flushed(log.mark);
    assert.equal(log.isDirty, false);
    assert.equal(log.first, log.end);
  });

  it('has a gap where a write found no room, until that is flushed', () => {
    const log = new WriteLog(SIZE);
    log.add(write(0, SIZE), memory(1));
    assert.ok(log.isComplete);
    log.add(write(0, 1), memory(1));
    assert.ok(!log.isComplete && log.wantsFlush);
    log.flushed(log.mark - 1);
    assert.ok(!log.isComplete);
    log.flushed(log.mark);
    assert.ok(log.isComplete && !log.isDirty);
  });

  it('keeps nothing when it has no size, and says so', () => {
    const log = new WriteLog(0);
    log.add(write(0, 512, Cmd.WriteZeroes), memory(1));
    assert.ok(log.isDirty && !log.isComplete);
    log.drop();
    assert.ok(!log.isDirty);
  });

  it('gives back every byte in order, however writes and flushes alternate', () => {
    const step = fc.oneof(
      { weight: 5, arbitrary: fc.record({ len: fc.integer({ min: 1, max: 400 }) }) },
      { weight: 1, arbitrary: fc.record({ len: fc.constant(0) }) },
      { weight: 2, arbitrary: fc.record({ flush: fc.nat(5) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const log = new WriteLog(SIZE);
        let model: { mark: number; data: Buffer | null; off: number }[] = [];
        let gap = 0;
        let flushed = 0;
        for (const [i, s] of steps.entries()) {
          if ('flush' in s) {
            const mark = Math.max(0, log.mark - s.flush);
            log.flushed(mark);
            flushed = Math.max(flushed, mark);
            model = model.filter((entry) => entry.mark > flushed);
          } else {
            const u8 = memory(i);
            const request = write(i * 512, s.len || 512, s.len === 0 ? Cmd.WriteZeroes : Cmd.Write);
            const before = log.end;
            log.add(request, u8);
            const data = s.len === 0 ? null : dataOf(request, u8);
            if (log.end === before) gap = log.mark;
            else model.push({ mark: log.mark, data, off: i * 512 });
          }
          assert.equal(log.isComplete, gap <= flushed);
          assert.equal(log.isDirty, log.mark > flushed);
          checkEntries(log, model);
        }
      }),
      { numRuns: 500 },
    );
  });
});

function checkEntries(
  log: WriteLog,
  model: readonly { readonly data: Buffer | null; readonly off: number }[],
): void {
  assert.equal(log.end - log.first, model.length);
  for (const [i, { data, off }] of model.entries()) {
    const entry = log.first + i;
    assert.equal(log.offBytes(entry), off);
    assert.equal(log.cmd(entry), data === null ? Cmd.WriteZeroes : Cmd.Write);
    if (data === null) continue;
    assert.equal(log.lenBytes(entry), data.length);
    const out = new Uint8Array(data.length + 2);
    const from = data.length >> 1;
    log.copyOut(entry, 0, from, out, 1);
    log.copyOut(entry, from, data.length - from, out, 1 + from);
    assert.deepEqual(Buffer.from(out.subarray(1, 1 + data.length)), data);
  }
}
