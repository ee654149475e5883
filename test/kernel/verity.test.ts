// verity in the real kernel: it reads volumes made here, prints the same lines, finds the same damage.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import type { TreeFormat } from '../../src/targets/verity/tree.ts';
import { makeLab } from '../../src/testing/index.ts';
import { inKernel } from './vm.ts';
import { formatFiles } from '../../src/testing/verity-files.ts';
import { SEED } from '../../src/testing/seed.ts';

const BLOCKS = 300;

const FORMATS: readonly Pick<
  TreeFormat,
  'hashType' | 'algorithm' | 'dataBlockBytes' | 'hashBlockBytes'
>[] = [
  { hashType: 1, algorithm: 'sha256', dataBlockBytes: 4096, hashBlockBytes: 4096 },
  { hashType: 0, algorithm: 'sha256', dataBlockBytes: 1024, hashBlockBytes: 512 },
  { hashType: 1, algorithm: 'sha512', dataBlockBytes: 512, hashBlockBytes: 1024 },
];
const OPTIONS = ['', ' 1 ignore_corruption', ' 2 check_at_most_once ignore_zero_blocks'];

/** What lamina prints for a line. */
async function linesHere(table: string): Promise<string> {
  const lab = makeLab({ seed: 1 });
  for (const name of ['a', 'b']) lab.disk(name, 8192);
  await lab.dm.create({ name: 'v', table, isReadOnly: true });
  const [line] = await lab.dm.table('v');
  const [status] = await lab.dm.status('v');
  await lab.dm.close();
  return `${line?.params}\n${status?.params}`;
}

test(`the kernel reads volumes made here, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const folder = mkdtempSync(join(tmpdir(), 'lamina-kernel-verity-'));
  try {
    const script = ['modprobe dm-verity', 'modprobe sha512_generic || true'];
    const disks: string[] = [];
    const expected: { readonly data: Buffer; readonly table: string }[] = [];
    for (const [i, part] of FORMATS.entries()) {
      const salt = Uint8Array.from({ length: 32 }, () => rng.below(256));
      const format: TreeFormat = { ...part, salt, dataBlocks: BLOCKS, hashStart: 1 };
      const data = Buffer.from(
        Array.from({ length: BLOCKS * part.dataBlockBytes }, () => rng.below(256)),
      );
      const [dataPath, hashPath] = [join(folder, `data${i}`), join(folder, `hash${i}`)];
      writeFileSync(dataPath, data);
      writeFileSync(hashPath, '');
      const root = await formatFiles(dataPath, hashPath, format);
      // Disks are whole sectors.
      const hash = readFileSync(hashPath);
      writeFileSync(hashPath, Buffer.concat([hash, Buffer.alloc(4096 - (hash.length % 4096))]));
      disks.push(dataPath, hashPath);
      const [a, b] = ['abcdef'[2 * i], 'abcdef'[2 * i + 1]];
      const sizes = `${part.dataBlockBytes} ${part.hashBlockBytes} ${BLOCKS} 1`;
      const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
      const sectors = (BLOCKS * part.dataBlockBytes) / 512;
      const table =
        `0 ${sectors} verity ${part.hashType} /dev/vd${a} /dev/vd${b} ${sizes} ` +
        `${part.algorithm} ${hex(root)} ${hex(salt)}${OPTIONS[i]}`;
      expected.push({ data, table });
      script.push(
        `dmsetup --noudevsync --readonly create v --table '${table}'`,
        'echo "== $(sha256sum </dev/mapper/v | cut -d" " -f1)"',
        'echo "table $(dmsetup table v)"',
        'echo "status $(dmsetup status v)"',
        'dmsetup --noudevsync remove v',
        // One byte in the middle changes.
        `printf x | dd of=/dev/vd${a} bs=1 seek=${5 * part.dataBlockBytes + 7} conv=notrunc 2>/dev/null`,
        'sync; echo 3 >/proc/sys/vm/drop_caches',
        `dmsetup --noudevsync --readonly create v --table '${table}'`,
        'if cat /dev/mapper/v >/dev/null 2>&1; then echo read; else echo refused; fi',
        'echo "status $(dmsetup status v)"',
        'dmsetup --noudevsync remove v',
      );
    }
    const output = await inKernel({ script: script.join('\n'), disks });
    const answers = output.split('== ').slice(1);
    assert.equal(answers.length, FORMATS.length, output);
    for (const [i, { data, table }] of expected.entries()) {
      const [sum, tableLine, status, read, damaged] = (answers[i] as string).split('\n');
      assert.equal(sum, createHash('sha256').update(data).digest('hex'), table);
      const here = await linesHere(
        table.replace(/\/dev\/vd\w/, 'test:a').replace(/\/dev\/vd\w/, 'test:b'),
      );
      const there = (tableLine as string)
        .replace(/^table \d+ \d+ verity /, '')
        .replace(/ 254:\d+ 254:\d+ /, ' test:a test:b ');
      assert.equal(here, `${there}\n${(status as string).split(' ').at(-1)}`);
      assert.equal(read, i === 1 ? 'read' : 'refused', table);
      assert.match(damaged as string, / C$/);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
