// Thin pools between lamina and the kernel: made here and used there, made by the kernel or LVM and used
// here, judged by thin_check on the way.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { openStack, type OpenedStack } from '../../src/index.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { said, sumOf } from './compare.ts';
import { inKernel } from './vm.ts';
import { SEED } from '../../src/testing/seed.ts';

const MIB = 1 << 20;
const BLOCK = 65536;
const THIN_BYTES = 32 * MIB;

async function sumOfDevice(stack: OpenedStack, name: string): Promise<string> {
  const disk = await stack.open(name);
  try {
    return await sumOf(disk);
  } finally {
    await disk.close();
  }
}

function thinCheck(path: string): void {
  execFileSync('/usr/sbin/thin_check', [path], { stdio: 'pipe' });
}

test(`a pool goes to the kernel, is used there and comes back, LAMINA_SEED=${SEED}`, async () => {
  const folder = makeTestFolder();
  try {
    const [meta, data] = ['meta', 'data'].map((n) => join(folder.path, n)) as [string, string];
    for (const [path, mib] of [
      [meta, 4],
      [data, 64],
    ] as const) {
      writeFileSync(path, '');
      truncateSync(path, mib * MIB);
    }
    const pool = (m: string, d: string): string => `0 131072 thin-pool ${m} ${d} 128 0`;
    const rng = new Prng(SEED);
    const here = await openStack(`pool,,,rw,${pool(meta, data)}`);
    const { control } = here;
    const addThin = async (stack: OpenedStack, id: number): Promise<void> => {
      const table = `0 ${THIN_BYTES / 512} thin pool ${id}`;
      await stack.control.create({ name: `t${id}`, table });
    };
    await control.message('pool', 0, 'create_thin 0');
    await addThin(here, 0);
    const disk = await here.open('t0');
    const scribble = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        const bytes = new Uint8Array(rng.between(1, 40) * 4096);
        rng.fill(bytes);
        await disk.write(rng.below(THIN_BYTES / 4096 - 40) * 4096, bytes);
      }
    };
    await scribble(60);
    await control.message('pool', 0, 'create_snap 1 0');
    await scribble(40);
    await disk.discard(BLOCK * 3, BLOCK * 20);
    await addThin(here, 1);
    const [sum0, sum1] = [await sumOf(disk), await sumOfDevice(here, 't1')];
    const status = (await control.status('pool'))[0]?.params ?? '';
    await disk.close();
    await here.close();
    thinCheck(meta);

    const output = await inKernel({
      disks: [meta, data],
      script: `modprobe dm-thin-pool
dmsetup --noudevsync create pool --table "${pool('/dev/vda', '/dev/vdb')}"
echo "status $(dmsetup status pool | cut -d' ' -f4-)"
for i in 0 1; do dmsetup --noudevsync create t$i --table "0 ${THIN_BYTES / 512} thin /dev/mapper/pool $i"; done
s() { echo "$1 $(sha256sum </dev/mapper/$2 | cut -d' ' -f1)"; }
s before0 t0; s before1 t1
dmsetup suspend t0; dmsetup message pool 0 "create_snap 2 0"; dmsetup resume t0
dmsetup --noudevsync create t2 --table "0 ${THIN_BYTES / 512} thin /dev/mapper/pool 2"
for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of=/dev/mapper/t0 bs=4k count=$((i * 3)) seek=$((i * 700)) conv=fsync 2>/dev/null; done
/bin/blkdiscard -o 1048576 -l 4194304 /dev/mapper/t1
sync; s after0 t0; s after1 t1; s after2 t2
for d in t0 t1 t2 pool; do dmsetup --noudevsync remove $d; done; sync`,
    });
    assert.equal(said(output, 'before0'), sum0, output);
    assert.equal(said(output, 'before1'), sum1);
    assert.equal(said(output, 'status'), status.trim());

    thinCheck(meta);
    const back = await openStack(`pool,,,rw,${pool(meta, data)}`);
    for (const id of [0, 1, 2]) {
      await addThin(back, id);
      assert.equal(await sumOfDevice(back, `t${id}`), said(output, `after${id}`), `device ${id}`);
    }
    const again = await back.open('t2');
    await again.write(0, new Uint8Array(BLOCK).fill(9));
    await again.close();
    await back.close();
    thinCheck(meta);
  } finally {
    folder.remove();
  }
});

test('pools that LVM made open here, with their volumes and snapshots', async () => {
  const folder = makeTestFolder();
  try {
    const disk = join(folder.path, 'pv');
    writeFileSync(disk, '');
    truncateSync(disk, 300 * MIB);
    const output = await inKernel({
      disks: [disk],
      script: `modprobe dm-thin-pool; modprobe ext4; mkdir -p /mnt
pvcreate -q /dev/vda >/dev/null; vgcreate -q vg /dev/vda >/dev/null
lvcreate -q --type thin-pool -L 128M -n tp vg >/dev/null
lvcreate -q -V 96M --thinpool tp -n one vg >/dev/null
mkfs.ext4 -q /dev/mapper/vg-one; mount -t ext4 /dev/mapper/vg-one /mnt
for i in 1 2 3 4 5; do dd if=/dev/urandom of=/mnt/f$i bs=100k count=$i 2>/dev/null; done; sync
lvcreate -q -s -n two vg/one -kn >/dev/null; lvchange -q -ay vg/two
dd if=/dev/urandom of=/mnt/f3 bs=100k count=9 2>/dev/null
umount /mnt; sync
for v in one two; do echo "sum $v $(sha256sum </dev/mapper/vg-$v | cut -d' ' -f1)"; done
dmsetup table | sed 's/^/table /'
dmsetup info -c --noheadings -o name,minor | sed 's/^/minor /'
ls -l /dev/vda | awk '{print "disk " $5 $6}' | tr , :
vgchange -q -an vg >/dev/null; sync`,
    });
    const names = new Map<string, string>();
    for (const [, name = '', minor = ''] of output.matchAll(/^minor (\S+):(\d+)$/gm)) {
      names.set(`253:${minor}`, name);
    }
    const vda = /^disk (\d+:\d+)$/m.exec(output)?.[1] ?? '';
    const tables = new Map<string, string>();
    for (const [, name = '', line = ''] of output.matchAll(/^table (\S+): (.*)$/gm)) {
      const words = line
        .split(' ')
        .map((w) => (w === vda ? disk : (names.get(w) ?? w)))
        .join(' ');
      tables.set(name, [tables.get(name) ?? [], words].flat().join('\n'));
    }
    const volumes = [...output.matchAll(/^sum (\S+) (\w+)$/gm)];
    assert.equal(volumes.length, 2, output);
    // What others stand on first.
    const order = ['vg-tp_tmeta', 'vg-tp_tdata', 'vg-tp-tpool', 'vg-one', 'vg-two'];
    const stack = await openStack(`${order[0]},,,rw,${tables.get(order[0] as string)}`);
    for (const name of order.slice(1)) {
      await stack.control.create({ name, table: tables.get(name) as string });
    }
    for (const [, name = '', expected] of volumes) {
      assert.equal(await sumOfDevice(stack, `vg-${name}`), expected, `${name}\n${output}`);
    }
    await stack.close();
  } finally {
    folder.remove();
  }
});
