// Writes of parts of blocks go on when all buffer memory is in the hands of those who wait for them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import { IoContext } from '../../bio/context.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { endBio } from '../../bio/submit.ts';
import { Export } from '../../exports/export.ts';
import { WriteGate } from '../../exports/write-gate.ts';
import { Arena, NONE } from '../../io/arena.ts';
import { writePartial } from './partial-write.ts';

const BLOCK = 4096;

/** A device of memory that answers at once. */
function memoryDevice(arena: Arena, bytes: Uint8Array): BlockDevice {
  return {
    name: 'memory',
    lenSectors: bytes.length / 512,
    isReadOnly: false,
    limits: { logicalBlockBytes: BLOCK, physicalBlockBytes: BLOCK, maxDiscardSectors: 0 },
    submit(bio: Bio): void {
      const at = bio.sector * 512;
      const mem = bio.vec?.mems[0] as number;
      if (bio.op === Op.Read) arena.u8.set(bytes.subarray(at, at + bio.lenBytes), mem);
      else if (bio.op === Op.Write) bytes.set(arena.u8.subarray(mem, mem + bio.lenBytes), at);
      else bytes.fill(0, at, at + bio.lenBytes);
      endBio(bio, Status.Ok);
    },
  } as unknown as BlockDevice;
}

test('two writes of parts of a block need no memory but the gate', async () => {
  const arena = new Arena(4 << 20);
  const gate = WriteGate.tryMake(arena);
  assert.ok(gate !== undefined);
  const bytes = new Uint8Array(4 * BLOCK).fill(7);
  const device = memoryDevice(arena, bytes);
  const settings = { name: 'x', description: '', isReadOnly: false };
  const exported = new Export(settings, { device, close: () => {} }, gate);
  const payload = arena.tryAlloc(3 * BLOCK);
  arena.u8.fill(1, payload, payload + 3 * BLOCK);
  while (arena.tryAlloc(BLOCK) !== NONE);
  const ctx = new IoContext({ name: 'test' });
  const shared = { export: exported, ctx, arena, flags: 0 };
  const results = await Promise.all([
    writePartial({ ...shared, offBytes: 100, lenBytes: 2 * BLOCK, mem: payload }),
    writePartial({ ...shared, offBytes: 3 * BLOCK + 5, lenBytes: 10, mem: NONE }),
  ]);
  assert.deepEqual(results, [Status.Ok, Status.Ok]);
  const expected = new Uint8Array(4 * BLOCK).fill(7);
  expected.fill(1, 100, 100 + 2 * BLOCK);
  expected.fill(0, 3 * BLOCK + 5, 3 * BLOCK + 15);
  assert.deepEqual(bytes, expected);
});
