// A log that the kernel's own log-writes target wrote, replayed by lamina.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { inKernel } from './vm.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));

test("the kernel's log: listed, replayed to marks, checked, and the whole is the kernel's disk", async () => {
  const folder = makeTestFolder();
  const at = (name: string): string => join(folder.path, name);
  try {
    for (const [name, mib] of [
      ['data', 64],
      ['log', 256],
      ['replayed', 64],
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
sum() { echo "$1 $(sha256sum </dev/vda | cut -d' ' -f1)"; }
mount -t ext4 /dev/mapper/lw /mnt
for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of=/mnt/f$i bs=3k count=$i conv=fsync 2>/dev/null; done
rm /mnt/f4; umount /mnt
dmsetup message lw 0 mark files
echo "status $(dmsetup status lw)"
dmsetup --noudevsync remove lw
sync; echo 3 >/proc/sys/vm/drop_caches; sum end`,
    });
    const list = execFileSync(LAMINA, ['replay', at('log'), '--list', '--json'], {
      encoding: 'utf8',
      maxBuffer: 64 << 20,
    });
    for (const mark of ['mkfs', 'files', 'dm-log-writes-end']) assert.ok(list.includes(mark), mark);
    const entries = Number(/log-writes (\d+) \d+/.exec(output)?.[1]);
    // The end mark came after the status.
    assert.ok(entries > 50, output);
    execFileSync(LAMINA, ['replay', at('log'), at('replayed'), '--to-mark', 'mkfs']);
    execFileSync('/sbin/e2fsck', ['-fn', at('replayed')], { stdio: 'pipe' });
    const check = 'e2fsck -E journal_only -y {} >/dev/null 2>&1; e2fsck -fn {}';
    const rest = ['--from-mark', 'mkfs', '--check', check, '--subsets', '2', '--seed', '5'];
    const checked = spawnSync(LAMINA, ['replay', at('log'), at('replayed'), ...rest], {
      encoding: 'utf8',
      env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/sbin:/usr/sbin` },
    });
    assert.equal(checked.status, 0, checked.stdout + checked.stderr);
    const sum = execFileSync('sha256sum', [at('replayed')], { encoding: 'utf8' }).slice(0, 64);
    assert.equal(sum, /^end (\w+)$/m.exec(output)?.[1]);
    assert.equal(spawnSync('cmp', [at('replayed'), at('data')]).status, 0);
  } finally {
    folder.remove();
  }
});
