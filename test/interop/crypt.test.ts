// crypt on real threads and real files: what lands in the file is what node:crypto makes of it, whatever
// is under way at the same time.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createCipheriv } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { openStack } from '../../src/index.ts';
import { SEED } from '../../src/testing/seed.ts';

const ENTRY = fileURLToPath(new URL('../../src/index.js', import.meta.url));
const MIB = 1 << 20;
const SIZE = 16 * MIB;
const folder = mkdtempSync(join(tmpdir(), 'lamina-crypt-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function bytes(rng: Prng, count: number): Buffer {
  const data = Buffer.alloc(count);
  rng.fill(data);
  return data;
}

function encrypted(plain: Buffer, key: Buffer, sectorBytes: number): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; at < plain.length; at += sectorBytes) {
    const iv = Buffer.alloc(16);
    iv.writeBigUInt64LE(BigInt(at / 512));
    const cipher = createCipheriv('aes-256-xts', key, iv);
    pieces.push(cipher.update(plain.subarray(at, at + sectorBytes)));
  }
  return Buffer.concat(pieces);
}

test(`large and small I/O at once, on two devices, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const devices = [
    { name: 'a', sectorBytes: 512, options: '' },
    { name: 'b', sectorBytes: 4096, options: ' 2 same_cpu_crypt sector_size:4096' },
  ].map((device) => {
    const file = join(folder, device.name);
    writeFileSync(file, '');
    truncateSync(file, SIZE);
    const key = bytes(rng, 64);
    const line = `crypt aes-xts-plain64 ${key.toString('hex')} 0 ${file} 0${device.options}`;
    return { ...device, file, key, concise: `${device.name},,,rw,0 ${SIZE / 512} ${line}` };
  });
  const stack = await openStack(devices.map((device) => device.concise).join(';'));
  try {
    await Promise.all(
      devices.map(async ({ name, file, key, sectorBytes }) => {
        const disk = await stack.open(name);
        const plain = bytes(rng, SIZE);
        // Pieces of all sizes, so that some are done inline and some on threads.
        const writes: Promise<void>[] = [];
        for (let at = 0; at < SIZE; ) {
          const blocks = rng.pick([1, 3, 16, 40, 256]);
          const len = Math.min(blocks * 4096, SIZE - at);
          writes.push(disk.write(at, plain.subarray(at, at + len)));
          at += len;
        }
        await Promise.all(writes);
        await disk.flush();
        assert.ok(readFileSync(file).equals(encrypted(plain, key, sectorBytes)), name);
        const reads = Array.from({ length: 60 }, async () => {
          const len = rng.pick([1, 8, 64, 256]) * 4096;
          const at = rng.below((SIZE - len) / 4096 + 1) * 4096;
          const got = await disk.read(at, len);
          assert.ok(Buffer.from(got).equals(plain.subarray(at, at + len)), `${name}: ${at}+${len}`);
        });
        await Promise.all(reads);
        await disk.close();
      }),
    );
  } finally {
    await stack.close();
  }
});

test('threads that have nothing to do keep no program alive', () => {
  const file = join(folder, 'short');
  writeFileSync(file, Buffer.alloc(4 * MIB));
  const line = `0 8192 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 ${file} 0`;
  const program = `
    const { openStack } = await import(${JSON.stringify(ENTRY)});
    const stack = await openStack('d,,,rw,${line}');
    const disk = await stack.open('d');
    await disk.write(0, new Uint8Array(1 << 20));
    // Long enough for threads to start, and to say so if they cannot.
    await new Promise((resolve) => setTimeout(resolve, 500));
    await disk.write(0, new Uint8Array(1 << 20));
    await disk.close();
    await stack.close();
    console.log('done');`;
  const args = ['--input-type=module', '-e', program];
  const said = execFileSync(process.execPath, args, { encoding: 'utf8', timeout: 20_000 });
  assert.equal(said, 'done\n');
});
