// striped against a model: any chunk size, any number of stripes, any start; what reaches each disk, what
// limits and extents say, what is counted as a failure of a stripe.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { SEED } from '../../testing/seed.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';

interface Shape {
  readonly stripes: number;
  readonly chunk: number;
  readonly rows: number;
  readonly starts: readonly number[];
}

function drawShape(rng: Prng): Shape {
  const stripes = rng.pick([1, 2, 3, rng.between(1, 12)]);
  const chunk = rng.pick([1, 2, 7, 8, 16, rng.between(1, 40)]);
  return {
    stripes,
    chunk,
    rows: rng.between(1, 6),
    starts: Array.from({ length: stripes }, () => rng.below(20)),
  };
}

interface Rig {
  readonly lab: Lab;
  readonly driver: BioDriver;
  readonly disks: readonly SimDisk[];
  readonly lenSectors: number;
  /** Where sector `s` of the device is. */
  readonly place: (s: number) => { readonly stripe: number; readonly sector: number };
}

async function withStripes(
  shape: Shape,
  seed: number,
  use: (rig: Rig) => Promise<void>,
): Promise<void> {
  const { stripes, chunk, rows, starts } = shape;
  const lab = makeLab({ seed, clonesMax: seed % 2 === 0 ? 1 : 256 });
  const disks = starts.map((start, i) => lab.disk(`d${i}`, start + rows * chunk + 3));
  for (const disk of disks) disk.allocation.beExact();
  const lenSectors = stripes * rows * chunk;
  const words = disks.map((disk, i) => `${disk.name} ${starts[i]}`).join(' ');
  const params = `${stripes} ${chunk} ${words}`;
  await lab.dm.create({ name: 's', table: `0 ${lenSectors} striped ${params}` });
  assert.equal((await lab.dm.table('s'))[0]?.params, params);
  const open = await lab.dm.openDevice('s');
  const driver = new BioDriver(open.device, lab.arena, { guards: true });
  const place = (s: number): { stripe: number; sector: number } => {
    const number = Math.floor(s / chunk);
    const stripe = number % stripes;
    const row = (number - stripe) / stripes;
    return { stripe, sector: (starts[stripe] as number) + row * chunk + (s % chunk) };
  };
  await use({ lab, driver, disks, lenSectors, place });
  await open.close();
  await lab.dm.close();
  assert.deepEqual(lab.violations, []);
}

function isSectorZero(disk: SimDisk, sector: number): boolean {
  return disk.bytes.subarray(sector * 512, (sector + 1) * 512).every((b) => b === 0);
}

/** Extents as one letter a sector: data or hole. */
function letters(extents: readonly Extent[]): string {
  return extents.map((e) => (e.isHole && e.isZero ? '.' : 'D').repeat(e.lenSectors)).join('');
}

test(`every sector is on the stripe that arithmetic says, LAMINA_SEED=${SEED}`, async () => {
  for (let round = 0; round < 40; round++) {
    const rng = new Prng(SEED + round);
    const shape = drawShape(rng);
    await withStripes(shape, SEED + round, async (rig) => {
      const { lab, driver, disks, lenSectors, place } = rig;
      const model = new Uint8Array(lenSectors * 512);
      for (let i = 0; i < 12; i++) {
        const sectors = rng.between(1, lenSectors);
        const at = rng.below(lenSectors - sectors + 1);
        const bytes = model.subarray(at * 512, (at + sectors) * 512);
        const before = disks.map((disk) => disk.seen.length);
        const kind = rng.below(3);
        if (kind === 0) rng.fill(bytes);
        else bytes.fill(0);
        const work =
          kind === 0
            ? driver.write(at * 512, bytes)
            : kind === 1
              ? driver.zero(at * 512, bytes.length)
              : driver.discard(at * 512, bytes.length);
        assert.equal(await lab.scheduler.settle(work), Status.Ok);
        checkRequests(rig, shape, { at, sectors, kind, before });
        const read = await lab.scheduler.settle(driver.read(at * 512, bytes.length));
        assert.equal(Buffer.compare(read, bytes), 0, `read ${at}+${sectors}`);
      }
      for (let s = 0; s < lenSectors; s++) {
        const { stripe, sector } = place(s);
        const there = disks[stripe]?.bytes.subarray(sector * 512, (sector + 1) * 512);
        assert.equal(Buffer.compare(there ?? model, model.subarray(s * 512, (s + 1) * 512)), 0);
      }
      const extents = await driver.device.extents(0, lenSectors, lenSectors);
      const expected = Array.from({ length: lenSectors }, (_, s) => {
        const { stripe, sector } = place(s);
        return isSectorZero(disks[stripe] as SimDisk, sector) ? '.' : 'D';
      }).join('');
      assert.equal(letters(extents), expected);
      const [first] = await driver.device.extents(0, lenSectors, 1);
      assert.ok(expected.startsWith(letters(first === undefined ? [] : [first])));
    });
  }
});

/** Reads and writes stay in a chunk; a discard or write-zeroes reaches each stripe at most once. */
function checkRequests(
  { disks, place }: Rig,
  { chunk, starts }: Shape,
  io: { at: number; sectors: number; kind: number; before: readonly number[] },
): void {
  let total = 0;
  for (const [i, disk] of disks.entries()) {
    const seen = disk.seen.slice(io.before[i]);
    for (const bio of seen) {
      total += bio.lenSectors;
      if (bio.op !== Op.Write) continue;
      const inStripe = bio.sector - (starts[i] as number);
      const ends = inStripe + bio.lenSectors - 1;
      assert.equal(Math.floor(inStripe / chunk), Math.floor(ends / chunk), 'crosses a chunk');
    }
    if (io.kind !== 0) assert.ok(seen.length <= 1, `${seen.length} requests for stripe ${i}`);
  }
  assert.equal(total, io.sectors, `of ${io.sectors} sectors at ${io.at}`);
  assert.ok(place(io.at).stripe < disks.length);
}

test('limits: chunk and row are the hints, the weakest disk decides the rest', async () => {
  const lab = makeLab({ seed: 1 });
  lab.disk('a', 240, { maxIoSectors: 64, maxDiscardSectors: 32 });
  lab.disk('b', 240, { logicalBlockBytes: 4096, maxWriteZeroesSectors: 0 });
  lab.disk('c', 240);
  const table = '0 720 striped 3 24 test:a 0 test:b 0 test:c 0';
  await lab.dm.create({ name: 's', table });
  const open = await lab.dm.openDevice('s');
  const { limits } = open.device;
  assert.equal(limits.ioMinBytes, 24 * 512);
  assert.equal(limits.ioOptBytes, 3 * 24 * 512);
  assert.equal(limits.logicalBlockBytes, 4096);
  assert.equal(limits.maxIoSectors, 64);
  assert.equal(limits.maxDiscardSectors, 32);
  assert.equal(limits.maxWriteZeroesSectors, 0);
  const driver = new BioDriver(open.device, lab.arena);
  assert.equal(await lab.scheduler.settle(driver.discard(0, 720 * 512)), Status.Ok);
  await open.close();
  await lab.dm.close();
  // No disk was asked for more than it takes.
  assert.deepEqual(lab.violations, []);
});

test(`an error is counted against its stripe and no other, LAMINA_SEED=${SEED}`, async () => {
  for (let round = 0; round < 20; round++) {
    const rng = new Prng(SEED + 500 + round);
    const shape = drawShape(rng);
    await withStripes(shape, SEED + round, async ({ lab, driver, disks, lenSectors, place }) => {
      const health = async (): Promise<string> =>
        (await lab.dm.status('s'))[0]?.params.split(' ').at(-1) ?? '';
      const bad = rng.below(lenSectors);
      const { stripe, sector } = place(bad);
      disks[stripe]?.badSectors.add(sector);
      const expected = disks.map((_, i) => (i === stripe ? 'D' : 'A')).join('');
      assert.equal(await health(), 'A'.repeat(disks.length));
      const kind = rng.below(4);
      const [at, len] = [bad * 512, 512];
      const io = [
        () => driver.tryRead(at, len),
        () => driver.write(at, new Uint8Array(len)),
        () => driver.discard(at, len),
        () => driver.zero(at, len),
      ][kind] as () => Promise<Status | Buffer>;
      assert.equal(await lab.scheduler.settle(io()), Status.Io);
      assert.equal(await health(), expected);
    });
  }
});

test('status and refusals speak as the kernel does', async () => {
  const lab = makeLab({ seed: 1 });
  lab.disk('a', 64);
  lab.disk('b', 64);
  await lab.dm.create({ name: 's', table: '0 64 striped 2 8 test:a 0 test:b 8' });
  assert.equal((await lab.dm.status('s'))[0]?.params, '2 test:a test:b 1 AA');
  const refused: readonly (readonly [string, RegExp])[] = [
    ['', /Not enough arguments: expected <stripes> <chunk sectors> <device> <start>\.\.\./],
    ['0 8', /Invalid stripe count: 0/],
    ['-2 8', /Invalid stripe count: '-2'/],
    ['4294967296 8', /Invalid stripe count: 4294967296: expected 1 to 4294967295/],
    ['2 0 test:a 0 test:b 0', /Invalid chunk_size: 0/],
    ['2 x test:a 0 test:b 0', /Invalid chunk_size: 'x'/],
    ['3 1 test:a 0 test:b 0 test:a 0', /not divisible by number of stripes: 64 sectors, 3 stripes/],
    ['2 5 test:a 0 test:b 0', /not divisible by chunk size: 32 sectors a stripe, chunks of 5/],
    ['2 8 test:a 0 test:b', /2 stripes need 4 arguments, found 3/],
    ['2 8 test:a 0 test:b 0 x', /2 stripes need 4 arguments, found 5/],
    ['2 8 test:a 0 test:b 40', /Couldn't parse stripe destination 1: .*too small for target/],
    ['2 8 test:none 0 test:b 0', /Couldn't parse stripe destination 0: .*no such simulated disk/],
  ];
  for (const [words, message] of refused) {
    const table = `0 64 striped ${words}`.trim();
    await assert.rejects(lab.dm.load('s', table), { name: 'DmError', message });
  }
  await lab.dm.close();
});

test('a smaller table below ends block status with an error, not with a loop', async () => {
  const lab = makeLab({ seed: 1 });
  lab.disk('a', 64);
  lab.disk('b', 64);
  await lab.dm.create({ name: 'low', table: '0 64 linear test:a 0' });
  await lab.dm.create({ name: 's', table: '0 128 striped 2 8 test:b 0 low 0' });
  const open = await lab.dm.openDevice('s');
  await lab.dm.load('low', '0 16 linear test:a 0');
  await lab.dm.suspend('low');
  await lab.dm.resume('low');
  const message = /low: no sector 16/;
  await assert.rejects(lab.scheduler.settle(open.device.extents(0, 128, 50)), { message });
  await open.close();
  await lab.dm.close();
});
