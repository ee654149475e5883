// File systems of a real kernel on lamina: what a crash leaves at a hundred random points of a workload
// each recovers and is clean; and after a kill -9 of the server every file that was synced is there.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openLog, replay } from '../../src/index.ts';
import { Prng } from '../../src/base/prng.ts';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';
import { inKernel, runInKernel } from './vm.ts';

const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() & 0x7fffffff);
const POINTS = Number(process.env['LAMINA_POINTS'] ?? 100);
const SIZE = 320 << 20;
/** Disks a boot can take. */
const DISKS = 20;

/** Small files, synced one by one, renamed, removed, overwritten; prints what is synced. */
function workload(fs: string, files: number): string {
  return `modprobe ${fs}
mkdir -p /mnt
mount -t ${fs} /dev/vda /mnt
i=0
while [ $i -lt ${files} ]; do
  i=$((i + 1))
  yes "file $i" | head -c $((i * 997 % 60000 + 1)) >/tmp/data
  dd if=/tmp/data of=/mnt/new bs=16k conv=fsync 2>/dev/null || break
  mv /mnt/new /mnt/f$i || break
  sync /mnt || sync || break
  [ -e /mnt/f$i ] || break
  dd if=/mnt/f$i of=/dev/null bs=64k 2>/dev/null || break
  echo "synced $i"
  [ $((i % 5)) = 0 ] && { mkdir -p /mnt/d$((i % 3)) && yes x | head -c 30000 >/mnt/d$((i % 3))/x$i || break; }
  [ $((i % 7)) = 0 ] && { rm -f /mnt/d*/x* || break; }
done
umount /mnt || true`;
}

function mkfs(fs: string, path: string): void {
  writeFileSync(path, '');
  truncateSync(path, SIZE);
  execFileSync(`/sbin/mkfs.${fs}`, ['-q', path]);
}

/** Recovers as the kernel would; what is wrong afterwards, or ''. */
function checkExt4(path: string): string {
  const recovered = spawnSync('/sbin/e2fsck', ['-E', 'journal_only', '-y', path], {
    encoding: 'utf8',
  });
  if ((recovered.status ?? 8) > 1) return `recovery: ${recovered.stdout}${recovered.stderr}`;
  const checked = spawnSync('/sbin/e2fsck', ['-fn', path], { encoding: 'utf8' });
  return checked.status === 0 ? '' : `${checked.stdout}${checked.stderr}`;
}

/** Recovers and checks in the kernel, many images a boot. */
async function checkXfs(paths: readonly string[]): Promise<string[]> {
  const wrong: string[] = [];
  for (let i = 0; i < paths.length; i += DISKS) {
    const disks = paths.slice(i, i + DISKS);
    const output = await inKernel({
      disks,
      script: `modprobe xfs; mkdir -p /mnt
for d in /dev/vd?; do
  mount -t xfs -o nouuid $d /mnt || { echo "$d: does not mount"; continue; }
  umount /mnt
  xfs_repair -n $d >/tmp/said 2>&1 || { echo "$d: not clean"; tail -n 20 /tmp/said; }
done
echo "looked at $(ls /dev/vd? | wc -l)"`,
    });
    assert.match(output, new RegExp(`looked at ${disks.length}`));
    const rest = output.replace(/looked at \d+\n/, '').trim();
    if (rest !== '') wrong.push(rest);
  }
  return wrong;
}

for (const fs of ['ext4', 'xfs']) {
  test(`${fs}: ${POINTS} crash points of a workload recover clean, LAMINA_SEED=${SEED}`, async () => {
    const folder = makeTestFolder();
    const at = (name: string): string => join(folder.path, name);
    try {
      mkfs(fs, at('base.img'));
      copyFileSync(at('base.img'), at('data.img'));
      writeFileSync(at('log.img'), '');
      truncateSync(at('log.img'), 1 << 30);
      const table = `0 ${SIZE / 512} log-writes ${at('data.img')} ${at('log.img')}`;
      const server = await startLamina(['--table', table], at('s.sock'));
      const output = await inKernel({ disks: [server.uri], script: workload(fs, 60) });
      assert.match(output, /synced 60/);
      assert.equal(await server.stop(), 0, server.stderr());

      const flushes = countFlushes(at('log.img'), at('data.img'), at('base.img'));
      assert.ok(flushes > 50, `${flushes} flushes`);
      const rng = new Prng(SEED);
      const scratch = at('scratch');
      mkdirSync(scratch);
      const images: string[] = [];
      const wrong: string[] = [];
      copyFileSync(at('base.img'), at('replayed.img'));
      const reader = openLog(at('log.img'));
      // At every flush point the state itself and one that a crash before it may leave.
      await replay(reader, at('replayed.img'), {
        checks: {
          at: 'flush',
          subsets: 1,
          seed: SEED,
          isTorn: false,
          isInPlace: false,
          scratchFolder: scratch,
          check: ({ path, entry, state }) => {
            const name = `entry ${entry.index}${state === undefined ? '' : `, state ${state}`}`;
            if (fs === 'ext4') {
              const found = checkExt4(path);
              if (found !== '') wrong.push(`${name}: ${found}`);
              images.push(name);
            } else if (rng.chance((1.3 * POINTS) / (2 * flushes)) && images.length < POINTS) {
              const copy = at(`${images.length}.img`);
              execFileSync('cp', ['--sparse=always', path, copy]);
              images.push(copy);
            }
            return Promise.resolve(true);
          },
        },
      });
      reader.close();
      assert.ok(
        images.length >= POINTS * 0.8,
        `${images.length} of ${2 * flushes} states looked at`,
      );
      if (fs === 'xfs') wrong.push(...(await checkXfs(images)));
      assert.deepEqual(wrong, []);
      process.stdout.write(`    ${fs}: ${images.length} states, ${flushes} flushes\n`);
      const same = spawnSync('cmp', [at('replayed.img'), at('data.img')], { encoding: 'utf8' });
      assert.equal(same.status, 0, `the whole log is the device: ${same.stdout}`);
    } finally {
      folder.remove();
    }
  });

  test(`${fs}: after kill -9 of the server every synced file is there, LAMINA_SEED=${SEED}`, async () => {
    const rng = new Prng(SEED + 1);
    for (let round = 0; round < 2; round++) {
      const folder = makeTestFolder();
      const image = join(folder.path, 'data.img');
      mkfs(fs, image);
      const server = await startLamina([image], join(folder.path, 's.sock'));
      // In the middle of the workload: when it has put so much into the image.
      const killAt = allocatedBytes(image) + rng.between(1 << 20, 6 << 20);
      const killer = setInterval(() => {
        if (allocatedBytes(image) >= killAt) void server.kill();
      }, 20);
      const { output } = await runInKernel({ disks: [server.uri], script: workload(fs, 100_000) });
      clearInterval(killer);
      const synced = Number([...output.matchAll(/^synced (\d+)$/gm)].at(-1)?.[1] ?? 0);
      assert.ok(synced > 0, `nothing was synced before the kill: ${output}`);
      if (fs === 'ext4') {
        const copy = `${image}.check`;
        copyFileSync(image, copy);
        assert.equal(checkExt4(copy), '');
        rmSync(copy);
      } else assert.deepEqual(await checkXfs([image]), []);
      const found = await inKernel({
        disks: [image],
        script: `modprobe ${fs}; mkdir -p /mnt; mount -t ${fs} /dev/vda /mnt
i=0
while [ $i -lt ${synced} ]; do
  i=$((i + 1))
  yes "file $i" | head -c $((i * 997 % 60000 + 1)) | cmp - /mnt/f$i || echo "f$i differs"
done
umount /mnt; echo "looked at $i"`,
      });
      assert.equal(found.trim(), `looked at ${synced}`);
      process.stdout.write(`    ${fs}: killed after ${synced} synced files\n`);
      folder.remove();
    }
  });
}

function allocatedBytes(path: string): number {
  return statSync(path).blocks * 512;
}

/**
 * Flush entries of a log, read by hand from the layout alone: super (magic, version, entries, block size),
 * then entries (sector, sectors, flags, data length; a block each) with their data. Applying all to the
 * base must give the device.
 */
function countFlushes(logPath: string, dataPath: string, basePath: string): number {
  const log = readFileSync(logPath);
  const disk = readFileSync(basePath);
  assert.equal(log.readBigUInt64LE(0), 0x6a736677736872n);
  assert.equal(log.readBigUInt64LE(8), 1n);
  const entries = Number(log.readBigUInt64LE(16));
  const block = log.readUInt32LE(24);
  let at = block;
  let flushes = 0;
  for (let i = 0; i < entries; i++) {
    const [sector, sectors, flags] = [0, 8, 16].map((o) => Number(log.readBigUInt64LE(at + o)));
    at += block;
    const len = (sectors ?? 0) * block;
    const off = (sector ?? 0) * block;
    if (((flags ?? 0) & 4) !== 0) disk.fill(0, off, off + len);
    else if (((flags ?? 0) & 8) === 0) {
      log.copy(disk, off, at, at + len);
      at += len;
    }
    if (((flags ?? 0) & 1) !== 0) flushes++;
  }
  assert.ok(disk.equals(readFileSync(dataPath)), 'all entries of the log give the device');
  return flushes;
}
