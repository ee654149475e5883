// flakey: when it is down, and what then goes wrong. On virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioFlag } from '../../bio/bio.ts';
import { NONE } from '../../io/arena.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { SEED } from '../../testing/seed.ts';

const ONES = new Uint8Array(4096).fill(1);

interface FlakeyRig {
  readonly lab: Lab;
  readonly disk: SimDisk;
  readonly driver: BioDriver;
  wait(seconds: number): Promise<void>;
  close(): Promise<void>;
}

async function makeFlakey(words: string, clonesMax = 2): Promise<FlakeyRig> {
  const lab = makeLab({ seed: SEED, clonesMax });
  const disk = lab.addDisk({ name: 'test:a', lenSectors: 2048, delayMs: [0, 1] });
  await lab.dm.create({ name: 'f', table: `0 1024 flakey test:a 8 ${words}` });
  const open = await lab.dm.openDevice('f');
  const { scheduler } = lab;
  return {
    lab,
    disk,
    driver: new BioDriver(open.device, lab.arena, { guards: true }),
    wait: async (seconds) =>
      await scheduler.settle(new Promise<void>((r) => scheduler.after(seconds * 1000, r))),
    async close() {
      await open.close();
      await lab.dm.close();
    },
  };
}

/** What a read, a write, a flush and a discard end with. */
async function outcome({ driver, lab }: FlakeyRig): Promise<(Status | Buffer)[]> {
  const all = [
    driver.tryRead(0, 512).then((r) => (typeof r === 'number' ? r : Status.Ok)),
    driver.write(0, ONES),
    driver.flush(),
    driver.discard(8192, 4096),
  ];
  return await lab.scheduler.settle(Promise.all(all));
}

const OK = [0, 0, 0, 0];
const CASES: readonly (readonly [features: string, down: readonly Status[]])[] = [
  ['', [5, 5, 5, 5]],
  ['0', [5, 5, 5, 5]],
  ['1 error_writes', [0, 5, 5, 5]],
  ['1 error_reads', [5, 0, 0, 0]],
  ['2 error_reads error_writes', [5, 5, 5, 5]],
  ['1 drop_writes', OK],
  ['5 corrupt_bio_byte 1 r 0 0', OK],
];

for (const [features, down] of CASES) {
  test(`two seconds up, three down: ${features === '' ? 'no features' : features}`, async () => {
    const rig = await makeFlakey(`2 3 ${features}`);
    for (let second = 0; second < 11; second++) {
      const expected = second % 5 >= 2 ? down : OK;
      assert.deepEqual(await outcome(rig), expected, `second ${second}`);
      await rig.wait(1 - ((rig.lab.scheduler.nowMs() / 1000) % 1));
    }
    await rig.close();
  });
}

test('drop_writes: what is written while down never arrives', async () => {
  const rig = await makeFlakey('0 10 1 drop_writes');
  assert.deepEqual(await outcome(rig), OK);
  assert.deepEqual(
    rig.disk.seen.map((b) => b.op),
    [0],
  );
  assert.ok(rig.disk.bytes.every((b) => b === 0));
  await rig.close();
});

test(`corrupt_bio_byte on writes changes that byte below and nothing above, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  for (const byte of [1, 512, 513, 4096, 4097]) {
    const rig = await makeFlakey(`0 10 5 corrupt_bio_byte ${byte} w 77 0`, 1);
    const data = new Uint8Array(4096);
    rng.fill(data);
    const cut = rng.between(1, 4095);
    // The driver looks whether the caller's data is still what it was.
    const write = rig.driver.write(0, data, { segments: [cut, 4096 - cut] });
    assert.equal(await rig.lab.scheduler.settle(write), Status.Ok);
    const expected = Buffer.from(data);
    if (byte <= 4096) expected[byte - 1] = 77;
    assert.ok(expected.equals(rig.disk.bytes.subarray(4096, 8192)), `byte ${byte}`);
    await rig.close();
  }
});

test('corrupt_bio_byte on reads changes what is read and not what is stored', async () => {
  const rig = await makeFlakey('0 10 5 corrupt_bio_byte 700 r 77 0');
  const { scheduler } = rig.lab;
  await scheduler.settle(rig.driver.write(0, ONES));
  const read = await scheduler.settle(rig.driver.read(0, 4096, { segments: [600, 3496] }));
  assert.deepEqual(
    [...read.entries()].filter(([, b]) => b !== 1),
    [[699, 77]],
  );
  assert.ok(rig.disk.bytes.subarray(4096, 8192).every((b) => b === 1));
  await rig.close();
});

test('flags select: only writes with FUA, only metadata', async () => {
  for (const [mask, flags] of [
    [1 << 17, BioFlag.Fua],
    [1 << 12, BioFlag.Meta],
    [1, 0],
  ] as const) {
    const rig = await makeFlakey(`0 10 5 corrupt_bio_byte 1 w 77 ${mask}`);
    const { scheduler } = rig.lab;
    await scheduler.settle(rig.driver.write(0, ONES));
    await scheduler.settle(rig.driver.write(4096, ONES, { flags }));
    assert.equal(rig.disk.bytes[4096], mask === 1 ? 77 : 1);
    assert.equal(rig.disk.bytes[8192], 77);
    await rig.close();
  }
});

test('random corruption happens about as often as asked for', async () => {
  const rig = await makeFlakey('0 10 4 random_read_corrupt 500000000 random_write_corrupt 0');
  const { scheduler } = rig.lab;
  await scheduler.settle(rig.driver.write(0, ONES));
  let changed = 0;
  for (let i = 0; i < 200; i++) {
    const data = await scheduler.settle(rig.driver.read(0, 4096));
    const bytes = data.filter((b) => b !== 1).length;
    assert.ok(bytes <= 1);
    changed += bytes;
  }
  assert.ok(changed > 60 && changed < 140, `${changed} of 200`);
  await rig.close();
});

test('many corrupted writes get through one copy at a time, also when memory is short', async () => {
  const rig = await makeFlakey('0 1000 2 random_write_corrupt 1000000000', 1);
  const { arena, scheduler } = rig.lab;
  const writes = Array.from({ length: 64 }, (_, i) => rig.driver.write(i * 4096, ONES));
  // Leaves a few chunks: what the copies live on.
  const taken: number[] = [];
  for (let mem = arena.tryAlloc(1 << 20); mem !== NONE; mem = arena.tryAlloc(1 << 20)) {
    taken.push(mem);
  }
  const statuses = await scheduler.settle(Promise.all(writes));
  assert.ok(statuses.every((s) => s === Status.Ok));
  for (const mem of taken) arena.free(mem, 1 << 20);
  let wrong = 0;
  for (let i = 0; i < 64; i++) {
    const at = 4096 + i * 4096;
    const bytes = rig.disk.bytes.subarray(at, at + 4096).filter((b) => b !== 1).length;
    assert.ok(bytes <= 1);
    wrong += bytes;
  }
  assert.ok(wrong > 55, `${wrong} of 64`);
  await rig.close();
});

test('table lines come back; bad ones are refused in the kernel’s words', async () => {
  const good: readonly (readonly [given: string, printed: string])[] = [
    ['5 5', '5 5 0'],
    ['5 5 0', '5 5 0'],
    ['5 5 1 drop_writes', '5 5 1 drop_writes'],
    ['5 0 2 error_reads drop_writes', '5 0 2 error_reads drop_writes'],
    ['5 5 5 corrupt_bio_byte 32 r 1 0', '5 5 5 corrupt_bio_byte 32 r 1 0'],
    ['5 5 5 corrupt_bio_byte 32 W 1 0', '5 5 5 corrupt_bio_byte 32 w 1 0'],
    ['5 5 2 random_read_corrupt 9', '5 5 2 random_read_corrupt 9'],
  ];
  for (const [given, printed] of good) {
    const rig = await makeFlakey(given);
    assert.equal((await rig.lab.dm.table('f'))[0]?.params, `test:a 8 ${printed}`);
    assert.equal((await rig.lab.dm.status('f'))[0]?.params, '');
    await rig.close();
  }
  const bad: readonly (readonly [string, RegExp])[] = [
    ['5', /flakey: Invalid argument count: 3/],
    ['x 5', /Invalid up interval: 'x'/],
    ['5 x', /Invalid down interval: 'x'/],
    ['0 0', /Total \(up \+ down\) interval is zero/],
    ['4294967295 1', /Interval overflow/],
    ['5 5 x', /Invalid number of feature args: 'x'/],
    ['5 5 2 drop_writes', /Invalid number of feature args: '2', and 1 words follow/],
    ['5 5 1 sing', /Unrecognised flakey feature requested: 'sing'/],
    ['5 5 2 drop_writes drop_writes', /Feature drop_writes duplicated/],
    ['5 5 2 drop_writes error_writes', /error_writes conflicts with feature drop_writes/],
    ['5 5 2 error_writes drop_writes', /drop_writes conflicts with feature error_writes/],
    ['5 5 3 corrupt_bio_byte 1 r', /Feature corrupt_bio_byte requires parameters/],
    ['5 5 5 corrupt_bio_byte 0 r 1 0', /Invalid corrupt bio byte: found '0'/],
    ['5 5 5 corrupt_bio_byte 1 x 1 0', /Invalid corrupt bio direction \(r or w\): found 'x'/],
    [
      '5 5 5 corrupt_bio_byte 1 r 256 0',
      /Invalid corrupt value to write into bio byte \(0-255\): found '256'/,
    ],
    ['5 5 5 corrupt_bio_byte 1 r 1 z', /Invalid corrupt bio flags mask: found 'z'/],
    ['5 5 6 drop_writes corrupt_bio_byte 1 w 1 0', /drop_writes is incompatible/],
    ['5 5 2 random_read_corrupt 1000000001', /Invalid random corrupt argument/],
  ];
  for (const [words, message] of bad) {
    await assert.rejects(makeFlakey(words), { name: 'DmError', message });
  }
});
