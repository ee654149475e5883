// Runs the suite of the tree named as the first argument until a check fails. Exit status 0: all passed.
// Arguments: ROOT SEED STACKS [WHAT]. WHAT is `stacks` (the conformance suite and storms over a thin pool),
// `nbd` (storms of NBD clients), `insitu` (storms over insitu_comp), `snapshot` (storms over snapshots) or all, if not given. What failed goes to stdout, one line.

import { pathToFileURL } from 'node:url';
import { join } from 'node:path';

type Testing = typeof import('../../src/testing/index.ts');

const [root = '', seedText = '1', stacksText = '40', what = 'stacks nbd insitu snapshot'] =
  process.argv.slice(2);
const entry = pathToFileURL(join(root, 'testing/index.js')).href;
const testing = (await import(entry)) as Testing;
const { builtInTargets, drawStack, Prng, RECIPES, runSuite, StackSubject } = testing;

function fail(text: string): void {
  process.stdout.write(`${text.split('\n')[0]}\n`, () => process.exit(1));
}

const targets = builtInTargets().filter((name) => name in RECIPES);
const seed = Number(seedText);
async function stacks(): Promise<void> {
  for (let i = 0; i < Number(stacksText); i++) {
    const spec = drawStack(new Prng(seed + i), { targets });
    const subject = new StackSubject(`stack ${seed + i}`, spec);
    await runSuite(subject, {
      seed: seed + i,
      shrinkRuns: 0,
      onOutcome: (outcome) => {
        if (outcome.result !== 'failed') return;
        fail(`${outcome.check} (seed ${outcome.seed}): ${outcome.failure}`);
      },
    });
  }
}

/** A thin pool has snapshots; every third does not zero new blocks. */
async function thinStorms(): Promise<void> {
  for (let i = 0; i < Number(stacksText) * 1.5; i++) {
    try {
      await testing.runThinStorm({
        seed: seed + i,
        skipsZeroing: i % 3 === 2,
        judge: async (image) => {
          await testing.checkDataCounts(new testing.MetadataDisk(image.length / 4096, image));
          return '';
        },
      });
    } catch (error) {
      fail(`thin storm (seed ${seed + i}): ${(error as Error).message}`);
      await new Promise(() => undefined);
    }
  }
}

async function nbdStorms(): Promise<void> {
  for (let i = 0; i < Number(stacksText) * 3; i++) {
    try {
      await testing.runNbdStorm({ seed: seed + i });
    } catch (error) {
      fail((error as Error).message);
      await new Promise(() => undefined);
    }
  }
}

async function insituStorms(): Promise<void> {
  try {
    await troubled();
    await testing.fuzzInsitu(await testing.fuzzVolumes(seed), { seed, rounds: 40 });
    for (let i = 0; i < 6; i++) await testing.runInsituStorm(seed + i);
  } catch (error) {
    fail((error as Error).message);
    await new Promise(() => undefined);
  }
}

/** Crashes at every moment, on a disk that fails and on one that does not. */
async function troubled(): Promise<void> {
  const { drawInsituSweep, INSITU_TROUBLE, insituSubject, sweepCrashes } = testing;
  for (let i = 0; i < 12; i++) {
    const subject = await insituSubject(drawInsituSweep(seed + i), seed + i, 24, async () => '');
    const disturb = INSITU_TROUBLE['a disk that fails'];
    const options = { seed: seed + i, cutsPerMoment: 1, againEvery: 0 };
    await sweepCrashes(i % 3 === 0 ? subject : { ...subject, disturb }, options);
  }
}

async function snapshotStorms(): Promise<void> {
  for (let i = 0; i < Number(stacksText) * 4; i++) {
    try {
      await testing.runSnapshotStorm({ seed: seed + i });
    } catch (error) {
      fail(`snapshot storm (seed ${seed + i}): ${(error as Error).message}`);
      await new Promise(() => undefined);
    }
  }
}

if (what.includes('insitu')) await insituStorms();
if (what.includes('snapshot')) await snapshotStorms();
if (what.includes('nbd')) await nbdStorms();
if (what.includes('stacks')) {
  await stacks();
  await thinStorms();
}
