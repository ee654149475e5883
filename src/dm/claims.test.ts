// What is claimed for one owner alone: found again through other devices, and given back with the table.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { invalid } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { SEED } from '../testing/seed.ts';
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
    ['wide', 8, true],
    ['wide', 9, false],
  ] as const) {
    const table = `0 ${sectors} claimer ${device}`;
    assert.equal(await isFree(lab, table), free, table);
  }
  await assert.rejects(create(lab, 'two', '0 50 claimer edge'), {
    message: /edge has sectors 99\.\.100 of test:a, and so has one's part test:a/,
  });
  await end(lab);
});

/** Where every sector of a device lies, as `disk:sector`, by the rules of linear and striped. */
type Sectors = readonly string[];

interface Stack {
  readonly table: string;
  readonly sectors: Sectors;
}

/** A table over parts of what is there, with one to three targets. */
function randomTable(random: Prng, below: ReadonlyMap<string, Sectors>): Stack {
  const names = [...below.keys()];
  const lines: string[] = [];
  const all: string[] = [];
  const part = (len: number): { readonly word: string; readonly sectors: Sectors } => {
    const fitting = names.filter((name) => (below.get(name)?.length ?? 0) >= len);
    const name = fitting[random.below(fitting.length)] as string;
    const sectors = below.get(name) ?? [];
    const start = random.below(sectors.length - len + 1);
    return { word: `${name} ${start}`, sectors: sectors.slice(start, start + len) };
  };
  for (let i = 1 + random.below(3); i > 0; i--) {
    const start = all.length;
    const count = 1 + random.below(4);
    const chunk = 1 + random.below(5);
    const rows = 1 + random.below(3);
    const legs = Array.from({ length: count }, () => part(rows * chunk));
    for (let at = 0; at < rows * chunk * count; at++) {
      const nr = Math.floor(at / chunk);
      const inLeg = Math.floor(nr / count) * chunk + (at % chunk);
      all.push(legs[nr % count]?.sectors[inLeg] as string);
    }
    const words = legs.map(({ word }) => word).join(' ');
    const type = count === 1 && random.below(2) === 0 ? 'linear' : `striped ${count} ${chunk}`;
    lines.push(`${start} ${all.length - start} ${type} ${words}`);
  }
  return { table: lines.join('\n'), sectors: all };
}

test(`claims through random stacks are refused exactly where sectors are shared, LAMINA_SEED=${SEED}`, async () => {
  const random = new Prng(SEED);
  const outcomes = { free: 0, taken: 0 };
  for (let round = 0; round < 12; round++) {
    const lab = claimLab();
    const there = new Map<string, Sectors>(
      ['a', 'b'].map((d) => [`test:${d}`, Array.from({ length: 1024 }, (_, i) => `${d}:${i}`)]),
    );
    for (let i = 0; i < 8; i++) {
      const { table, sectors } = randomTable(random, there);
      await create(lab, `d${i}`, table);
      there.set(`d${i}`, sectors);
    }
    const devices = [...there].filter(([name]) => name.startsWith('d'));
    const [one, its] = devices[random.below(devices.length)] as [string, Sectors];
    const len = 1 + random.below(its.length);
    await create(lab, 'owner', `0 ${len} claimer ${one}`);
    const claimed = new Set(its.slice(0, len));
    for (const [name, sectors] of devices) {
      const probe = 1 + random.below(sectors.length);
      const isShared = sectors.slice(0, probe).some((sector) => claimed.has(sector));
      const table = `0 ${probe} claimer ${name}`;
      assert.equal(await isFree(lab, table), !isShared, `round ${round}: ${table}`);
      outcomes[isShared ? 'taken' : 'free']++;
    }
    await end(lab);
  }
  assert.ok(outcomes.free > 10 && outcomes.taken > 10, JSON.stringify(outcomes));
});

test('a device open alone: who has its sectors through others refuses it, and is refused', async () => {
  const lab = claimLab();
  const how = { by: 'a tool', isReadOnly: false, isAlone: true };
  const plain = { by: 'a client', isReadOnly: false, isAlone: false };
  const isBusy = (message: RegExp): object => ({ status: Status.Busy, message });
  await create(lab, 'low', '0 100 linear test:a 0');
  await create(lab, 'high', '0 100 linear test:a 50');
  await create(lab, 'far', '0 100 linear test:a 100');
  await create(lab, 'upper', '0 10 linear low 80');

  const client = await lab.dm.openDevice('upper', plain);
  await assert.rejects(
    lab.dm.openDevice('high', how),
    isBusy(
      /^device high: is in use: .*sectors 80\.\.90 of test:a, .*upper, which a client has open/,
    ),
  );
  const apart = await lab.dm.openDevice('far', { ...how, by: 'another tool' });
  await apart.close();
  await client.close();

  const held = await lab.dm.openDevice('high', how);
  await assert.rejects(lab.dm.openDevice('low', plain), isBusy(/low has .*high, which a tool has/));
  await assert.rejects(lab.dm.openDevice('low', how), isBusy(/low has .*high, which a tool has/));
  await assert.rejects(
    create(lab, 'one', '0 60 claimer low'),
    isBusy(/part already in use: .*a tool/),
  );
  assert.ok(await isFree(lab, '0 50 claimer low'));
  await held.close();

  await create(lab, 'one', '0 60 claimer low');
  for (const isReadOnly of [false, true]) {
    await assert.rejects(
      lab.dm.openDevice('high', { ...how, isReadOnly }),
      isBusy(/high has sectors 50\.\.60 of test:a, and so has low, which is one's part/),
    );
  }
  await lab.scheduler.settle(lab.dm.remove('one'));

  // Who reads may share with who reads.
  const reads = { ...how, isReadOnly: true };
  const all = [await lab.dm.openDevice('high', reads), await lab.dm.openDevice('low', reads)];
  await assert.rejects(lab.dm.openDevice('low', plain), isBusy(/a tool has open/));
  for (const one of all) await one.close();
  await end(lab);
});

test('a device is not open alone for writing while another makes something of its sectors', async () => {
  const lab = claimLab();
  lab.targetType({
    name: 'other',
    version: [1, 0, 0],
    create: async (_words, host): Promise<Target> => {
      const device = await host.openDevice('test:a');
      const range = { device, startSector: 0, lenSectors: host.lenSectors };
      return { map: () => 3, status: () => '', devices: () => [range] };
    },
  });
  const how = { by: 'a tool', isReadOnly: false, isAlone: true };
  await create(lab, 'low', '0 100 linear test:a 50');
  await create(lab, 'sealed', '0 60 other');
  await assert.rejects(lab.dm.openDevice('low', how), {
    status: Status.Busy,
    message: /sectors 50\.\.60 of test:a, .*sealed \(other\) uses/,
  });
  // What is under it is its own.
  const held = await lab.dm.openDevice('sealed', how);
  await held.close();
  await lab.scheduler.settle(lab.dm.remove('sealed'));
  await (await lab.dm.openDevice('low', how)).close();
  await end(lab);
});
