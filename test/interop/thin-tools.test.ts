// `lamina pool` and `lamina thin diff` against Debian's thin-provisioning-tools, by their command lines: each
// reads what the other writes, and prints the same.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { BlockManager } from '../../src/persistent-data/block-manager.ts';
import { ThinMetadataStore } from '../../src/targets/thin/metadata-store.ts';
import { checkPool } from '../../src/tools/thin/check.ts';
import { MetadataFile } from '../../src/tools/thin/metadata-file.ts';
import { repairPool } from '../../src/tools/thin/repair.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { ThinHistory } from '../../src/testing/thin-history.ts';
import { SEED } from '../../src/testing/seed.ts';

const SIZES = { metadataBlocks: 256, dataBlocks: 3000 };
const SIZE_BYTES = SIZES.metadataBlocks * 4096;
const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const PATHS = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)];
const ENV = { ...process.env, PATH: PATHS.join(delimiter) };

const absent = [
  'thin_rmap',
  'thin_check',
  'thin_dump',
  'thin_restore',
  'thin_repair',
  'thin_delta',
].filter((tool) => !PATHS.some((folder) => existsSync(join(folder, tool))));
const skip = absent.length > 0 && `not installed: ${absent.join(', ')}`;

let folder: ReturnType<typeof makeTestFolder>;

before(() => {
  folder = makeTestFolder();
});
after(() => folder.remove());

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(command: string, args: readonly string[]): Ran {
  const { status, stdout, stderr } = spawnSync(command, args, {
    encoding: 'utf8',
    env: ENV,
    maxBuffer: 2 ** 28,
  });
  return { status, stdout, stderr };
}

/** What it prints, when it ends well. */
function good(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(command, args);
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

function lamina(...args: string[]): Ran {
  return run(process.execPath, [LAMINA, ...args]);
}

function goodLamina(...args: string[]): string {
  return good(process.execPath, LAMINA, ...args);
}

/** thin_check has no complaint, not even one that it forgives. */
function checkClean(file: string): void {
  const { status, stdout, stderr } = run('thin_check', [file]);
  const text = `${stdout}${stderr}`;
  assert.equal(status, 0, text);
  assert.doesNotMatch(text, /leak|expected \d+|error|mismatch|bad/i);
}

function fresh(name: string): string {
  const file = join(folder.path, name);
  writeFileSync(file, '');
  truncateSync(file, SIZE_BYTES);
  return file;
}

async function withFile<T>(
  path: string,
  isReadOnly: boolean,
  use: (file: MetadataFile) => Promise<T>,
): Promise<T> {
  const opened = MetadataFile.open(path, { isReadOnly });
  try {
    return await use(opened);
  } finally {
    opened.close();
  }
}

async function pool(name: string, seed: number, steps: number, isHeld = false): Promise<string> {
  const history = await ThinHistory.start(new Prng(seed), SIZES);
  for (let i = 0; i < steps; i++) {
    await history.step();
    if (i % 7 === 0) await history.commit();
  }
  await history.commit();
  if (isHeld && history.metadata.heldRoot === 0) await history.metadata.reserveSnapshot();
  await history.metadata.commit();
  const file = join(folder.path, name);
  writeFileSync(file, history.disk.image);
  return file;
}

interface Difference {
  kind: string;
  begin: number;
  length: number;
}

/** The tool ends a range where one of the runs of mappings ends; joined again here. */
function rangesOfDelta(xml: string): Difference[] {
  const ranges: Difference[] = [];
  for (const [, kind = '', begin, length] of xml.matchAll(
    /<(same|different|left_only|right_only) begin="(\d+)" length="(\d+)"/g,
  )) {
    const range = { kind: kind.replace('_', '-'), begin: Number(begin), length: Number(length) };
    const last = ranges.at(-1);
    if (last?.kind === range.kind && last.begin + last.length === range.begin) {
      last.length += range.length;
    } else ranges.push(range);
  }
  return ranges;
}

describe('lamina pool and the real tools', { skip }, () => {
  it('dumps are those of thin_dump to the byte, of the metadata snapshot too', async () => {
    for (let round = 0; round < 3; round++) {
      const file = await pool('metadata', SEED + round, 20 + 60 * round, round === 1);
      assert.equal(goodLamina('pool', 'dump', file), good('thin_dump', file));
      const snapshot = run('thin_dump', ['-m', file]);
      const ours = lamina('pool', 'dump', '--metadata-snap', file);
      assert.equal(ours.status, snapshot.status);
      assert.equal(ours.stdout, snapshot.stdout);
      if (round === 1) assert.equal(snapshot.status, 0);
      JSON.parse(goodLamina('pool', 'dump', '--json', file));
    }
  });

  it('what either restores the other finds good, and dumps as the XML it was made from', async () => {
    for (let round = 0; round < 2; round++) {
      const file = await pool('metadata', SEED + 10 + round, 120);
      const text = good('thin_dump', file);
      const xml = join(folder.path, 'dump.xml');
      writeFileSync(xml, text);
      const ours = fresh('ours');
      goodLamina('pool', 'restore', xml, ours);
      checkClean(ours);
      assert.equal(good('thin_dump', ours), text);
      const theirs = fresh('theirs');
      good('thin_restore', '-i', xml, '-o', theirs);
      // It leaves one block less free than there is, so a note is all right.
      assert.match(goodLamina('pool', 'check', theirs), /^good: 0 errors/);
      assert.equal(goodLamina('pool', 'dump', theirs), text);
      const refused = lamina('pool', 'restore', xml, ours);
      assert.equal(refused.status, 1);
      assert.match(refused.stderr, /its first block is not empty; --force overwrites/);
      goodLamina('pool', 'restore', '--force', xml, ours);
    }
  });

  it('XML without version and flags gives version 1 to both, which both read', () => {
    const xml = join(folder.path, 'old.xml');
    writeFileSync(
      xml,
      '<superblock uuid="" time="0" transaction="7" data_block_size="256" nr_data_blocks="99">\n' +
        '  <device dev_id="3" mapped_blocks="2" transaction="1" creation_time="0" snap_time="0">\n' +
        '    <range_mapping origin_begin="5" data_begin="90" length="2" time="0"/>\n' +
        '  </device>\n</superblock>\n',
    );
    const [ours, theirs] = [fresh('ours'), fresh('theirs')];
    goodLamina('pool', 'restore', xml, ours);
    good('thin_restore', '-i', xml, '-o', theirs);
    const text = good('thin_dump', theirs);
    assert.match(text, /version="1"/);
    for (const file of [ours, theirs]) {
      assert.equal(good('thin_dump', file), text);
      assert.equal(goodLamina('pool', 'dump', file), text);
    }
  });

  it('differences of all pairs of devices are those of thin_delta', async () => {
    const file = await pool('metadata', SEED + 20, 150);
    const ids = [...good('thin_dump', file).matchAll(/dev_id="(\d+)"/g)].map(([, id = '']) => id);
    const prng = new Prng(SEED + 21);
    for (let i = 0; i < 6; i++) {
      const [a, b] = [prng.pick(ids), prng.pick(ids)];
      const expected = rangesOfDelta(good('thin_delta', '--snap1', a, '--snap2', b, file));
      const ours = JSON.parse(goodLamina('thin', 'diff', file, a, b, '--same', '--json')) as {
        ranges: (Difference & { offsetBytes: number })[];
      };
      const ranges = ours.ranges.map(({ kind, begin, length }) => ({ kind, begin, length }));
      assert.deepEqual(ranges, expected);
      const lines = goodLamina('thin', 'diff', file, a, b).trimEnd().split('\n').slice(1);
      assert.deepEqual(
        lines.map((line) => line.split('\t').slice(0, 3).join(' ')),
        expected.flatMap((r) => (r.kind === 'same' ? [] : `${r.kind} ${r.begin} ${r.length}`)),
      );
    }
  });

  it('thin_check accepts what is repaired after damage to any block, unless it is refused', async () => {
    const file = await pool('metadata', SEED + 30, 120);
    const image = readFileSync(file);
    const prng = new Prng(SEED + 31);
    const damaged = join(folder.path, 'damaged');
    const text = good('thin_dump', file);
    const outcomes = { whole: 0, lossy: 0, refused: 0 };
    for (let number = 0; number < SIZES.metadataBlocks; number++) {
      const isEmpty = image.subarray(number * 4096, (number + 1) * 4096).every((b) => b === 0);
      if (isEmpty) continue;
      const copy = Buffer.from(image);
      const at = number * 4096 + prng.below(4096);
      copy[at] = (copy[at] ?? 0) ^ (1 << prng.below(8));
      writeFileSync(damaged, copy);
      const isSeen = run('thin_check', ['-q', damaged]).status !== 0;
      const check = await withFile(damaged, true, checkPool);
      if (isSeen) assert.ok(!check.isGood, `thin_check finds damage in block ${number}`);
      if (check.isGood) continue;
      assert.ok(check.findings.some((finding) => finding.block === number));
      const out = fresh('repaired');
      let losses: readonly string[];
      try {
        losses = await withFile(damaged, true, (from) =>
          withFile(out, false, async (to) => (await repairPool(from, to)).losses),
        );
      } catch (error) {
        outcomes.refused++;
        assert.match(
          String(error),
          /data block size: give it by --data-block-size|no device can be read|no trees/,
        );
        assert.equal(lamina('pool', 'repair', '--force', damaged, out).status, 1);
        continue;
      }
      checkClean(out);
      const isFirst = outcomes[losses.length > 0 ? 'lossy' : 'whole']++ === 0;
      if (losses.length === 0) assert.equal(good('thin_dump', out), text);
      if (!isFirst) continue;
      const found = lamina('pool', 'check', damaged);
      assert.equal(found.status, 1);
      assert.match(found.stderr, new RegExp(`error: metadata block ${number}:`));
      const { status, stderr } = lamina('pool', 'repair', '--force', damaged, out);
      assert.equal(status, losses.length > 0 ? 3 : 0, stderr);
      assert.equal(/^lost: /m.test(stderr), losses.length > 0);
    }
    assert.ok(outcomes.whole > 0 && outcomes.lossy > 0, JSON.stringify(outcomes));
  });

  it('a lost superblock is made anew from what the operator knows', async () => {
    const file = await pool('metadata', SEED + 40, 60);
    const text = good('thin_dump', file);
    const damaged = join(folder.path, 'damaged');
    copyFileSync(file, damaged);
    const image = readFileSync(damaged);
    image.fill(0x55, 0, 4096);
    writeFileSync(damaged, image);
    const [, transaction = '', blocks = ''] =
      /transaction="(\d+)".*nr_data_blocks="(\d+)"/.exec(text) ?? [];
    const known = ['--data-block-size', '128', '--nr-data-blocks', blocks];
    const out = fresh('repaired');
    const args = [...known, '--transaction-id', transaction, damaged, out];
    const { status, stderr } = lamina('pool', 'repair', ...args);
    assert.ok(status === 0 || /1 more states fit|more states fit/.test(stderr), stderr);
    checkClean(out);
    assert.match(goodLamina('pool', 'dump', out), new RegExp(`nr_data_blocks="${blocks}"`));
  });

  it('leaks of both kinds are taken back, and nothing else', async () => {
    const file = await pool('metadata', SEED + 60, 80, true);
    const text = good('thin_dump', file);
    const clean = JSON.parse(goodLamina('pool', 'check', '--json', file)) as object;
    await withFile(file, false, async (io) => {
      const store = await ThinMetadataStore.open(new BlockManager(io));
      for (let i = 0; i < 3; i++) {
        const block = await store.dataMap.newBlock();
        for (let more = 0; more < 4 * i; more++) await store.dataMap.inc(block, block + 1);
        await store.tm.metadataMap.newBlock();
      }
      await store.commit(await store.prepareCommit());
    });
    assert.match(lamina('pool', 'check', file).stderr, /\(a leak\)/);
    assert.equal(lamina('pool', 'check', '--strict', file).status, 1);
    goodLamina('pool', 'check', '--strict', '--auto-repair', file);
    checkClean(file);
    assert.equal(good('thin_dump', file), text);
    assert.deepEqual(JSON.parse(goodLamina('pool', 'check', '--json', file)), clean);
  });

  it('the needs-check flag goes only when all is good', async () => {
    const file = await pool('metadata', SEED + 50, 40);
    const xml = join(folder.path, 'dump.xml');
    writeFileSync(xml, good('thin_dump', file).replace('flags="0"', 'flags="1"'));
    const flagged = fresh('flagged');
    goodLamina('pool', 'restore', xml, flagged);
    assert.match(good('thin_dump', flagged), /flags="1"/);
    assert.match(goodLamina('pool', 'check', flagged), /needs-check flag is set/);
    const damaged = join(folder.path, 'damaged');
    const image = readFileSync(flagged);
    const used = image.length / 4096;
    const last = [...Array(used).keys()].findLast((n) => n > 0 && image[n * 4096 + 8] === n) ?? 0;
    image[last * 4096 + 100] = (image[last * 4096 + 100] ?? 0) ^ 1;
    writeFileSync(damaged, image);
    assert.equal(lamina('pool', 'check', '--clear-needs-check', damaged).status, 1);
    assert.deepEqual(readFileSync(damaged), image);
    assert.match(goodLamina('pool', 'check', '--clear-needs-check', flagged), /is cleared/);
    checkClean(flagged);
    assert.match(good('thin_dump', flagged), /flags="0"/);
  });
});

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/test/interop/thin-tools.test.js`);
