// verity: what its table line takes and gives back, and a tree made here, by the words of the format's
// description and none of the target's code, which the target must accept. Damage, errors and disks that
// answer in any order are in test/sim.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { SEED } from '../../testing/seed.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';

interface Format {
  readonly type: 0 | 1;
  readonly algorithm: 'sha1' | 'sha256' | 'sha512';
  readonly salt: Buffer;
  readonly dataBytes: number;
  readonly hashBytes: number;
}

const DIGEST_BYTES = { sha1: 20, sha256: 32, sha512: 64 } as const;

function digest({ type, algorithm, salt }: Format, block: Uint8Array): Buffer {
  const parts = type === 1 ? [salt, block] : [block, salt];
  return createHash(algorithm).update(Buffer.concat(parts)).digest();
}

/** The hash blocks, root's first, and the root digest. */
function makeTree(format: Format, data: Buffer): { readonly tree: Buffer; readonly root: Buffer } {
  const { dataBytes, hashBytes, type, algorithm } = format;
  const digestBytes = DIGEST_BYTES[algorithm];
  let slot: number = digestBytes;
  // Type 1 pads digests to a power of two; either way a block takes a power of two of them.
  if (type === 1) while ((slot & (slot - 1)) !== 0) slot++;
  let perBlock = 1;
  while (perBlock * 2 * digestBytes <= hashBytes) perBlock *= 2;
  let digests: Buffer[] = [];
  for (let at = 0; at < data.length; at += dataBytes) {
    digests.push(digest(format, data.subarray(at, at + dataBytes)));
  }
  const levels: Buffer[] = [];
  while (digests.length > 1) {
    const blocks: Buffer[] = [];
    for (let first = 0; first < digests.length; first += perBlock) {
      const block = Buffer.alloc(hashBytes);
      for (const [i, one] of digests.slice(first, first + perBlock).entries()) {
        one.copy(block, i * slot);
      }
      blocks.push(block);
    }
    levels.unshift(Buffer.concat(blocks));
    digests = blocks.map((block) => digest(format, block));
  }
  return { tree: Buffer.concat(levels), root: digests[0] as Buffer };
}

function image(...parts: readonly Buffer[]): Uint8Array {
  const whole = Buffer.concat(parts);
  const padded = new Uint8Array(Math.ceil((whole.length + 1) / 4096) * 4096);
  padded.set(whole);
  return padded;
}

function addDisk(lab: Lab, name: string, content: Uint8Array): void {
  const disk = lab.addDisk({ name, lenSectors: content.length / 512, image: content });
  disk.allocation.beExact();
}

test(`a tree made by the format's description is accepted, LAMINA_SEED=${SEED}`, async () => {
  // Each kind of format is there in every run; the seed draws the rest.
  for (const [i, algorithm] of (['sha256', 'sha1', 'sha512', 'sha256'] as const).entries()) {
    for (const type of [0, 1] as const) {
      const rng = new Prng(SEED + 10 * i + type);
      const salt = Buffer.alloc(rng.pick([0, 1, 32, 256]));
      rng.fill(salt);
      const [dataBytes, hashBytes] = [rng.pick([512, 1024, 4096]), rng.pick([512, 1024, 4096])];
      const format: Format = { type, algorithm, salt, dataBytes, hashBytes };
      const blocks = [1, 2, rng.between(3, 40), rng.between(100, 250)][i] as number;
      const data = Buffer.alloc(blocks * dataBytes);
      rng.fill(data);
      const { tree, root } = makeTree(format, data);
      const start = rng.pick([0, 1, 5]);
      const lab = makeLab({ seed: SEED });
      addDisk(lab, 'test:data', image(data));
      addDisk(lab, 'test:hash', image(Buffer.alloc(start * hashBytes), tree));
      const saltWord = salt.length === 0 ? '-' : salt.toString('hex');
      const sizes = `${dataBytes} ${hashBytes} ${blocks} ${start}`;
      const rootWord = root.toString('hex');
      const params = `${type} test:data test:hash ${sizes} ${algorithm} ${rootWord} ${saltWord}`;
      const table = `0 ${data.length / 512} verity ${params}`;
      await lab.dm.create({ name: 'v', table, isReadOnly: true });
      assert.equal((await lab.dm.table('v'))[0]?.params, params);
      const open = await lab.dm.openDevice('v');
      const driver = new BioDriver(open.device, lab.arena, { guards: true });
      const read = await lab.scheduler.settle(driver.read(0, data.length));
      assert.equal(Buffer.compare(read, data), 0, table);
      assert.equal((await lab.dm.status('v'))[0]?.params, 'V');
      await open.close();
      await lab.dm.close();
    }
  }
});

const FORMAT: Format = {
  type: 1,
  algorithm: 'sha256',
  salt: Buffer.alloc(0),
  dataBytes: 1024,
  hashBytes: 1024,
};
const DATA = Buffer.alloc(8 * 1024, 7);

/** A good volume of 8 blocks, and its table line but for what follows the salt. */
function goodVolume(lab: Lab): string {
  const { tree, root } = makeTree(FORMAT, DATA);
  addDisk(lab, 'test:data', image(DATA));
  addDisk(lab, 'test:hash', image(tree));
  return `0 16 verity 1 test:data test:hash 1024 1024 8 0 sha256 ${root.toString('hex')} -`;
}

test('the device is read-only in whole data blocks; block status is that of the data', async () => {
  const lab = makeLab({ seed: 1 });
  await lab.dm.create({ name: 'v', table: goodVolume(lab), isReadOnly: true });
  const open = await lab.dm.openDevice('v');
  const { limits, isReadOnly } = open.device;
  assert.equal(isReadOnly, true);
  assert.equal(limits.logicalBlockBytes, 1024);
  assert.equal(limits.physicalBlockBytes, 1024);
  assert.equal(limits.ioMinBytes, 1024);
  assert.equal(limits.maxDiscardSectors, 0);
  assert.equal(limits.maxWriteZeroesSectors, 0);
  const driver = new BioDriver(open.device, lab.arena);
  const { scheduler } = lab;
  assert.equal(await driver.write(0, new Uint8Array(1024)), Status.ReadOnly);
  assert.equal(await driver.discard(0, 1024), Status.ReadOnly);
  assert.equal(await driver.zero(0, 1024), Status.ReadOnly);
  assert.equal(await scheduler.settle(driver.flush()), Status.Ok);
  assert.deepEqual(await open.device.extents(2, 10, 3), [
    { lenSectors: 10, isHole: false, isZero: false },
  ]);
  await open.close();
  await lab.dm.close();
  assert.equal(lab.arena.usedBytes, 0);
});

test('options come back in the kernel’s order; refusals are in its words', async () => {
  const lab = makeLab({ seed: 1 });
  const line = goodVolume(lab);
  const [lenWords, params = ''] = line.split(' verity ');
  const options = ' 3 check_at_most_once IGNORE_ZERO_BLOCKS restart_on_corruption';
  await lab.dm.create({ name: 'v', table: line + options, isReadOnly: true });
  assert.equal(
    (await lab.dm.table('v'))[0]?.params,
    `${params} 3 restart_on_corruption ignore_zero_blocks check_at_most_once`,
  );
  const words = params.split(' ');
  /** The line with one word in another's place. */
  const but = (at: number, word: string): string =>
    words.map((old, i) => (i === at ? word : old)).join(' ');
  const root = words[8] ?? '';
  const refused: readonly (readonly [string, RegExp])[] = [
    [words.slice(0, 9).join(' '), /Not enough arguments: 9, expected <version>/],
    [but(0, '2'), /Invalid version: '2': expected 0 or 1/],
    [but(1, 'test:none'), /no such simulated disk/],
    [but(3, '1000'), /Invalid data device block size: '1000': expected a power of two from 512/],
    [but(3, '8192'), /Invalid data device block size: '8192'/],
    [but(4, '256'), /Invalid hash device block size: '256'/],
    [but(5, '-1'), /Invalid data blocks: '-1'/],
    [but(5, '7'), /Data device is too small: 14 sectors are hashed, the target has 16/],
    [but(6, 'x'), /Invalid hash start: 'x'/],
    [but(6, '100'), /Hash device is too small: 8 sectors, the tree ends at 202/],
    [but(7, 'crc32'), /Cannot initialize hash function: there is no hash 'crc32'/],
    [but(8, root.slice(2)), /Invalid root digest: 31 bytes, expected 32 for sha256/],
    [but(8, `${root.slice(1)}x`), /Invalid root digest: '.*': expected an even number of hex/],
    [but(9, 'ab'.repeat(257)), /Invalid salt: 257 bytes, at most 256/],
    [but(9, 'abc'), /Invalid salt: 'abc': expected an even number/],
    [`${params} 2 check_at_most_once`, /number of feature args: announced '2', found 1/],
    [`${params} 1 explode`, /Unrecognized verity feature request: 'explode'/],
    [`${params} 2 use_fec_from_device test:x`, /no error correction or signatures here/],
    [
      `${params} 2 ignore_corruption panic_on_corruption`,
      /Conflicting error handling parameters: ignore_corruption and panic_on_corruption/,
    ],
  ];
  for (const [args, message] of refused) {
    const table = `${lenWords ?? ''} verity ${args}`;
    await assert.rejects(
      lab.dm.create({ name: 'x', table, isReadOnly: true }),
      { name: 'DmError', message },
      args,
    );
  }
  const message = /Device must be readonly/;
  await assert.rejects(lab.dm.create({ name: 'x', table: line }), { name: 'DmError', message });
  await lab.dm.close();
  // Neither buffers nor disks are left from what was refused.
  assert.equal(lab.arena.usedBytes, 0);
  assert.ok([...lab.disks.values()].every((disk) => disk.isClosed));
});

test('blocks that should be zeroes are zeroes, whatever is there, with ignore_zero_blocks', async () => {
  const lab = makeLab({ seed: 1 });
  const good = Buffer.from(DATA).fill(0, 1024, 3072);
  const { tree, root } = makeTree(FORMAT, good);
  addDisk(lab, 'test:data', image(Buffer.from(good).fill(0xee, 1024, 2048)));
  addDisk(lab, 'test:hash', image(tree));
  const words = `1 test:data test:hash 1024 1024 8 0 sha256 ${root.toString('hex')} -`;
  for (const [options, isRead] of [
    [' 1 ignore_zero_blocks', true],
    ['', false],
  ] as const) {
    await lab.dm.create({ name: 'v', table: `0 16 verity ${words}${options}`, isReadOnly: true });
    const open = await lab.dm.openDevice('v');
    const driver = new BioDriver(open.device, lab.arena);
    const read = await lab.scheduler.settle(driver.tryRead(0, good.length));
    if (isRead) assert.equal(Buffer.compare(read as Buffer, good), 0);
    else assert.equal(read, Status.Io);
    await open.close();
    await lab.dm.remove('v');
  }
  await lab.dm.close();
});
