// crypt as a device: the order in which writes leave, on whose account, with how little memory, and what
// becomes of its keys.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { Op } from '../../src/bio/bio.ts';
import { IoContext } from '../../src/bio/context.ts';
import { Arena } from '../../src/io/arena.ts';
import { BioDriver } from '../../src/testing/bio-driver.ts';
import { type Lab, makeLab } from '../../src/testing/sim/lab.ts';
import { SEED } from '../../src/testing/seed.ts';

const SECTORS = 4096;
const KEY = '5a'.repeat(32);
const OTHER_KEY = 'c3'.repeat(32);

function bytes(rng: Prng, count: number): Buffer {
  return Buffer.from(Array.from({ length: count }, () => rng.below(256)));
}

function table(key: string, options = ''): string {
  return `0 ${SECTORS} crypt aes-xts-plain64 ${key} 0 test:a 0${options}`;
}

async function close(lab: Lab): Promise<void> {
  assert.deepEqual(lab.violations, []);
  await lab.scheduler.settle(lab.dm.close());
}

test(`writes leave in the order of their sectors, batch by batch, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const lab = makeLab({ seed: SEED, arena: new Arena(16 << 20) });
  const disk = lab.disk('a', SECTORS);
  const batches = new Map<number, number[]>();
  const submit = disk.submit.bind(disk);
  disk.submit = (bio) => {
    const now = lab.scheduler.nowMs();
    if (bio.op === Op.Write) batches.set(now, [...(batches.get(now) ?? []), bio.sector]);
    submit(bio);
  };
  await lab.dm.create({ name: 'c', table: table(KEY) });
  const open = await lab.dm.openDevice('c');
  const driver = new BioDriver(open.device, lab.arena, { guards: true });
  for (let round = 0; round < 20; round++) {
    const writes = Array.from({ length: 40 }, async () => {
      const sectors = rng.pick([1, 1, 8, 64]);
      const at = rng.below(SECTORS - sectors) * 512;
      return await driver.write(at, bytes(rng, sectors * 512));
    });
    for (const status of await lab.scheduler.settle(Promise.all(writes))) assert.equal(status, 0);
  }
  const sizes = [...batches.values()].map((sectors) => sectors.length);
  assert.ok(Math.max(...sizes) >= 10, `the largest batch has ${Math.max(...sizes)} writes`);
  for (const sectors of batches.values()) {
    assert.deepEqual(
      sectors,
      sectors.toSorted((a, b) => a - b),
    );
  }
  await open.close();
  await close(lab);
});

test(`what is charged above is charged below, with all options, LAMINA_SEED=${SEED}`, async () => {
  for (const options of [
    '',
    ' 1 same_cpu_crypt',
    ' 1 submit_from_crypt_cpus',
    ' 2 no_read_workqueue no_write_workqueue',
    ' 2 high_priority sector_size:4096',
  ]) {
    const rng = new Prng(SEED);
    const lab = makeLab({ seed: SEED, arena: new Arena(16 << 20) });
    const disk = lab.disk('a', SECTORS);
    await lab.dm.create({ name: 'c', table: table(KEY, options) });
    const open = await lab.dm.openDevice('c');
    const contexts = [
      new IoContext({ name: 'first', ioprio: 1 << 13 }),
      new IoContext({ name: 'second', ioprio: (3 << 13) | 7 }),
    ];
    await lab.scheduler.settle(
      Promise.all(
        contexts.map(async (ctx) => {
          const driver = new BioDriver(open.device, lab.arena, { ctx, guards: true });
          for (let i = 0; i < 60; i++) {
            const lenBytes = rng.pick([8, 8, 64, 512]) * 512;
            const at = rng.below(SECTORS / 8 - lenBytes / 4096) * 4096;
            if (rng.chance(0.5)) await driver.read(at, lenBytes);
            else assert.equal(await driver.write(at, bytes(rng, lenBytes)), Status.Ok);
          }
        }),
      ),
    );
    for (const ctx of contexts) {
      for (const op of [Op.Read, Op.Write]) {
        const below = disk.seen.filter((bio) => bio.op === op && bio.ctx === ctx);
        const sum = below.reduce((total, bio) => total + bio.lenSectors * 512, 0);
        assert.equal(sum, ctx.bytes[op], `${ctx.name}, op ${op}, options '${options}'`);
        assert.ok(sum > 0);
      }
      assert.equal(ctx.refs, 1);
    }
    await open.close();
    await close(lab);
  }
});

test(`a write goes on with nothing but the reserve, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const lab = makeLab({ seed: SEED, arena: new Arena(8 << 20) });
  lab.disk('a', SECTORS);
  await lab.dm.create({ name: 'c', table: table(KEY) });
  const open = await lab.dm.openDevice('c');
  const driver = new BioDriver(open.device, lab.arena);
  // All that is left is taken but for two chunks, which are the driver's.
  const kept = [lab.arena.tryAlloc(1 << 18), lab.arena.tryAlloc(1 << 18)];
  const hog: [number, number][] = [];
  for (const size of [1 << 20, 1 << 18, 1 << 16, 1 << 14, 4096]) {
    for (let mem = lab.arena.tryAlloc(size); mem >= 0; mem = lab.arena.tryAlloc(size)) {
      hog.push([mem, size]);
    }
  }
  for (const mem of kept) lab.arena.free(mem, 1 << 18);
  const data = [bytes(rng, 1 << 18), bytes(rng, 1 << 18)];
  const writes = data.map(async (part, i) => await driver.write(i << 18, part));
  assert.deepEqual(await lab.scheduler.settle(Promise.all(writes)), [0, 0]);
  for (const [mem, size] of hog) lab.arena.free(mem, size);
  for (const [i, part] of data.entries()) {
    assert.ok((await lab.scheduler.settle(driver.read(i << 18, 1 << 18))).equals(part));
  }
  await open.close();
  await close(lab);
});

test('keys are set and wiped while suspended, and are never said', async () => {
  const lab = makeLab({ seed: SEED });
  lab.disk('a', SECTORS);
  await lab.dm.create({ name: 'c', table: table(KEY) });
  const open = await lab.dm.openDevice('c');
  const driver = new BioDriver(open.device, lab.arena);
  const data = Buffer.alloc(4096, 'lamina');
  const said: string[] = [];
  const tell = async (text: string): Promise<string> => {
    try {
      await lab.scheduler.settle(lab.dm.message('c', 0, text));
      return '';
    } catch (error) {
      said.push((error as Error).message);
      return (error as Error).message;
    }
  };
  const resume = (): Promise<void> => lab.scheduler.settle(lab.dm.resume('c'));
  const suspend = (): Promise<void> => lab.scheduler.settle(lab.dm.suspend('c'));
  assert.equal(await lab.scheduler.settle(driver.write(0, data)), Status.Ok);
  assert.match(await tell('key wipe'), /not suspended during key manipulation/);
  assert.match(await tell(`key set ${OTHER_KEY}`), /not suspended/);
  await suspend();
  assert.match(await tell(`key set ${OTHER_KEY}00`), /33 bytes: the size of the key is fixed: 32/);
  assert.match(await tell(`key set ${OTHER_KEY.slice(1)}`), /63 characters: expected an even/);
  assert.match(await tell(`key put ${OTHER_KEY}`), /unrecognised message/);
  assert.match(await tell(`kee set ${OTHER_KEY}`), /unrecognised message/);
  assert.equal(await tell('key wipe'), '');
  await assert.rejects(resume(), /crypt key is not set/);
  assert.equal(
    (await lab.dm.table('c', { showKeys: true }))[0]?.params.split(' ')[1],
    '00'.repeat(32),
  );
  assert.equal(await tell(`key set ${OTHER_KEY}`), '');
  await resume();
  const wrong = await lab.scheduler.settle(driver.read(0, 4096));
  assert.ok(!wrong.equals(data));
  await suspend();
  assert.equal(await tell(`key set ${KEY}`), '');
  await resume();
  assert.ok((await lab.scheduler.settle(driver.read(0, 4096))).equals(data));
  const [line] = await lab.dm.table('c');
  assert.equal(line?.params, `aes-xts-plain64 ${'00'.repeat(32)} 0 test:a 0`);
  assert.equal((await lab.dm.table('c', { showKeys: true }))[0]?.params.split(' ')[1], KEY);
  for (const bad of [
    `0 8 crypt aes-xts-plain64 ${KEY}`,
    `0 8 crypt aes-xts-plain64 ${KEY}5a 0 test:a 0`,
    `0 8 crypt aes-xts-plain64 ${KEY} x test:a 0`,
    `0 0 crypt aes-xts-plain64 ${KEY} 0 test:a 0`,
    `${KEY} 8`,
  ]) {
    await assert.rejects(lab.dm.create({ name: 'd', table: bad }), (error: Error) => {
      said.push(error.message);
      return true;
    });
  }
  for (const text of said) assert.doesNotMatch(text, /(?:5a|c3){8}/, text);
  await open.close();
  await close(lab);
});

test('discards go down only when they are allowed', async () => {
  for (const options of ['', ' 1 allow_discards']) {
    const lab = makeLab({ seed: SEED });
    const disk = lab.disk('a', SECTORS);
    await lab.dm.create({ name: 'c', table: table(KEY, options) });
    const open = await lab.dm.openDevice('c');
    const driver = new BioDriver(open.device, lab.arena);
    const status = await lab.scheduler.settle(driver.discard(4096, 8192));
    assert.equal(status, options === '' ? Status.NotSupported : Status.Ok);
    const seen = disk.seen.filter((bio) => bio.op === Op.Discard);
    assert.equal(seen.length, options === '' ? 0 : 1);
    await open.close();
    await close(lab);
  }
});
