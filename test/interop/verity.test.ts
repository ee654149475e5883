// verity volumes against the real veritysetup, both ways, and through the target.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Prng } from '../../src/base/prng.ts';
import { openStack } from '../../src/index.ts';
import { SEED } from '../../src/testing/seed.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'lamina-verity-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const run = promisify(execFile);

interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function exec(program: string, args: readonly string[]): Promise<Result> {
  const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };
  try {
    return { code: 0, ...(await run(program, [...args], { env })) };
  } catch (error) {
    const {
      code,
      stdout = '',
      stderr = '',
    } = error as {
      code: number | string;
      stdout?: string;
      stderr?: string;
    };
    assert.equal(typeof code, 'number', `${program}: ${String(error)}`);
    return { code: code as number, stdout, stderr };
  }
}

const lamina = async (...args: string[]): Promise<Result> =>
  await exec(LAMINA, ['verity', ...args]);
const veritysetup = async (...args: string[]): Promise<Result> => await exec('veritysetup', args);

interface Case {
  readonly hash: string;
  readonly format: string;
  readonly dataBlock: number;
  readonly hashBlock: number;
  readonly blocks: number;
  readonly salt: string;
  readonly hasSuper: boolean;
}

const CASES: readonly Case[] = [
  {
    hash: 'sha256',
    format: '1',
    dataBlock: 4096,
    hashBlock: 4096,
    blocks: 1000,
    salt: 'a1'.repeat(32),
    hasSuper: true,
  },
  {
    hash: 'sha1',
    format: '1',
    dataBlock: 4096,
    hashBlock: 1024,
    blocks: 129,
    salt: '-',
    hasSuper: true,
  },
  {
    hash: 'sha512',
    format: '1',
    dataBlock: 512,
    hashBlock: 512,
    blocks: 700,
    salt: '00'.repeat(256),
    hasSuper: true,
  },
  {
    hash: 'sha256',
    format: '0',
    dataBlock: 1024,
    hashBlock: 4096,
    blocks: 300,
    salt: '5a',
    hasSuper: true,
  },
  {
    hash: 'sha1',
    format: '0',
    dataBlock: 512,
    hashBlock: 512,
    blocks: 77,
    salt: 'ff01',
    hasSuper: true,
  },
  {
    hash: 'sha256',
    format: '1',
    dataBlock: 4096,
    hashBlock: 4096,
    blocks: 1,
    salt: 'aa',
    hasSuper: true,
  },
  {
    hash: 'sha256',
    format: '1',
    dataBlock: 4096,
    hashBlock: 4096,
    blocks: 128,
    salt: '-',
    hasSuper: false,
  },
  {
    hash: 'sha256',
    format: '1',
    dataBlock: 4096,
    hashBlock: 512,
    blocks: 257,
    salt: 'bb',
    hasSuper: false,
  },
];

function options(c: Case): string[] {
  return [
    `--hash=${c.hash}`,
    `--format=${c.format}`,
    `--data-block-size=${c.dataBlock}`,
    `--hash-block-size=${c.hashBlock}`,
    `--data-blocks=${c.blocks}`,
    `--salt=${c.salt}`,
    ...(c.hasSuper ? [] : ['--no-superblock']),
  ];
}

/** To veritysetup, what a superblock says cannot be given again. */
function verifyOptions(c: Case): string[] {
  return c.hasSuper ? [] : options(c);
}

for (const [number, c] of CASES.entries()) {
  test(`${c.blocks} blocks, ${c.hash}, type ${c.format}, ${c.dataBlock}/${c.hashBlock}: both ways, LAMINA_SEED=${SEED}`, async () => {
    const rng = new Prng(SEED + number);
    const path = (name: string): string => join(folder, `${number}-${name}`);
    const [data, ours, theirs, rootFile] = [
      path('data'),
      path('ours'),
      path('theirs'),
      path('root'),
    ];
    const content = Buffer.from(
      Array.from({ length: c.blocks * c.dataBlock }, () => rng.below(256)),
    );
    writeFileSync(data, content);
    const made = await lamina('format', data, ours, ...options(c), '--root-hash-file', rootFile);
    assert.equal(made.code, 0, made.stderr);
    const root = readFileSync(rootFile, 'latin1');
    assert.match(made.stdout, new RegExp(`^Root hash: +${root}$`, 'm'));
    const their = await veritysetup('format', data, theirs, ...options(c));
    assert.equal(their.code, 0, their.stderr);
    assert.match(their.stdout, new RegExp(`^Root hash: +\\t*${root}$`, 'm'), 'the same tree');
    // Each opens what the other made.
    for (const hash of [ours, theirs]) {
      const here = await lamina('verify', data, hash, root, ...verifyOptions(c));
      assert.equal(here.code, 0, here.stdout + here.stderr);
      const there = await veritysetup('verify', data, hash, root, ...verifyOptions(c));
      assert.equal(there.code, 0, there.stderr);
    }
    // And finds the same byte changed.
    const at = rng.below(content.length);
    content[at] = (content[at] as number) ^ 0x40;
    writeFileSync(data, content);
    const block = Math.floor(at / c.dataBlock);
    const here = await lamina('verify', data, theirs, root, ...verifyOptions(c));
    assert.equal(here.code, 1);
    assert.equal(here.stdout, `data block ${block} is corrupted\n`);
    assert.notEqual((await veritysetup('verify', data, ours, root, ...verifyOptions(c))).code, 0);
  });
}

test('a volume of veritysetup, data and tree in one file, read through the target', async () => {
  const disk = join(folder, 'one-file');
  const blocks = 600;
  const content = Buffer.alloc(blocks * 4096 + 64 * 4096);
  const rng = new Prng(SEED);
  for (let i = 0; i < blocks * 4096; i++) content[i] = rng.below(256);
  writeFileSync(disk, content);
  const place = [`--data-blocks=${blocks}`, `--hash-offset=${blocks * 4096}`];
  const made = await veritysetup('format', disk, disk, ...place);
  assert.equal(made.code, 0, made.stderr);
  const root = /^Root hash:\s+(\w+)$/m.exec(made.stdout)?.[1] ?? '';
  const salt = /^Salt:\s+(\w+)$/m.exec(made.stdout)?.[1] ?? '';
  const table =
    `0 ${blocks * 8} verity 1 ${disk} ${disk} 4096 4096 ${blocks} ${blocks + 1} ` +
    `sha256 ${root} ${salt}`;
  const stack = await openStack(`v,,,ro,${table}`);
  try {
    const device = await stack.open('v');
    const got = await device.read(0, blocks * 4096);
    assert.ok(Buffer.from(got).equals(content.subarray(0, blocks * 4096)));
    await device.close();
    const [line] = await stack.control.status('v');
    assert.equal(line?.params, 'V');
  } finally {
    await stack.close();
  }
});

test('what cannot be is refused by name, and nothing is written', async () => {
  const [data, hash] = [join(folder, 'bad-data'), join(folder, 'bad-hash')];
  writeFileSync(data, Buffer.alloc(65536, 7));
  assert.equal((await lamina('format', data, hash, '--salt', '-')).code, 0);
  const good = readFileSync(hash);
  const refusals: [number, number[], RegExp][] = [
    [0, [0x56], /magic/],
    [8, [2, 0, 0, 0], /version: 2/],
    [12, [7, 0, 0, 0], /hash type: 7/],
    [32, [0x78, 0x78, 0], /no hash 'xx/],
    [64, [0xff, 0x0f, 0, 0], /data block size: 4095/],
    [68, [0, 0, 0, 0], /hash block size: 0/],
    [72, [255, 255, 255, 255, 255, 255, 255, 255], /2\^53/],
    [80, [1, 2], /salt size: 513/],
  ];
  for (const [at, bytes, message] of refusals) {
    const bad = Buffer.from(good);
    bad.set(bytes, at);
    writeFileSync(hash, bad);
    const result = await lamina('verify', data, hash, '00'.repeat(32));
    assert.equal(result.code, 1, result.stdout);
    assert.match(result.stderr, message);
    assert.ok(readFileSync(hash).equals(bad));
  }
  writeFileSync(hash, good.subarray(0, 100));
  assert.match((await lamina('dump', hash)).stderr, /the file ends before it/);
  writeFileSync(hash, good.subarray(0, 4096));
  assert.match((await lamina('verify', data, hash, '00'.repeat(32))).stderr, /ends at byte 4096/);
  assert.match((await lamina('verify', data, hash, '00')).stderr, /expected 64 hexadecimal digits/);
  assert.match((await lamina('format', data, data)).stderr, /would write over it/);
  assert.ok(readFileSync(data).equals(Buffer.alloc(65536, 7)));
});
