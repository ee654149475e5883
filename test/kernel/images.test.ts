// The same files under the same table: written here and read by the kernel, written there and read here.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openStack } from '../../src/index.ts';
import { Prng } from '../../src/base/prng.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { inKernel } from './vm.ts';

const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() & 0x7fffffff);
const MIB = 1 << 20;
/** 32 MiB over three files of 16: two stripes between the halves of the third, exchanged. */
const LINES = (a: string, b: string, c: string): string[] => [
  `0 8192 linear ${c} 8192`,
  `8192 49152 striped 2 24 ${a} 0 ${b} 0`,
  `57344 8192 linear ${c} 0`,
];
const SIZE = 65536 * 512;

test(`a stack with a file system goes to the kernel and comes back, LAMINA_SEED=${SEED}`, async () => {
  const folder = makeTestFolder();
  try {
    const files = ['a', 'b', 'c'].map((n) => join(folder.path, `${n}.img`));
    for (const file of files) {
      writeFileSync(file, '');
      truncateSync(file, 16 * MIB);
    }
    const [a, b, c] = files as [string, string, string];
    const concise = `d,,,rw,${LINES(a, b, c).join(',')}`;

    // A file system with known content, through lamina.
    const tree = join(folder.path, 'tree');
    mkdirSync(tree);
    const rng = new Prng(SEED);
    for (let i = 0; i < 20; i++) {
      const bytes = new Uint8Array(rng.between(1, 200_000));
      rng.fill(bytes);
      writeFileSync(join(tree, `here-${i}`), bytes);
    }
    const fs = join(folder.path, 'fs.img');
    writeFileSync(fs, '');
    truncateSync(fs, SIZE);
    execFileSync('mkfs.ext4', ['-q', '-d', tree, fs], {
      env: { ...process.env, PATH: `${process.env['PATH']}:/sbin:/usr/sbin` },
    });
    const image = readFileSync(fs);
    const first = await openStack(concise);
    const disk = await first.open('d');
    assert.equal(disk.sizeBytes, SIZE);
    for (let at = 0; at < SIZE; at += MIB) await disk.write(at, image.subarray(at, at + MIB));
    await disk.flush();
    await disk.close();
    await first.close();

    const output = await inKernel({
      disks: files,
      script: `printf '%s\\n' ${LINES('/dev/vda', '/dev/vdb', '/dev/vdc')
        .map((l) => `'${l}'`)
        .join(' ')} | dmsetup --noudevsync create d
modprobe ext4
echo "before $(sha256sum </dev/mapper/d | cut -d' ' -f1)"
mkdir -p /mnt; mount -t ext4 /dev/mapper/d /mnt
(cd /mnt && sha256sum here-* | sort -k2)
for i in 1 2 3 4 5; do dd if=/dev/urandom of=/mnt/there-$i bs=10k count=$((i * 7)) 2>/dev/null; done
rm /mnt/here-3; mv /mnt/here-4 /mnt/moved
(cd /mnt && sha256sum there-* moved | sort -k2 | sed 's/^/there /')
umount /mnt; sync
echo "after $(sha256sum </dev/mapper/d | cut -d' ' -f1)"
dmsetup --noudevsync remove d`,
    });
    const said = (word: string): string | undefined =>
      new RegExp(`^${word} ([0-9a-f]{64})$`, 'm').exec(output)?.[1];
    assert.equal(said('before'), sha256(image));
    for (let i = 0; i < 20; i++) {
      const sum = sha256(readFileSync(join(tree, `here-${i}`)));
      assert.ok(output.includes(`${sum}  here-${i}\n`), `here-${i}: ${output}`);
    }

    const second = await openStack(concise);
    const again = await second.open('d');
    const parts: Buffer[] = [];
    for (let at = 0; at < SIZE; at += MIB) parts.push(await again.read(at, MIB));
    await again.close();
    await second.close();
    const back = Buffer.concat(parts);
    assert.equal(sha256(back), said('after'));
    writeFileSync(fs, back);
    execFileSync('/sbin/e2fsck', ['-fn', fs], { stdio: 'pipe' });
    for (const [, sum = '', name = ''] of output.matchAll(/^there (\w{64}) {2}(\S+)$/gm)) {
      const copy = join(folder.path, 'copy');
      execFileSync('/sbin/debugfs', ['-R', `dump ${name} ${copy}`, fs], { stdio: 'pipe' });
      assert.equal(sha256(readFileSync(copy)), sum, name);
    }
  } finally {
    folder.remove();
  }
});

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
