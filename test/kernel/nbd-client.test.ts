// The kernel's own NBD client, and QEMU's, against a lamina server.

import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';
import { FLUSH, FUA, readPlainLog } from './plain-log.ts';
import { inKernel } from './vm.ts';

const WORK = `mkdir -p /mnt
mount -t FS DISK /mnt
fio --name=v --directory=/mnt --size=16m --rw=randwrite --bs=16k --verify=crc32c --ioengine=psync --fsync=16 \\
  --end_fsync=1 --randseed=7 --output-format=terse >/tmp/fio || { cat /tmp/fio; exit 1; }
for i in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/f$i bs=64k count=8 conv=fsync 2>/dev/null; done
sha256sum /mnt/f* >/tmp/sums
umount /mnt
echo 3 >/proc/sys/vm/drop_caches
mount -t FS DISK /mnt
sha256sum -c /tmp/sums >/dev/null && echo "sums agree"
umount /mnt`;

function work(fs: string, disk: string): string {
  return WORK.replaceAll('FS', fs).replaceAll('DISK', disk);
}

for (const engine of ['uring', 'node']) {
  test(`the kernel's client over TCP, two connections, ${engine} engine: ext4, xfs, discards`, async () => {
    const folder = makeTestFolder();
    const image = join(folder.path, 'disk.img');
    writeFileSync(image, '');
    truncateSync(image, 400 << 20);
    const args = [image, '--engine', engine];
    const server = await startLamina(args, ['--tcp', '127.0.0.1:0']);
    try {
      const port = new URL(server.uri).port;
      const output = await inKernel({
        script: `modprobe nbd max_part=0
modprobe ext4; modprobe xfs
nbd-client 10.0.2.2 ${port} /dev/nbd0 -C 2 -b 512 >/dev/null 2>&1
echo "connections $(netstat -tn | grep -c '10.0.2.2:${port} *ESTABLISHED')"
cat /sys/block/nbd0/queue/write_cache /sys/block/nbd0/queue/fua
blockdev --getsize64 /dev/nbd0
mkfs.ext4 -q /dev/nbd0
${work('ext4', '/dev/nbd0')}
e2fsck -fn /dev/nbd0 >/dev/null 2>&1 && echo "ext4 clean"
dd if=/dev/urandom of=/dev/nbd0 bs=1M count=4 conv=fsync 2>/dev/null
/bin/blkdiscard -o 1048576 -l 1048576 /dev/nbd0
/bin/blkdiscard -z -o 2097152 -l 1048576 /dev/nbd0
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/nbd0 bs=1M skip=1 count=2 2>/dev/null | tr -d '\\0' | wc -c
mkfs.xfs -q -f /dev/nbd0
${work('xfs', '/dev/nbd0')}
xfs_repair -n /dev/nbd0 >/dev/null 2>&1 && echo "xfs clean"
nbd-client -d /dev/nbd0 >/dev/null`,
      });
      assert.deepEqual(output.trim().split('\n'), [
        'connections 2',
        'write back',
        '1',
        String(400 << 20),
        'sums agree',
        'ext4 clean',
        '0',
        'sums agree',
        'xfs clean',
      ]);
      assert.equal(await server.stop(), 0, server.stderr());
    } finally {
      await server.kill();
      folder.remove();
    }
  });
}

test("the kernel's flushes and FUA writes reach the device", async () => {
  const folder = makeTestFolder();
  const [data, log] = ['data', 'log'].map((n) => join(folder.path, n)) as [string, string];
  writeFileSync(data, '');
  truncateSync(data, 64 << 20);
  writeFileSync(log, '');
  truncateSync(log, 512 << 20);
  const table = `0 ${(64 << 20) / 512} log-writes ${data} ${log}`;
  const server = await startLamina(['--table', table], ['--tcp', '127.0.0.1:0']);
  try {
    const port = new URL(server.uri).port;
    await inKernel({
      script: `modprobe nbd max_part=0; modprobe ext4; mkdir -p /mnt
nbd-client 10.0.2.2 ${port} /dev/nbd0 -b 512 >/dev/null 2>&1
dd if=/dev/zero of=/dev/nbd0 bs=4k seek=100 count=1 conv=notrunc 2>/dev/null
for i in 1 2 3 4 5; do dd if=/dev/zero of=/dev/nbd0 bs=4k seek=$((i * 7)) count=1 conv=notrunc,fsync 2>/dev/null; done
mkfs.ext4 -q /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
for i in 1 2 3 4 5; do echo $i >/mnt/f$i; sync /mnt/f$i; done
umount /mnt
nbd-client -d /dev/nbd0 >/dev/null`,
    });
    assert.equal(await server.stop(), 0, server.stderr());
    const entries = readPlainLog(log);
    const flushed = entries.filter((entry) => (entry.flags & FLUSH) !== 0).length;
    const fua = entries.filter((entry) => (entry.flags & FUA) !== 0).length;
    // One for each dd, one or two for each sync (a commit of the journal is FLUSH and FUA).
    assert.ok(flushed >= 10, `${flushed} flushes`);
    assert.ok(fua >= 5, `${fua} FUA writes`);
  } finally {
    await server.kill();
    folder.remove();
  }
});

test("QEMU's client over a unix socket: xfs on a striped device", async () => {
  const folder = makeTestFolder();
  const files = ['a', 'b'].map((n) => join(folder.path, `${n}.img`));
  for (const file of files) {
    writeFileSync(file, '');
    truncateSync(file, 200 << 20);
  }
  const table = `0 ${(400 << 20) / 512} striped 2 128 ${files[0]} 0 ${files[1]} 0`;
  const server = await startLamina(['--table', table], join(folder.path, 's.sock'));
  try {
    const output = await inKernel({
      nbd: [server.uri],
      script: `modprobe xfs
mkfs.xfs -q -f /dev/vda
${work('xfs', '/dev/vda')}
xfs_repair -n /dev/vda >/dev/null 2>&1 && echo "xfs clean"`,
    });
    assert.deepEqual(output.trim().split('\n'), ['sums agree', 'xfs clean']);
    assert.equal(await server.stop(), 0, server.stderr());
  } finally {
    await server.kill();
    folder.remove();
  }
});
