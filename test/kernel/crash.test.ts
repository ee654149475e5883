// File systems of a real kernel on lamina: what a crash leaves at random points of a workload recovers, is
// clean, and has every file that was synced before; and so it is after a kill -9 of the server.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openLog, replay } from '../../src/index.ts';
import { errorText } from '../../src/base/errors.ts';
import { Prng } from '../../src/base/prng.ts';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';
import { startTestPlane } from '../../src/testing/nbd-plane.ts';
import { applyPlainLog, FLUSH, FUA, type PlainEntry, readPlainLog } from './plain-log.ts';
import { inKernel, runInKernel } from './vm.ts';
import {
  checkClean,
  checkExt4Files,
  type FileSystem,
  FS_BYTES,
  makeFileSystem,
  readSums,
  recoverExt4,
  sumsScript,
  workload,
} from './workload.ts';
import { SEED } from '../../src/testing/seed.ts';

const POINTS = Number(process.env['LAMINA_POINTS'] ?? 100);
const KILLS = Number(process.env['LAMINA_KILLS'] ?? 3);
const FILES = 60;
/** Disks a boot can take. */
const DISKS = 20;
/** States of a disk that forgets what was flushed, which must be found out. */
const LIES = 3;

interface Point {
  readonly name: string;
  /** The last entry that the disk was sent. */
  readonly entry: number;
  /** All of it, or what of it a crash leaves. */
  readonly crash: { readonly seed: number; readonly state: number } | undefined;
  /** Files 1 to this were synced. */
  readonly synced: number;
}

/** A third each: at a flush, anywhere, and parts of what came since the last flush. */
function drawPoints(rng: Prng, log: readonly PlainEntry[]): Point[] {
  const flushes = log.flatMap((entry, index) => ((entry.flags & FLUSH) === 0 ? [] : [index]));
  const points: Point[] = [];
  for (let i = 0; i < POINTS; i++) {
    const entry = i % 3 === 0 ? rng.pick(flushes) : rng.below(log.length);
    const crash = i % 3 === 2 ? { seed: SEED, state: i } : undefined;
    const kind = ['flush', 'prefix', `state ${i}`][i % 3];
    points.push({ name: `entry ${entry}, ${kind}`, entry, crash, synced: syncedAt(log, entry) });
  }
  return points.toSorted((a, b) => a.entry - b.entry);
}

/** By the last mark up to the entry. */
function syncedAt(log: readonly PlainEntry[], entry: number): number {
  for (let i = entry; i >= 0; i--) {
    const match = /^synced-(\d+)$/.exec(log[i]?.mark ?? '');
    if (match !== null) return Number(match[1]);
  }
  return 0;
}

/** Gives each point's image in turn; they are made from one that follows the flushes of the log. */
async function* makeImages(
  paths: { readonly log: string; readonly rolling: string; readonly folder: string },
  log: readonly PlainEntry[],
  points: readonly Point[],
): AsyncGenerator<readonly [Point, string]> {
  const reader = openLog(paths.log);
  let next = 0;
  for (const [i, point] of points.entries()) {
    let flushed = point.entry - 1;
    while (flushed >= next && ((log[flushed]?.flags ?? 0) & FLUSH) === 0) flushed--;
    if (flushed >= next) {
      await replay(reader, paths.rolling, { from: { entry: next }, to: { entry: flushed } });
      next = flushed + 1;
    }
    const image = join(paths.folder, `point-${i}.img`);
    execFileSync('cp', ['--sparse=always', '--reflink=auto', paths.rolling, image]);
    await replay(reader, image, {
      from: { entry: next },
      to: { entry: point.entry },
      ...(point.crash === undefined ? {} : { crash: { ...point.crash, isTorn: false } }),
    });
    yield [point, image];
  }
  reader.close();
}

/** Boots with many images at a time; what is wrong with each, or ''. */
async function checkXfs(images: readonly string[], synced: readonly number[]): Promise<string[]> {
  const found: string[] = [];
  for (let i = 0; i < images.length; i += DISKS) {
    const disks = images.slice(i, i + DISKS);
    const output = await inKernel({ disks, script: sumsScript('xfs') });
    for (const [j, lost] of readSums(output, synced.slice(i, i + DISKS)).entries()) {
      found.push([lost, checkClean('xfs', disks[j] as string)].filter((s) => s !== '').join('; '));
    }
  }
  return found;
}

/** Runs the workload on a logged device; the log has a mark `synced-N` behind what made file N durable. */
async function logWorkload(fs: FileSystem, data: string, log: string): Promise<void> {
  const rig = await startTestPlane(fs === 'ext4' ? 'node' : 'auto');
  try {
    await rig.device('disk', `0 ${FS_BYTES / 512} log-writes ${data} ${log}`);
    const marks: Promise<string>[] = [];
    const output = await inKernel({
      nbd: [`nbd+unix:///disk?socket=${rig.socketPath}`],
      script: workload(fs, FILES),
      onLine: (line) => {
        if (!line.startsWith('synced ')) return;
        const mark = `mark ${line.replace(' ', '-')}`;
        marks.push(rig.plane.message('disk', 0, mark).then(() => '', errorText));
      },
    });
    assert.match(output, new RegExp(`synced ${FILES}\n`));
    assert.deepEqual(
      await Promise.all(marks),
      Array.from({ length: FILES }, () => ''),
    );
  } finally {
    await rig.close();
  }
}

for (const fs of ['ext4', 'xfs'] as const) {
  test(`${fs}: ${POINTS} crash points of a workload recover clean, LAMINA_SEED=${SEED}`, async () => {
    const folder = makeTestFolder();
    const at = (name: string): string => join(folder.path, name);
    try {
      makeFileSystem(fs, at('base.img'));
      copyFileSync(at('base.img'), at('data.img'));
      copyFileSync(at('base.img'), at('rolling.img'));
      writeFileSync(at('log.img'), '');
      truncateSync(at('log.img'), 1 << 30);
      await logWorkload(fs, at('data.img'), at('log.img'));

      const log = readPlainLog(at('log.img'));
      const flushes = log.filter((entry) => (entry.flags & FLUSH) !== 0).length;
      const fuas = log.filter((entry) => (entry.flags & FUA) !== 0).length;
      assert.ok(flushes > 50, `${flushes} flushes`);
      assert.equal(log.at(-1)?.mark, 'dm-log-writes-end');
      copyFileSync(at('base.img'), at('whole.img'));
      applyPlainLog(at('log.img'), at('whole.img'), log);
      const same = spawnSync('cmp', [at('whole.img'), at('data.img')], { encoding: 'utf8' });
      assert.equal(same.status, 0, `the log is not what was written: ${same.stdout}`);

      const rng = new Prng(SEED);
      const points = drawPoints(rng, log);
      const found: string[] = [];
      const images: string[] = [];
      const paths = { log: at('log.img'), rolling: at('rolling.img'), folder: folder.path };
      const sample = points.find(
        ({ crash, entry }) => crash === undefined && entry > log.length / 2,
      );
      for await (const [point, image] of makeImages(paths, log, points)) {
        if (point === sample) {
          copyFileSync(at('base.img'), at('sample.img'));
          applyPlainLog(at('log.img'), at('sample.img'), log.slice(0, point.entry + 1));
          assert.equal(spawnSync('cmp', [at('sample.img'), image]).status, 0, point.name);
          rmSync(at('sample.img'));
        }
        if (fs === 'xfs') {
          images.push(image);
          continue;
        }
        const unclean = recoverExt4(image);
        found.push(unclean === '' ? checkExt4Files(image, point.synced, folder.path) : unclean);
        rmSync(image);
      }
      const lies = Array.from({ length: LIES }, (_, i) => at(`lie-${i}.img`));
      for (const lie of lies) {
        copyFileSync(at('base.img'), lie);
        applyPlainLog(at('log.img'), lie, log, () => rng.chance(0.7));
        if (fs === 'xfs') continue;
        const unclean = recoverExt4(lie);
        found.push(unclean === '' ? checkExt4Files(lie, FILES, folder.path) : unclean);
      }
      if (fs === 'xfs') {
        const synced = points.map((point) => point.synced);
        found.push(
          ...(await checkXfs([...images, ...lies], [...synced, ...lies.map(() => FILES)])),
        );
      }
      assert.equal(found.length, POINTS + LIES);
      const wrong = points.flatMap((point, i) =>
        found[i] === '' ? [] : [`${point.name}: ${found[i]}`],
      );
      assert.deepEqual(wrong, []);
      assert.ok(!found.slice(POINTS).includes(''), 'a disk that forgets writes was not found out');
      process.stdout.write(
        `    ${fs}: ${points.length} of ${log.length} entries, ${flushes} flushes, ${fuas} FUA; ` +
          `up to ${points.at(-1)?.synced ?? 0} synced files\n`,
      );
    } finally {
      folder.remove();
    }
  });

  test(`${fs}: after kill -9 of the server every synced file is there, LAMINA_SEED=${SEED}`, async () => {
    const rng = new Prng(SEED + 1);
    for (let round = 0; round < KILLS; round++) {
      const folder = makeTestFolder();
      try {
        const synced = await killInWorkload(fs, folder.path, rng);
        process.stdout.write(`    ${fs}: killed after ${synced} synced files\n`);
      } finally {
        folder.remove();
      }
    }
  });
}

/** Kills the server of two striped files, starts it again on them, and looks through it. */
async function killInWorkload(fs: FileSystem, folder: string, rng: Prng): Promise<number> {
  const at = (name: string): string => join(folder, name);
  for (const leg of ['a', 'b']) {
    writeFileSync(at(leg), '');
    truncateSync(at(leg), FS_BYTES / 2);
  }
  const table = `0 ${FS_BYTES / 512} striped 2 128 ${at('a')} 0 ${at('b')} 0`;
  const args = ['--table', table, '--engine', rng.pick(['uring', 'node'])];
  makeFileSystem(fs, at('made.img'));

  const first = await startLamina(args, at('s.sock'));
  execFileSync('nbdcopy', ['--flush', at('made.img'), first.uri]);
  const killAfter = rng.between(3, 80);
  const waitMs = rng.below(400);
  let synced = 0;
  await runInKernel({
    nbd: [first.uri],
    script: workload(fs, 100_000),
    onLine: (line) => {
      if (!line.startsWith('synced ')) return;
      synced = Number(line.slice('synced '.length));
      if (synced === killAfter) setTimeout(() => void first.kill(), waitMs);
    },
  });
  assert.equal(first.process.signalCode, 'SIGKILL', 'the workload ended by itself');
  assert.ok(synced >= killAfter);

  const second = await startLamina(args, at('s.sock'));
  const output = await inKernel({ nbd: [second.uri], script: sumsScript(fs) });
  assert.deepEqual(readSums(output, [synced]), ['']);
  execFileSync('nbdcopy', [second.uri, at('back.img')]);
  assert.equal(await second.stop(), 0, second.stderr());
  assert.equal(checkClean(fs, at('back.img')), '');
  return synced;
}
