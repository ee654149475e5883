// insitu_comp and a crash at every moment; each disk that is left is judged by `lamina compress check` as well.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sweepCrashes } from '../../src/testing/crash-sweep.ts';
import { drawInsituSweep, insituSubject } from '../../src/testing/insitu-sweep.ts';
import { blankOldDisk } from '../../src/testing/insitu-old-disk.ts';
import { INSITU_TROUBLE } from '../../src/testing/insitu-trouble.ts';
import { SEED } from '../../src/testing/seed.ts';
import { checkVolume } from '../../src/tools/compress/check.ts';
import type { CompressIo } from '../../src/tools/compress/image.ts';

const SWEEPS = Number(process.env['LAMINA_SWEEPS'] ?? 10);
const TROUBLED = Math.ceil(SWEEPS / 3);
const OPERATIONS = 24;

function ioOf(image: Uint8Array): CompressIo {
  return {
    sizeBytes: image.length,
    blockBytes: 512,
    read: async (at, len) => await Promise.resolve(image.subarray(at, at + len)),
    write: () => assert.fail('a check writes'),
    flush: () => assert.fail('a check flushes'),
  };
}

async function judge(image: Uint8Array): Promise<string> {
  const found = await checkVolume(ioOf(image));
  if (typeof found === 'string') return found;
  const [fault] = found.faults;
  return fault === undefined ? '' : `${fault.kind} at sector ${fault.sector}: ${fault.what}`;
}

test(`a crash at every moment of ${SWEEPS} loads, and again while it is opened, LAMINA_SEED=${SEED}`, async () => {
  let spilled = 0;
  const judgeAndCount = async (image: Uint8Array): Promise<string> => {
    const found = await checkVolume(ioOf(image));
    if (typeof found !== 'string' && found.claims.usedUnits > 0) spilled++;
    return await judge(image);
  };
  for (let i = 0; i < SWEEPS; i++) {
    const seed = SEED + i;
    const subject = await insituSubject(drawInsituSweep(seed), seed, OPERATIONS, judgeAndCount);
    const counts = await sweepCrashes(subject, { seed, cutsPerMoment: 2, againEvery: 50 });
    assert.ok(counts.moments > OPERATIONS && counts.images > OPERATIONS, JSON.stringify(counts));
  }
  assert.ok(spilled > 0, 'the spill area was never in use');
});

for (const [what, disturb] of Object.entries(INSITU_TROUBLE)) {
  test(`${what}, and a crash at every moment: nothing acknowledged is lost, all goes on afterwards, LAMINA_SEED=${SEED}`, async () => {
    let failed = 0;
    for (let i = 0; i < TROUBLED; i++) {
      const seed = SEED + 7 * i;
      const drawn = await insituSubject(drawInsituSweep(seed), seed, OPERATIONS, judge);
      const subject = { ...drawn, disturb, clonesMax: i % 2 === 0 ? 1 : 256 };
      failed += (await sweepCrashes(subject, { seed, cutsPerMoment: 1, againEvery: 0 })).failed;
    }
    // No memory is no error: everything waits.
    assert.equal(failed > 0, what !== 'no memory for buffers');
  });
}

test(`version 1 fails the sweeps that version 2 passes, LAMINA_SEED=${SEED}`, async (t) => {
  const nobody = (): Promise<string> => Promise.resolve('');
  const found: string[] = [];
  for (let i = 0; i < 4; i++) {
    const seed = SEED + i;
    const drawn = { ...drawInsituSweep(seed), fill: 'compressed', blockBytes: 512 } as const;
    const subject = await insituSubject(drawn, seed, OPERATIONS, nobody);
    const image = blankOldDisk(subject.image.length / 512, i % 2 === 0 ? 'lzo' : 'deflate');
    const ops = subject.ops.filter(({ kind }) => kind === 'write' || kind === 'flush');
    try {
      const old = { ...subject, name: 'version 1', image, ops };
      await sweepCrashes(old, { seed, cutsPerMoment: 2, againEvery: 0 });
    } catch (error) {
      found.push((error as Error).message);
    }
  }
  t.diagnostic(`${found.length} of 4; ${found[0]}`);
  assert.ok(found.length > 0, 'no crash has harmed anything: the sweep has no teeth');
  for (const text of found) assert.match(text, /moment \d+: /);
});
