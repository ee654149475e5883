// The codec against a log that Linux 6.1 has written: same fields read, same bytes written.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inflateSync } from 'node:zlib';
import {
  decodeLogHeader,
  decodeLogSuper,
  encodeLogHeader,
  encodeLogSuper,
  LOG_MAGIC,
  LOG_VERSION,
  logFlagNames,
} from './log-writes.ts';

// 6.1.192, two buffered writes of 4 KiB, a flush, `dmsetup message ... mark hello`, a discard of 32 KiB,
// `dmsetup remove`; on devices of 512-byte blocks.
const KERNEL_LOG = inflateSync(
  Buffer.from(
    'eNrt2EEKQFAUhtFHkaEl2BxJ8spTtm+AiSW450z++a07+fa5nFNZUpVu7bOpTgTQfZZY8jYOxOUDAAAAYuj1n9CO' +
      'M4sgoP8BAADBVE4Q2tsBm2fncV2zs/zWBd0/xzc=',
    'base64',
  ),
);

const BLOCK = 512;
const HEADERS = [
  { at: 1, block: 8, blocks: 8, flags: 0, text: '' },
  { at: 10, block: 16, blocks: 8, flags: 0, text: '' },
  { at: 19, block: 0, blocks: 0, flags: 1, text: '' },
  { at: 20, block: 0, blocks: 0, flags: 8, text: 'hello' },
];

const view = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

test('the super, both ways', () => {
  const found = decodeLogSuper(view(KERNEL_LOG), 0);
  assert.deepEqual(found, {
    magic: LOG_MAGIC,
    version: LOG_VERSION,
    entries: 6n,
    blockBytes: BLOCK,
  });
  const made = new Uint8Array(BLOCK);
  encodeLogSuper(view(made), 0, { entries: 6, blockBytes: BLOCK });
  assert.deepEqual(made, new Uint8Array(KERNEL_LOG.subarray(0, BLOCK)));
});

test('entries, both ways', () => {
  for (const { at, text, ...header } of HEADERS) {
    const kernel = KERNEL_LOG.subarray(at * BLOCK, (at + 1) * BLOCK);
    const raw = decodeLogHeader(view(kernel), 0);
    assert.deepEqual(raw, {
      block: BigInt(header.block),
      blocks: BigInt(header.blocks),
      flags: BigInt(header.flags),
      textBytes: BigInt(text.length),
    });
    const made = Buffer.alloc(BLOCK);
    encodeLogHeader(view(made), 0, { ...header, textBytes: text.length });
    made.write(text, 32);
    assert.deepEqual(new Uint8Array(made), new Uint8Array(kernel), `entry at block ${at}`);
  }
});

test('numbers above 32 bits are whole', () => {
  const bytes = new Uint8Array(32);
  const block = 2 ** 45 + 3;
  encodeLogHeader(view(bytes), 0, { block, blocks: 2 ** 33 + 1, flags: 31, textBytes: 0 });
  const { block: a, blocks: b } = decodeLogHeader(view(bytes), 0);
  assert.deepEqual([Number(a), Number(b)], [block, 2 ** 33 + 1]);
});

test('names of flags', () => {
  assert.equal(logFlagNames(0), '-');
  assert.equal(logFlagNames(1 | 2 | 16), 'FLUSH|FUA|METADATA');
});
