// What the model of a device's content accepts of a read beside a write.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VersionModel } from './version-model.ts';

/** A sector whose first `words` words are of one write, the others of another. */
function torn(first: number, words: number, second: number): Uint8Array {
  const data = VersionModel.data(second, 0, 1);
  data.set(VersionModel.data(first, 0, 1).subarray(0, words * 4));
  return data;
}

for (const mayTear of [false, true]) {
  test(`a read beside a write ${mayTear ? 'may' : 'must not'} be torn`, () => {
    const model = new VersionModel(1);
    model.mayTear = mayTear;
    const old = model.sendWrite(0, 1);
    model.writeDone(old, false);
    const read = model.sendRead(0, 1);
    const next = model.sendWrite(0, 1);
    const wrong = model.checkRead(read, torn(next.number, 37, old.number));
    assert.equal(wrong === undefined, mayTear, wrong);
  });
}

test('a torn read that nothing was written beside is wrong on every device', () => {
  const model = new VersionModel(1);
  model.mayTear = true;
  const old = model.sendWrite(0, 1);
  model.writeDone(old, false);
  const next = model.sendWrite(0, 1);
  model.writeDone(next, false);
  assert.match(
    model.checkRead(model.sendRead(0, 1), torn(next.number, 37, old.number)) ?? '',
    /damaged; may be write 2$/,
  );
});

test('words of no write are wrong beside a write, too', () => {
  const model = new VersionModel(1);
  model.mayTear = true;
  const read = model.sendRead(0, 1);
  const next = model.sendWrite(0, 1);
  const data = VersionModel.data(next.number, 0, 1);
  data[200] = (data[200] as number) ^ 0x55;
  assert.match(model.checkRead(read, data) ?? '', /damaged/);
});
