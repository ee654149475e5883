// zero: reads are zeroes whatever was in the buffer and whatever was written; no arguments.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { SEED } from '../../testing/seed.ts';
import { makeLab } from '../../testing/sim/lab.ts';

test(`reads are zeroes in segments of any shape, also in pieces, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const lab = makeLab({ seed: SEED, clonesMax: 1 });
  // Two of them, so that reads across the middle are split.
  await lab.dm.create({ name: 'z', table: '0 40 zero\n40 24 zero' });
  const open = await lab.dm.openDevice('z');
  const driver = new BioDriver(open.device, lab.arena, { guards: true });
  for (let i = 0; i < 100; i++) {
    const sectors = rng.between(1, 64);
    const [at, len] = [rng.below(65 - sectors) * 512, sectors * 512];
    const cuts = Array.from({ length: rng.below(4) }, () => rng.between(1, len - 1));
    const ends = [...new Set([...cuts, len])].sort((a, b) => a - b);
    const segments = ends.map((end, n) => end - (ends[n - 1] ?? 0));
    if (rng.chance(0.5)) {
      const data = new Uint8Array(len).fill(0xff);
      assert.equal(await driver.write(at, data, { segments }), Status.Ok);
    }
    const read = await driver.read(at, len, { segments, skewBytes: rng.below(64) });
    assert.ok(
      read.every((byte) => byte === 0),
      `read ${at}+${len} [${segments.join(',')}]`,
    );
  }
  await open.close();
  await lab.dm.close();
});

test('everything succeeds, nothing is allocated, nothing is below', async () => {
  const lab = makeLab({ seed: 1 });
  await lab.dm.create({ name: 'z', table: '0 64 zero' });
  const open = await lab.dm.openDevice('z');
  const driver = new BioDriver(open.device, lab.arena);
  assert.deepEqual(
    [await driver.discard(0, 64 * 512), await driver.zero(0, 512), await driver.flush()],
    [Status.Ok, Status.Ok, Status.Ok],
  );
  assert.deepEqual(await open.device.extents(5, 20, 1), [
    { lenSectors: 20, isHole: true, isZero: true },
  ]);
  assert.deepEqual(await lab.dm.table('z'), [
    { startSector: 0, lenSectors: 64, type: 'zero', params: '' },
  ]);
  assert.equal((await lab.dm.status('z'))[0]?.params, '');
  assert.deepEqual(await lab.dm.deps('z'), []);
  const refused = { name: 'DmError', message: /zero: No arguments required: found 'a b'/ };
  await assert.rejects(lab.dm.load('z', '0 64 zero a b'), refused);
  await open.close();
  await lab.dm.close();
});
