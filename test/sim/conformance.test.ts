// The conformance suite over every target and over a thousand random stacks of them. LAMINA_SEED repeats a
// run, LAMINA_STACKS sets how many.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { debugBuild } from '../../src/base/assert.ts';
import { Status } from '../../src/base/status.ts';
import { Op } from '../../src/bio/bio.ts';
import { MapResult, type TargetType } from '../../src/dm/target.ts';
import {
  BioDriver,
  builtInTargets,
  drawStack,
  makeLab,
  NO_DISKS,
  type Outcome,
  Prng,
  RECIPES,
  runSuite,
  type StackSpec,
  StackSubject,
} from '../../src/testing/index.ts';
import { SEED } from '../../src/testing/seed.ts';

// The debug build looks closer and takes longer: fewer there.
const STACKS = Number(process.env['LAMINA_STACKS'] ?? (debugBuild ? 250 : 1000));
const TARGETS = Object.keys(RECIPES).filter((name) => builtInTargets().includes(name));

async function check(name: string, spec: StackSpec, seed: number): Promise<void> {
  const subject = new StackSubject(name, spec);
  const failed: Outcome[] = [];
  await runSuite(subject, {
    seed,
    onOutcome: (outcome) => {
      if (outcome.result === 'failed') failed.push(outcome);
    },
  });
  assert.deepEqual(failed, [], `LAMINA_SEED=${seed} LAMINA_STACKS=1: ${subject.description}`);
}

test('every target has a recipe, or a reason not to', () => {
  const known = new Set([...Object.keys(RECIPES), ...Object.keys(NO_DISKS)]);
  assert.deepEqual(
    builtInTargets().filter((name) => !known.has(name)),
    [],
  );
});

for (const [index, target] of TARGETS.entries()) {
  test(`${target}: passes the suite alone, LAMINA_SEED=${SEED}`, async () => {
    for (let i = 0; i < 5; i++) {
      const seed = SEED + index * 1000 + i;
      const options = { targets: [target], topTarget: target, layersMax: 1 };
      await check(target, drawStack(new Prng(seed), options), seed);
    }
  });
}

test(`${STACKS} random stacks pass the suite, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < STACKS; i++) {
    const seed = SEED + i;
    await check(`stack ${seed}`, drawStack(new Prng(seed), { targets: TARGETS }), seed);
  }
});

test('zero reads as zeroes and takes everything, error takes nothing', async () => {
  const lab = makeLab({ seed: SEED });
  await lab.dm.create({ name: 'm', table: '0 64 zero\n64 64 error' });
  const open = await lab.dm.openDevice('m');
  const driver = new BioDriver(open.device, lab.arena, { guards: true });
  const half = 64 * 512;
  const ones = new Uint8Array(half).fill(1);
  assert.equal(await driver.write(0, ones), Status.Ok);
  assert.deepEqual(await driver.tryRead(0, half), Buffer.alloc(half));
  assert.equal(await driver.discard(0, half), Status.Ok);
  const refused = [
    await driver.write(half, ones),
    await driver.tryRead(half, half),
    await driver.zero(half, half),
    await driver.discard(half, half),
    // One of both: as bad as the worse half.
    await driver.write(half / 2, ones, { segments: [7, half - 7] }),
  ];
  assert.deepEqual(refused, [5, 5, 5, 5, 5]);
  await open.close();
  await lab.dm.close();
});

test('a failure is the same again with the same seed, and made small', async () => {
  const lossy: StackSpec = {
    disks: [{ name: 'test:a', lenSectors: 256 }],
    devices: [{ name: 'm', table: '0 256 forgetful test:a' }],
    top: 'm',
  };
  const subject = new StackSubject('forgetful', lossy, (lab) => lab.targetType(FORGETFUL));
  const run = async (): Promise<Outcome | undefined> =>
    (await runSuite(subject, { seed: 7, only: ['data'] }))[0];
  const outcome = await run();
  assert.match(outcome?.failure ?? '', /sector \d+ is /);
  assert.ok((outcome?.load ?? []).length < 20, `still ${outcome?.load?.length} operations`);
  assert.deepEqual(await run(), outcome);
});

/** Every eleventh write or so goes to the sector before. */
const FORGETFUL: TargetType = {
  name: 'forgetful',
  version: [1, 0, 0],
  async create(args, host) {
    const device = await host.openDevice(args[0] ?? '');
    return {
      map(bio) {
        bio.device = device;
        if (bio.op === Op.Write && bio.sector > 0 && host.random() < 0.09) bio.sector--;
        return MapResult.Remapped;
      },
      status: () => '',
      devices: () => [{ device, startSector: 0, lenSectors: host.lenSectors }],
    };
  },
};
