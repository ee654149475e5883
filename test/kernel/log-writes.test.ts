// A log that the kernel's own log-writes target wrote, read and replayed by lamina: at its marks it gives
// what the kernel's disk had there.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { applyPlainLog, DISCARD, readPlainLog } from './plain-log.ts';
import { inKernel } from './vm.ts';
import { SEED } from '../../src/testing/seed.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));

/** What `--list --json` says of an entry. */
interface Listed {
  readonly sector: number;
  readonly sectors: number;
  readonly mark?: string;
}

function sum(path: string): string {
  return execFileSync('sha256sum', [path], { encoding: 'utf8' }).slice(0, 64);
}

test(`the kernel's log, listed, checked, replayed to each mark, LAMINA_SEED=${SEED}`, async () => {
  const folder = makeTestFolder();
  const at = (name: string): string => join(folder.path, name);
  try {
    for (const [name, mib] of [
      ['data', 64],
      ['log', 256],
      ['replayed', 64],
      ['plain', 64],
    ] as const) {
      writeFileSync(at(name), '');
      truncateSync(at(name), mib << 20);
    }
    const output = await inKernel({
      disks: [at('data'), at('log')],
      script: `modprobe dm-log-writes; modprobe ext4; mkdir -p /mnt
echo "0 131072 log-writes /dev/vda /dev/vdb" | dmsetup --noudevsync create lw
mkfs.ext4 -q /dev/mapper/lw
dmsetup message lw 0 mark mkfs
sum() { echo 3 >/proc/sys/vm/drop_caches; echo "$1 $(sha256sum </dev/vda | cut -d' ' -f1)"; }
sum mkfs
mount -t ext4 /dev/mapper/lw /mnt
for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of=/mnt/f$i bs=3k count=$i conv=fsync 2>/dev/null; done
rm /mnt/f4; umount /mnt
blkdiscard -o 33554432 -l 1048576 /dev/mapper/lw
dd if=/dev/urandom of=/dev/mapper/lw bs=4k seek=8200 count=9 conv=fsync 2>/dev/null
dmsetup message lw 0 mark files
echo "status $(dmsetup status lw)"
dmsetup --noudevsync remove lw
sync; sum end`,
    });
    const sumSaid = (word: string): string | undefined =>
      new RegExp(`^${word} (\\w{64})$`, 'm').exec(output)?.[1];

    const plain = readPlainLog(at('log'));
    const list = execFileSync(LAMINA, ['replay', at('log'), '--list', '--json'], {
      encoding: 'utf8',
      maxBuffer: 64 << 20,
    });
    const listed = JSON.parse(list) as Listed[];
    assert.equal(listed.length, plain.length);
    // The end mark came after the status.
    assert.equal(plain.length, Number(/log-writes (\d+) \d+/.exec(output)?.[1]) + 1);
    for (const [i, entry] of plain.entries()) {
      const { sector, sectors, mark } = listed[i] as Listed;
      assert.equal(sector * 512, entry.offBytes, `entry ${i}`);
      assert.equal(sectors * 512, entry.lenBytes, `entry ${i}`);
      assert.equal(mark ?? '', entry.mark, `entry ${i}`);
    }
    const marks = plain.map((entry) => entry.mark).filter((mark) => mark !== '');
    assert.deepEqual(marks, ['mkfs', 'files', 'dm-log-writes-end']);
    assert.ok(
      plain.some((entry) => (entry.flags & DISCARD) !== 0),
      'no discard was logged',
    );

    execFileSync(LAMINA, ['replay', at('log'), at('replayed'), '--to-mark', 'mkfs']);
    assert.equal(sum(at('replayed')), sumSaid('mkfs'));
    execFileSync('/sbin/e2fsck', ['-fn', at('replayed')], { stdio: 'pipe' });
    const check = 'e2fsck -E journal_only -y {} >/dev/null 2>&1; e2fsck -fn {}';
    const rest = ['--from-mark', 'mkfs', '--check', check, '--subsets', '2', '--seed', `${SEED}`];
    const checked = spawnSync(LAMINA, ['replay', at('log'), at('replayed'), ...rest], {
      encoding: 'utf8',
      env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/sbin:/usr/sbin` },
    });
    assert.equal(checked.status, 0, checked.stdout + checked.stderr);
    assert.equal(sum(at('replayed')), sumSaid('end'));
    assert.equal(sum(at('data')), sumSaid('end'));
    applyPlainLog(at('log'), at('plain'), plain);
    assert.equal(sum(at('plain')), sumSaid('end'));

    // A log that ends in the middle of an entry is refused before anything is written.
    copyFileSync(at('log'), at('short'));
    const middle = plain.find((entry) => entry.dataBytes >= 4096 && entry.dataAt > 1 << 20);
    truncateSync(at('short'), (middle?.dataAt ?? 0) + 512);
    const refused = spawnSync(LAMINA, ['replay', at('short'), at('replayed')], {
      encoding: 'utf8',
    });
    assert.equal(refused.status, 3, refused.stderr);
    assert.equal(sum(at('replayed')), sumSaid('end'));
  } finally {
    folder.remove();
  }
});
