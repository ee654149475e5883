// What is claimed for one owner alone: found again through other devices, and given back with the table.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { type Lab, makeLab } from '../testing/sim/lab.ts';
import type { DeviceRange, Target } from './target.ts';

/** `claimer DEVICE...` claims as many sectors of each as the target has; `refused` comes after its claims. */
function claimLab(): Lab {
  const lab = makeLab({ seed: 5 });
  for (const name of ['a', 'b']) lab.disk(name, 1024);
  lab.targetType({
    name: 'claimer',
    version: [1, 0, 0],
    create: async (words, host): Promise<Target> => {
      const { lenSectors } = host;
      const ranges: DeviceRange[] = [];
      for (const word of words.filter((w) => w !== 'refused')) {
        const range = { device: await host.openDevice(word), startSector: 0, lenSectors };
        host.claim(range, { role: 'part', by: 'a claimer' });
        ranges.push(range);
      }
      if (words.includes('refused')) throw invalid('refused after its claims');
      return { map: () => 3, status: () => '', devices: () => ranges };
    },
  });
  return lab;
}

async function create(lab: Lab, name: string, table: string): Promise<void> {
  await lab.scheduler.settle(lab.dm.create({ name, table }));
}

async function isFree(lab: Lab, table: string): Promise<boolean> {
  try {
    await create(lab, 'probe', table);
  } catch (error) {
    assert.equal((error as { status?: Status }).status, Status.Busy, String(error));
    return false;
  }
  await lab.scheduler.settle(lab.dm.remove('probe'));
  return true;
}

async function end(lab: Lab): Promise<void> {
  await lab.scheduler.settle(lab.dm.close());
  assert.equal(lab.dm.openCount, 0);
}

test('a claim is refused to others, not to its owner, and goes with the table', async () => {
  const lab = claimLab();
  await create(lab, 'one', '0 100 claimer test:a');
  await assert.rejects(create(lab, 'two', '0 8 claimer test:b test:a'), {
    status: Status.Busy,
    message: /two: .*part already in use by a claimer: test:a is one's part/,
  });
  assert.ok(await isFree(lab, '0 8 claimer test:b'), 'what the refused table had claimed is free');
  await lab.scheduler.settle(lab.dm.load('one', '0 200 claimer test:a'));
  await lab.scheduler.settle(lab.dm.resume('one'));
  assert.equal(await isFree(lab, '0 8 claimer test:a'), false);
  await lab.scheduler.settle(lab.dm.remove('one'));
  assert.ok(await isFree(lab, '0 8 claimer test:a'));
  await end(lab);
});

test('an inactive table has its claims until it is cleared', async () => {
  const lab = claimLab();
  await create(lab, 'one', '0 100 claimer test:a');
  await lab.scheduler.settle(lab.dm.load('one', '0 100 claimer test:b'));
  assert.equal(await isFree(lab, '0 8 claimer test:b'), false);
  await lab.scheduler.settle(lab.dm.clear('one'));
  assert.ok(await isFree(lab, '0 8 claimer test:b'));
  assert.equal(await isFree(lab, '0 8 claimer test:a'), false);
  await end(lab);
});

test('a table that claims the same twice is refused, and nothing stays claimed', async () => {
  const lab = claimLab();
  await create(lab, 'low', '0 100 linear test:a 50');
  for (const words of ['test:a test:a', 'low test:a']) {
    await assert.rejects(create(lab, 'one', `0 100 claimer ${words}`), {
      status: Status.Invalid,
      message:
        /part (test:a|low) and part test:a must not overlap: both have sectors \d+\.\.100 of/,
    });
  }
  await assert.rejects(create(lab, 'one', '0 100 claimer test:a refused'), /refused after/);
  assert.ok(await isFree(lab, '0 100 claimer test:a'));
  await end(lab);
});

test('claims are followed through other devices, sector by sector where that can be', async () => {
  const lab = claimLab();
  await create(lab, 'one', '0 100 claimer test:a');
  await create(lab, 'before', '0 100 linear test:a 0');
  await create(lab, 'edge', '0 100 linear test:a 99');
  await create(lab, 'after', '0 100 linear test:a 100');
  await create(lab, 'mixed', '0 50 linear test:b 0\n50 50 linear before 0');
  await create(lab, 'stripes', '0 64 striped 2 8 test:b 0 after 0');
  await create(lab, 'wide', '0 64 striped 2 8 test:b 0 edge 0');
  await create(lab, 'slow', '0 100 delay edge 0 0');
  for (const [device, sectors, free] of [
    ['before', 8, false],
    ['edge', 1, false],
    ['slow', 1, false],
    ['after', 100, true],
    ['mixed', 50, true],
    ['mixed', 51, false],
    ['stripes', 64, true],
    ['wide', 8, false],
  ] as const) {
    const table = `0 ${sectors} claimer ${device}`;
    assert.equal(await isFree(lab, table), free, table);
  }
  await assert.rejects(create(lab, 'two', '0 50 claimer edge'), {
    message: /edge has sectors 99\.\.100 of test:a, and so has one's part test:a/,
  });
  await end(lab);
});
