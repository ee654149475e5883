// A backup stream, written and read: what is in it comes back, and no damage to it passes.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { sourceOf } from '../../testing/backup-source.ts';
import { BackupReader, type BackupRecord } from './stream-reader.ts';
import { type BackupInfo, BackupWriter } from './stream-writer.ts';
import { checkChain } from './chain.ts';

const KIB = 1024;
const FULL: BackupInfo = {
  volume: 'völ',
  sizeBytes: 64 * KIB,
  blockBytes: 4 * KIB,
  madeAtMs: 1_700_000_000_000,
  state: 'pool/1/2/3',
  base: undefined,
};

async function written(
  info: BackupInfo,
  records: readonly { readonly offset: number; readonly length: number; readonly fill: number }[],
): Promise<Buffer> {
  const parts: Buffer[] = [];
  const writer = new BackupWriter(async (bytes) => {
    parts.push(Buffer.from(bytes));
    return await Promise.resolve();
  });
  await writer.header(info);
  for (const { offset, length, fill } of records) {
    if (fill === 0) await writer.zero(offset, length);
    else await writer.data(offset, new Uint8Array(length).fill(fill));
  }
  await writer.end();
  return Buffer.concat(parts);
}

async function read(bytes: Uint8Array): Promise<{ info: BackupInfo; records: BackupRecord[] }> {
  const reader = await BackupReader.open('x', sourceOf(bytes));
  const records: BackupRecord[] = [];
  for await (const { offset, length, data } of reader.records()) {
    records.push({ offset, length, data: data && Uint8Array.from(data) });
  }
  return { info: reader.info, records };
}

const RECORDS = [
  { offset: 0, length: 4 * KIB, fill: 7 },
  { offset: 4 * KIB, length: 8 * KIB, fill: 0 },
  { offset: 12 * KIB, length: 20 * KIB, fill: 0 },
  { offset: 32 * KIB, length: 512, fill: 9 },
  { offset: 32 * KIB + 512, length: 31 * KIB + 512, fill: 0 },
];

test('what was written comes back, adjacent zeros as one record', async () => {
  const { info, records } = await read(await written(FULL, RECORDS));
  assert.deepEqual(info, FULL);
  assert.deepEqual(
    records.map(({ offset, length, data }) => [offset, length, data?.[0]]),
    [
      [0, 4 * KIB, 7],
      [4 * KIB, 28 * KIB, undefined],
      [32 * KIB, 512, 9],
      [32 * KIB + 512, 31 * KIB + 512, undefined],
    ],
  );
  const base = { state: 'pool/1/1/1', sizeBytes: 32 * KIB };
  const increment = { ...FULL, base };
  const again = await read(await written(increment, RECORDS.slice(3)));
  assert.deepEqual(again.info, increment);
});

test('a stream that is cut off anywhere, or goes on behind its end, is refused', async () => {
  const bytes = await written(FULL, RECORDS);
  for (let end = 0; end < bytes.length; end += end < 600 || end > bytes.length - 200 ? 1 : 97) {
    await assert.rejects(
      read(bytes.subarray(0, end)),
      /^DmError: x: .*(cut off|not a lamina backup)/,
    );
  }
  await assert.rejects(
    read(Buffer.concat([bytes, Buffer.alloc(1)])),
    /there is more behind its end/,
  );
});

test('what is too short to be a backup is told with what was found and expected', async () => {
  const bytes = await written(FULL, RECORDS);
  await assert.rejects(
    read(Buffer.from('hello')),
    /^DmError: x: is not a lamina backup: 5 bytes found, at least 576 expected$/,
  );
  await assert.rejects(
    read(bytes.subarray(0, 9)),
    /^DmError: x: is cut off inside the header: 9 bytes found, at least 576 expected$/,
  );
});

test('a bit that has changed anywhere is found, and nothing wrong is given out', async () => {
  const bytes = await written(FULL, RECORDS);
  for (let at = 0; at < bytes.length; at += at < 700 || at > bytes.length - 300 ? 1 : 61) {
    const damaged = Buffer.from(bytes);
    damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
    await assert.rejects(read(damaged), (error) => error instanceof DmError, `byte ${at}`);
  }
});

test('a full backup leaves nothing out, an increment nothing that its base has not', async () => {
  const gap = [RECORDS[0], ...RECORDS.slice(3)].filter((r) => r !== undefined);
  await assert.rejects(read(await written(FULL, gap)), /nothing for bytes 4096 to 32768/);
  await assert.rejects(read(await written(FULL, RECORDS.slice(0, 3))), /nothing for bytes 32768/);
  const base = { state: 's', sizeBytes: 8 * KIB };
  await assert.rejects(read(await written({ ...FULL, base }, gap)), /nothing for bytes/);
  const twice = [RECORDS[0], RECORDS[0]].filter((r) => r !== undefined);
  await assert.rejects(read(await written(FULL, twice)), /a record for bytes 0 to 4096/);
});

test('links fit by state and size, and what does not is told by its name', () => {
  const one = { name: 'one', info: FULL };
  const increment = (state: string, sizeBytes: number): BackupInfo => ({
    ...FULL,
    state: 'later',
    base: { state, sizeBytes },
  });
  checkChain([one, { name: 'two', info: increment(FULL.state, FULL.sizeBytes) }], undefined);
  checkChain([{ name: 'two', info: increment('here', 5) }], 'here');
  const bad = (info: BackupInfo, onto?: string): (() => void) => {
    return () =>
      checkChain(onto === undefined ? [one, { name: 'two', info }] : [{ name: 'two', info }], onto);
  };
  assert.throws(bad(increment('other', FULL.sizeBytes)), /^DmError: two: .*'?other.* missing/);
  assert.throws(
    bad(increment(FULL.state, 5)),
    /two: is an increment of 5 bytes, but one has 65536/,
  );
  assert.throws(bad(increment('a', 5), 'b'), /two: .* --onto has the state b/);
});
