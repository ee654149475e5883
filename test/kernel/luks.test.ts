// LUKS volumes between lamina and the kernel: made and filled here, opened there by cryptsetup and written, and
// back; and made there. Both sides set up the kernel's dm-crypt line and ours from the same header.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { type Disk, openStack } from '../../src/index.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { said, sumOf } from './compare.ts';
import { inKernel } from './vm.ts';
import { SEED } from '../../src/testing/seed.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const MIB = 1 << 20;
const DISK_BYTES = 24 * MIB;
const PASSPHRASE = 'a passphrase';
const KDF1 = '--pbkdf-force-iterations 1000';
const KDF2 = '--pbkdf argon2id --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 1';

/** Options that `lamina luks format` and `cryptsetup luksFormat` both take. */
const VOLUMES = [
  `--type luks1 ${KDF1}`,
  `--type luks1 ${KDF1} --cipher aes-cbc-essiv:sha256 --key-size 256 --hash sha1`,
  `--type luks2 ${KDF2}`,
  `--type luks2 ${KDF2} --sector-size 4096`,
  '--type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --cipher aes-cbc-plain64 --key-size 128',
  `--type luks2 ${KDF2} --cipher camellia-xts-plain64 --key-size 512 --sector-size 1024`,
];

function lamina(...args: string[]): string {
  return execFileSync(LAMINA, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Opens a volume by the table line that its header gives, and closes it behind `use`. */
async function withVolume<T>(
  image: string,
  keyFile: string,
  use: (disk: Disk) => Promise<T>,
): Promise<T> {
  const secret = ['--key-file', keyFile];
  const line = lamina('luks', 'open', image, '--table', '--show-keys', ...secret).trim();
  const stack = await openStack(`v,,,rw,${line}`);
  try {
    const disk = await stack.open('v');
    try {
      return await use(disk);
    } finally {
      await disk.close();
    }
  } finally {
    await stack.close();
  }
}

test(`LUKS volumes are the kernel's and ours, LAMINA_SEED=${SEED}`, async () => {
  const folder = makeTestFolder();
  try {
    const rng = new Prng(SEED);
    const keyFile = join(folder.path, 'key');
    writeFileSync(keyFile, PASSPHRASE);
    const make = (name: string): string => {
      const path = join(folder.path, name);
      writeFileSync(path, '');
      truncateSync(path, DISK_BYTES);
      return path;
    };
    const ours = VOLUMES.map((_, i) => make(`ours${i}`));
    const theirs = VOLUMES.map((_, i) => make(`theirs${i}`));
    const scribble = async (disk: Disk): Promise<string> => {
      for (let i = 0; i < 40; i++) {
        const bytes = new Uint8Array(rng.between(1, 30) * 4096);
        rng.fill(bytes);
        await disk.write(rng.below(disk.sizeBytes / 4096 - 30) * 4096, bytes);
      }
      return await sumOf(disk);
    };
    const before: string[] = [];
    for (const [i, image] of ours.entries()) {
      const options = (VOLUMES[i] as string).split(' ');
      lamina('luks', 'format', image, '--key-file', keyFile, '--batch-mode', ...options);
      before.push(await withVolume(image, keyFile, scribble));
    }

    const letters = 'abcdefghijklmnop';
    const output = await inKernel({
      disks: [...ours, ...theirs],
      timeoutSeconds: 600,
      script: [
        'for m in dm-crypt camellia_generic af_alg algif_skcipher; do modprobe $m || true; done',
        'export DM_DISABLE_UDEV=1; mkdir -p /run/cryptsetup',
        `printf '%s' '${PASSPHRASE}' >/key`,
        's() { echo "$1 $(sha256sum </dev/mapper/v | cut -d" " -f1)"; }',
        'w() { for i in 1 2 3 4 5 6 7; do dd if=/dev/urandom of=/dev/mapper/v bs=4k count=$((i * 5)) seek=$((i * 200)) conv=fsync 2>/dev/null; done; }',
        ...VOLUMES.flatMap((options, i) => {
          const [mine, yours] = [letters[i], letters[i + VOLUMES.length]];
          return [
            `cryptsetup open --key-file /key /dev/vd${mine} v; s before${i}; w; s after${i}; cryptsetup close v`,
            `cryptsetup luksFormat -q ${options} --key-file /key /dev/vd${yours}`,
            `cryptsetup open --key-file /key /dev/vd${yours} v; w; s theirs${i}; cryptsetup close v`,
          ];
        }),
        'sync',
      ].join('\n'),
    });
    for (const [i, options] of VOLUMES.entries()) {
      assert.equal(
        said(output, `before${i}`),
        before[i],
        `${options}: the kernel reads ours\n${output}`,
      );
      const back = await withVolume(ours[i] as string, keyFile, sumOf);
      assert.equal(back, said(output, `after${i}`), `${options}: we read what the kernel wrote`);
      const other = await withVolume(theirs[i] as string, keyFile, sumOf);
      assert.equal(other, said(output, `theirs${i}`), `${options}: we open what cryptsetup made`);
    }
  } finally {
    folder.remove();
  }
});
