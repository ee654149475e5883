// The backup stream's structures: the numbers of the specification.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BACKUP_MAGIC, crcOf } from './backup.ts';

test('the magic is the text of the specification, and the checksum is CRC-32C', () => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BACKUP_MAGIC);
  assert.equal(bytes.toString(), 'LAMINABK');
  assert.equal(crcOf(Buffer.from('123456789')), 0xe3069283);
});
