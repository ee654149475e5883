// crypt in the real kernel: the same plaintext through the same table lines gives the same bytes on the disk,
// for every cipher, IV mode and sector size.

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { BioDriver, makeLab } from '../../src/testing/index.ts';
import { inKernel } from './vm.ts';
import { SEED } from '../../src/testing/seed.ts';

const REGION_SECTORS = 64;

interface Case {
  readonly spec: string;
  readonly keyBytes: number;
  /** Only this size. */
  readonly sectorBytes?: number;
}

function family(cipher: string, keyBytes: number, ivs: readonly string[]): Case[] {
  return ivs.map((iv) => ({ spec: `${cipher}-${iv}`, keyBytes }));
}

const PLAIN = ['plain', 'plain64', 'plain64be', 'benbi', 'null'];
const ALL = [...PLAIN, 'essiv:sha256', 'eboiv'];

/** Debian's kernel has neither aria nor sm4; those are compared with node:crypto only. */
const CASES: readonly Case[] = [
  ...family('aes-xts', 32, ALL),
  ...family('aes-xts', 64, ALL),
  ...family('aes-cbc', 16, ALL),
  ...family('aes-cbc', 32, ALL),
  ...family('aes-ctr', 32, PLAIN),
  ...family('camellia-xts', 64, ['plain64']),
  ...family('camellia-cbc', 32, ALL),
  ...family('des3_ede-cbc', 24, PLAIN),
  { spec: 'aes-ecb', keyBytes: 32 },
  { spec: 'aes', keyBytes: 32 },
  { spec: 'aes:2-cbc-plain64', keyBytes: 32 },
  { spec: 'aes:4-xts-plain64', keyBytes: 128 },
  { spec: 'aes:64-cbc-lmk', keyBytes: 64 * 16, sectorBytes: 512 },
  { spec: 'aes:64-cbc-lmk', keyBytes: 65 * 16, sectorBytes: 512 },
  { spec: 'aes-cbc-tcw', keyBytes: 32 + 32, sectorBytes: 512 },
  { spec: 'cipher_null-ecb', keyBytes: 0 },
  { spec: 'capi:xts(aes)-plain64', keyBytes: 64 },
  { spec: 'capi:cbc(aes)-essiv:sha256', keyBytes: 32 },
];

interface Line {
  /** Of the table, with DISK in place of the device. */
  readonly table: string;
  readonly startSector: number;
}

function drawLines(rng: Prng): Line[] {
  const lines: Line[] = [];
  for (const { spec, keyBytes, sectorBytes } of CASES) {
    const sizes = sectorBytes === undefined ? [512, 1024, 2048, 4096] : [sectorBytes];
    for (const size of sizes) {
      const startSector = lines.length * REGION_SECTORS;
      const key = Array.from({ length: keyBytes * 2 }, () => rng.below(16).toString(16)).join('');
      const options = [
        ...(size === 512 ? [] : [`sector_size:${size}`]),
        ...(rng.chance(0.3) ? ['iv_large_sectors'] : []),
      ];
      const offset = rng.pick([0, 8, 2 ** 32 - 16, 2 ** 40]);
      const words = [spec, key === '' ? '-' : key, offset, 'DISK', startSector];
      if (options.length > 0) words.push(options.length, ...options);
      lines.push({ table: `0 ${REGION_SECTORS} crypt ${words.join(' ')}`, startSector });
    }
  }
  return lines;
}

/** What the disk holds after `plain` was written through every line. */
async function here(lines: readonly Line[], plain: Uint8Array): Promise<Uint8Array> {
  const lab = makeLab({ seed: SEED });
  const disk = lab.disk('a', lines.length * REGION_SECTORS);
  for (const { table } of lines) {
    await lab.dm.create({ name: 'c', table: table.replace('DISK', 'test:a') });
    const open = await lab.dm.openDevice('c');
    const driver = new BioDriver(open.device, lab.arena);
    assert.equal(await lab.scheduler.settle(driver.write(0, plain)), Status.Ok, table);
    await open.close();
    await lab.dm.remove('c');
  }
  return disk.bytes;
}

test(`ciphertext equals the kernel's, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const lines = drawLines(rng);
  const plain = Uint8Array.from({ length: REGION_SECTORS * 512 }, () => rng.below(256));
  const folder = mkdtempSync(join(tmpdir(), 'lamina-kernel-crypt-'));
  try {
    const [disk, source] = [join(folder, 'disk'), join(folder, 'plain')];
    writeFileSync(disk, new Uint8Array(lines.length * REGION_SECTORS * 512));
    writeFileSync(source, plain);
    const steps = lines.map(({ table }) => `put '${table.replace('DISK', '/dev/vda')}'`);
    const script = [
      'for m in dm-crypt essiv ctr camellia_generic des_generic md5; do',
      '  modprobe $m || true',
      'done',
      'put() {',
      '  if ! dmsetup create c --noudevsync --table "$1"; then echo "refused: $1"; return; fi',
      '  dd if=/dev/vdb of=/dev/mapper/c bs=32k count=1 oflag=direct 2>/dev/null',
      '  dmsetup table --showkeys c --noudevsync',
      '  dmsetup remove c --noudevsync',
      '}',
      ...steps,
    ];
    const output = await inKernel({
      script: script.join('\n'),
      disks: [disk, source],
      timeoutSeconds: 600,
    });
    const refused = output.split('\n').filter((line) => line.startsWith('refused'));
    assert.deepEqual(refused, [], output.slice(-2000));
    const [ours, theirs] = [await here(lines, plain), readFileSync(disk)];
    const different = lines.filter(({ startSector }) => {
      const [begin, end] = [startSector * 512, (startSector + REGION_SECTORS) * 512];
      return !Buffer.from(ours.subarray(begin, end)).equals(theirs.subarray(begin, end));
    });
    assert.deepEqual(different, [], `${different.length} of ${lines.length} differ`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
