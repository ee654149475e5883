// verity on simulated disks: every read is what was hashed or an error, whatever is changed, in whatever
// order disks answer, with errors and with hardly any memory.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { type TreeFormat, VerityTree } from '../../src/targets/verity/tree.ts';
import { BioDriver } from '../../src/testing/bio-driver.ts';
import { makeLab } from '../../src/testing/sim/lab.ts';
import { formatFiles } from '../../src/testing/verity-files.ts';
import { SEED } from '../../src/testing/seed.ts';

function bytes(rng: Prng, count: number): Buffer {
  return Buffer.from(Array.from({ length: count }, () => rng.below(256)));
}

interface Volume {
  readonly format: TreeFormat;
  readonly data: Buffer;
  readonly hash: Buffer;
  readonly root: string;
}

async function makeVolume(rng: Prng): Promise<Volume> {
  const folder = mkdtempSync(join(tmpdir(), 'lamina-verity-'));
  try {
    const sizes = [512, 1024, 4096];
    const format: TreeFormat = {
      hashType: rng.chance(0.5) ? 1 : 0,
      algorithm: rng.pick(['sha256', 'sha1', 'sha512']),
      salt: bytes(rng, rng.pick([0, 1, 32, 256])),
      dataBlockBytes: rng.pick(sizes),
      hashBlockBytes: rng.pick(sizes),
      dataBlocks: rng.pick([1, 2, 16, 17, rng.between(1, 250)]),
      hashStart: rng.pick([0, 1, 5]),
    };
    const data = bytes(rng, format.dataBlocks * format.dataBlockBytes);
    if (rng.chance(0.5)) data.fill(0, 0, format.dataBlockBytes);
    const paths = [join(folder, 'data'), join(folder, 'hash')] as const;
    writeFileSync(paths[0], data);
    writeFileSync(paths[1], '');
    const root = await formatFiles(...paths, format);
    const hash = readFileSync(paths[1]);
    return { format, data, hash, root: Buffer.from(root).toString('hex') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function tableOf({ format, root }: Volume, options: string): string {
  const { salt, dataBlockBytes, hashBlockBytes, dataBlocks, hashStart } = format;
  const saltWord = salt.length === 0 ? '-' : Buffer.from(salt).toString('hex');
  const sizes = `${dataBlockBytes} ${hashBlockBytes} ${dataBlocks} ${hashStart}`;
  const sectors = (dataBlocks * dataBlockBytes) / 512;
  const words = `${sizes} ${format.algorithm} ${root} ${saltWord}${options}`;
  return `0 ${sectors} verity ${format.hashType} test:data test:hash ${words}`;
}

function padded(image: Buffer): Uint8Array {
  const whole = new Uint8Array(Math.max(4096, Math.ceil(image.length / 4096) * 4096));
  whole.set(image);
  return whole;
}

async function withDevice(
  volume: Volume,
  seed: number,
  options: string,
  use: (rig: {
    readonly lab: ReturnType<typeof makeLab>;
    readonly driver: BioDriver;
    readonly info: () => Promise<string>;
  }) => Promise<void>,
): Promise<void> {
  const lab = makeLab({ seed, clonesMax: 1 });
  for (const [name, image] of [
    ['test:data', padded(volume.data)],
    ['test:hash', padded(volume.hash)],
  ] as const) {
    lab.addDisk({ name, lenSectors: image.length / 512, image });
  }
  const table = tableOf(volume, options);
  await lab.dm.create({ name: 'v', table, isReadOnly: true });
  const open = await lab.dm.openDevice('v');
  const info = async (): Promise<string> => (await lab.dm.status('v'))[0]?.params ?? '';
  await use({ lab, driver: new BioDriver(open.device, lab.arena, { guards: true }), info });
  await open.close();
  await lab.scheduler.settle(lab.dm.close());
  assert.deepEqual(lab.violations, []);
  assert.equal(lab.arena.usedBytes, 0);
}

/** Random reads at once; what each gave. */
async function readAll(
  rng: Prng,
  volume: Volume,
  rig: { readonly lab: ReturnType<typeof makeLab>; readonly driver: BioDriver },
): Promise<{ at: number; len: number; got: Status | Buffer }[]> {
  const { dataBlocks, dataBlockBytes } = volume.format;
  const reads = Array.from({ length: 12 }, async (_, i) => {
    const first = i === 0 ? 0 : rng.below(dataBlocks);
    const count = i === 0 ? dataBlocks : rng.between(1, Math.min(20, dataBlocks - first));
    const [at, len] = [first * dataBlockBytes, count * dataBlockBytes];
    return { at, len, got: await rig.driver.tryRead(at, len) };
  });
  return await rig.lab.scheduler.settle(Promise.all(reads));
}

test(`volumes read as they were hashed, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < 40; i++) {
    const rng = new Prng(SEED + i);
    const volume = await makeVolume(rng);
    const options = rng.pick(['', ' 1 check_at_most_once', ' 1 ignore_zero_blocks']);
    await withDevice(volume, SEED + i, options, async (rig) => {
      for (const { at, len, got } of await readAll(rng, volume, rig)) {
        assert.ok(Buffer.isBuffer(got), `read ${at}+${len}: ${String(got)}`);
        assert.ok(got.equals(volume.data.subarray(at, at + len)), `read ${at}+${len}`);
      }
      assert.equal(await rig.info(), 'V');
      assert.notEqual(await rig.lab.scheduler.settle(rig.driver.write(0, volume.data)), Status.Ok);
    });
  }
});

test(`a changed byte is never handed out, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < 120; i++) {
    const rng = new Prng(SEED + 1000 + i);
    const volume = await makeVolume(rng);
    const { format, data, hash } = volume;
    const tree = new VerityTree(format);
    const isData = tree.levels === 0 || rng.chance(0.5);
    const treeBytes = (tree.end - format.hashStart) * format.hashBlockBytes;
    const at = isData
      ? rng.below(data.length)
      : format.hashStart * format.hashBlockBytes + rng.below(treeBytes);
    const good = Buffer.from(data);
    const image = isData ? data : hash;
    image[at] = (image[at] as number) ^ (1 << rng.below(8));
    await withDevice(volume, SEED + i, '', async (rig) => {
      const reads = await readAll(rng, volume, rig);
      for (const { at: from, len, got } of reads) {
        if (Buffer.isBuffer(got)) assert.ok(got.equals(good.subarray(from, from + len)));
        else assert.equal(got, Status.Io);
      }
      // The first read is of everything.
      assert.equal(reads[0]?.got, Status.Io, `${isData ? 'data' : 'hash'} byte ${at}`);
      assert.equal(await rig.info(), 'C');
    });
  }
});

test(`what becomes of a corrupted block is a choice, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  let volume = await makeVolume(rng);
  while (volume.format.dataBlocks < 16) volume = await makeVolume(rng);
  const { dataBlockBytes: block } = volume.format;
  const good = Buffer.from(volume.data);
  volume.data[5 * block] = (volume.data[5 * block] as number) ^ 1;
  await withDevice(volume, SEED, ' 1 ignore_corruption', async ({ lab, driver, info }) => {
    const got = await lab.scheduler.settle(driver.read(0, volume.data.length));
    assert.ok(got.equals(volume.data));
    assert.equal(await info(), 'C');
  });
  await withDevice(volume, SEED, '', async ({ lab, driver }) => {
    assert.equal(await lab.scheduler.settle(driver.tryRead(5 * block, block)), Status.Io);
    const next = await lab.scheduler.settle(driver.read(6 * block, block));
    assert.ok(next.equals(good.subarray(6 * block, 7 * block)));
  });
  for (const option of ['restart_on_corruption', 'panic_on_corruption']) {
    await withDevice(volume, SEED, ` 1 ${option}`, async ({ lab, driver, info }) => {
      const before = await lab.scheduler.settle(driver.read(6 * block, block));
      assert.ok(before.equals(good.subarray(6 * block, 7 * block)));
      assert.equal(await lab.scheduler.settle(driver.tryRead(5 * block, block)), Status.Io);
      assert.equal(await lab.scheduler.settle(driver.tryRead(6 * block, block)), Status.Io);
      assert.equal(await info(), 'C');
    });
  }
});

test(`errors of either disk come up, and go, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < 20; i++) {
    const rng = new Prng(SEED + 5000 + i);
    const volume = await makeVolume(rng);
    await withDevice(volume, SEED + i, '', async (rig) => {
      const disks = [...rig.lab.disks.values()];
      for (const disk of disks) disk.faults.readErrorRate = 0.3;
      for (const { at, len, got } of await readAll(rng, volume, rig)) {
        if (Buffer.isBuffer(got)) assert.ok(got.equals(volume.data.subarray(at, at + len)));
        else assert.equal(got, Status.Io);
      }
      assert.equal(await rig.info(), 'V', 'an error is no corruption');
      for (const disk of disks) disk.faults.readErrorRate = 0;
      for (const { got } of await readAll(rng, volume, rig)) assert.ok(Buffer.isBuffer(got));
    });
  }
});
