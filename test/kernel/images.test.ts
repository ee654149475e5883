// The same files under the same table: written here and read by the kernel, written there and read here.
// One stack with a file system, and many drawn ones, of which every sector must be at the same place.

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
import { SEED } from '../../src/testing/seed.ts';

const STACKS = Number(process.env['LAMINA_STACKS'] ?? 25);
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

interface DrawnStack {
  /** Device names and table lines; LOW, A, B and C stand for the devices. The last one is the top. */
  readonly low: readonly string[];
  readonly top: readonly string[];
  readonly sectors: number;
}

const DRAWN_DISK_SECTORS = 2048;

/** Lines of linear, striped and zero over A, B and C, and a second device over that one and more. */
function drawStack(rng: Prng): DrawnStack {
  let low = drawTable(rng, ['A', 'B'], DRAWN_DISK_SECTORS);
  // There has to be room for a line over it.
  while (low.sectors < 100) low = drawTable(rng, ['A', 'B'], DRAWN_DISK_SECTORS);
  const top = drawTable(rng, ['LOW', 'C'], Math.min(low.sectors, DRAWN_DISK_SECTORS));
  return { low: low.lines, top: top.lines, sectors: top.sectors };
}

/** No sector of a device is named twice, so that what is written through it has one place. */
function drawTable(
  rng: Prng,
  devices: readonly string[],
  deviceSectors: number,
): { readonly lines: string[]; readonly sectors: number } {
  const lines: string[] = [];
  const used = new Map(devices.map((name) => [name, rng.below(20)]));
  let sectors = 0;
  for (let count = rng.between(1, 5); count > 0; count--) {
    const room = Math.min(...devices.map((name) => deviceSectors - (used.get(name) ?? 0)));
    const place = (len: number, name = rng.pick(devices)): string => {
      const start = used.get(name) ?? 0;
      used.set(name, start + len + rng.below(9));
      return `${name} ${start}`;
    };
    if (room < 64) break;
    const chunk = rng.pick([1, 3, 8, 17]);
    const each = chunk * rng.between(1, Math.max(1, Math.floor(room / 3 / chunk)));
    const isStriped = rng.chance(0.5);
    const stripes = rng.between(1, devices.length);
    const len = isStriped ? each * stripes : rng.between(1, Math.floor(room / 2));
    const legs = devices.slice(0, stripes).map((name) => place(each, name));
    const params = isStriped ? `striped ${stripes} ${chunk} ${legs.join(' ')}` : undefined;
    const other = rng.chance(0.15) ? 'zero' : `linear ${place(len)}`;
    lines.push(`${sectors} ${len} ${params ?? other}`);
    sectors += len;
  }
  return { lines, sectors };
}

test(`${STACKS} drawn stacks map every sector as the kernel does, LAMINA_SEED=${SEED}`, async () => {
  const folder = makeTestFolder();
  try {
    const rng = new Prng(SEED);
    const stacks = Array.from({ length: STACKS }, () => drawStack(rng));
    const sizeBytes = DRAWN_DISK_SECTORS * 512;
    const at = (name: string): string => join(folder.path, name);
    const fill = (name: string, bytes: number): Uint8Array => {
      const data = new Uint8Array(bytes);
      rng.fill(data);
      writeFileSync(at(name), data);
      return data;
    };
    for (const name of ['A', 'B', 'C']) {
      fill(name, sizeBytes);
      writeFileSync(at(`kernel-${name}`), readFileSync(at(name)));
    }
    const data = fill('data', Math.max(...stacks.map((stack) => stack.sectors)) * 512);
    const there: Record<string, string> = { A: '/dev/vda', B: '/dev/vdb', C: '/dev/vdc' };
    const quote = (lines: readonly string[]): string =>
      lines
        .map((line) => line.replaceAll(/\b[ABC]\b/g, (name) => there[name] ?? ''))
        .map((line) => `'${line.replaceAll('LOW', '/dev/mapper/low')}'`)
        .join(' ');
    const output = await inKernel({
      disks: ['kernel-A', 'kernel-B', 'kernel-C', 'data'].map(at),
      timeoutSeconds: 600,
      script: `modprobe dm-zero
sum() { echo 3 >/proc/sys/vm/drop_caches; cat "$@" | sha256sum | cut -d' ' -f1; }
${stacks
  .map(
    ({ low, top, sectors }) => `printf '%s\\n' ${quote(low)} | dmsetup --noudevsync create low
printf '%s\\n' ${quote(top)} | dmsetup --noudevsync create top
echo "read $(sum /dev/mapper/top)"
dd if=/dev/vdd of=/dev/mapper/top bs=512 count=${sectors} conv=fsync,notrunc 2>/dev/null
dmsetup --noudevsync remove top; dmsetup --noudevsync remove low
sync; echo "disks $(sum /dev/vda /dev/vdb /dev/vdc)"`,
  )
  .join('\n')}`,
    });
    const said = output.trim().split('\n');
    assert.equal(said.length, 2 * STACKS, output);
    for (const [i, { low, top, sectors }] of stacks.entries()) {
      const here = (lines: readonly string[]): string =>
        lines
          .map((line) => line.replaceAll(/\b[ABC]\b/g, (name) => at(name)))
          .map((line) => line.replaceAll('LOW', 'low'))
          .join(',');
      const opened = await openStack(`low,,,rw,${here(low)};top,,,rw,${here(top)}`);
      const disk = await opened.open('top');
      assert.equal(disk.sizeBytes, sectors * 512);
      const what = `stack ${i}:\n${low.join('\n')}\n--\n${top.join('\n')}`;
      const content = await disk.read(0, disk.sizeBytes);
      assert.equal(`read ${sha256(content)}`, said[2 * i], `reading, ${what}`);
      await disk.write(0, data.subarray(0, disk.sizeBytes));
      await disk.flush();
      await disk.close();
      await opened.close();
      const disks = Buffer.concat(['A', 'B', 'C'].map((name) => readFileSync(at(name))));
      assert.equal(`disks ${sha256(disks)}`, said[2 * i + 1], `writing, ${what}`);
    }
    process.stdout.write(
      `    ${STACKS} stacks, ${stacks.flatMap((s) => s.top).length} lines on top\n`,
    );
  } finally {
    folder.remove();
  }
});

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
