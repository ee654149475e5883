// The power goes behind every single event of a run, one after the other: a snapshot that nobody writes to is what the origin
// was, or nothing was promised yet; a merge that is cut off anywhere ends in what the snapshot was.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { BioDriver, type Lab, makeLab } from '../../src/testing/index.ts';
import { SEED } from '../../src/testing/seed.ts';

const SECTORS = 96;
const CUTS = [
  { keep: 0, tear: 0 },
  { keep: 1, tear: 0 },
  { keep: 0.5, tear: 0.3 },
] as const;
const ORIGIN = `0 ${SECTORS} snapshot-origin test:base`;
const TABLES = {
  s: `0 ${SECTORS} snapshot test:base test:s P 8`,
  t: `0 ${SECTORS} snapshot test:base test:t P 1`,
} as const;
const MERGE = `0 ${SECTORS} snapshot-merge test:base test:s P 8`;
/** Pieces of one chunk, of several, across their borders, and twice the same. */
const WRITES = [
  [0, 8],
  [13, 22],
  [14, 1],
  [40, 30],
  [63, 33],
  [2, 3],
] as const;

type Images = ReadonlyMap<string, Uint8Array>;

function labOf(seed: number, images: Images): Lab {
  const lab = makeLab({ seed, clonesMax: 3 });
  for (const [name, image] of images) {
    lab.addDisk({ name, lenSectors: image.length / 512, image: image.slice() });
  }
  return lab;
}

/** Blank cow devices, with something behind their headers, and an origin of random bytes. */
function freshImages(rng: Prng): Map<string, Uint8Array> {
  const images = new Map<string, Uint8Array>();
  for (const [name, sectors] of [
    ['test:base', SECTORS],
    ['test:s', 256],
    ['test:t', 256],
  ] as const) {
    const image = new Uint8Array(sectors * 512);
    rng.fill(name === 'test:base' ? image : image.subarray(512));
    images.set(name, image);
  }
  return images;
}

async function create(lab: Lab, name: string, table: string): Promise<BioDriver> {
  await lab.scheduler.settle(lab.dm.create({ name, table }));
  const open = await lab.dm.openDevice(name);
  return new BioDriver(open.device, lab.arena);
}

async function readAll(lab: Lab, driver: BioDriver): Promise<Buffer> {
  return await lab.scheduler.settle(driver.read(0, SECTORS * 512));
}

async function pause(lab: Lab, ms: number): Promise<void> {
  await lab.scheduler.settle(new Promise<void>((resolve) => lab.scheduler.after(ms, resolve)));
}

/** What the disks hold when the power goes behind so many events of `run`; null: it ends before. */
async function cutBehind(
  lab: Lab,
  events: number,
  cut: (typeof CUTS)[number],
  run: () => Promise<unknown>,
): Promise<Images | null> {
  let images: Images | null = null;
  lab.scheduler.haltAfter(events, () => {
    images = lab.powerCut(new Prng(SEED + events), cut.keep, cut.tear);
  });
  await lab.scheduler.settle(run()).catch(() => undefined);
  await abandon(lab);
  return images;
}

async function abandon(lab: Lab): Promise<void> {
  for (const disk of lab.disks.values()) disk.faults.isGone = true;
  await lab.scheduler.settle(lab.dm.close().catch(() => undefined)).catch(() => undefined);
}

for (const cut of CUTS) {
  const kept = `${cut.keep * 100} % of what was not durable is there`;
  test(`writes to an origin, cut behind every event, ${kept}, LAMINA_SEED=${SEED}`, async () => {
    const images = freshImages(new Prng(SEED));
    const before = Buffer.from(images.get('test:base') as Uint8Array);
    for (let events = 1; ; events++) {
      const lab = labOf(SEED, images);
      const origin = await create(lab, 'o', ORIGIN);
      for (const [name, table] of Object.entries(TABLES)) await create(lab, name, table);
      const left = await cutBehind(lab, events, cut, async () => {
        const writes = WRITES.map(([sector, sectors], i) =>
          origin.write(sector * 512, new Uint8Array(sectors * 512).fill(i + 1)),
        );
        await Promise.all(writes);
      });
      if (left === null) {
        assert.ok(events > 60, `only ${events} events`);
        return;
      }
      const after = labOf(SEED + 1, left);
      for (const [name, table] of Object.entries(TABLES)) {
        const found = await readAll(after, await create(after, name, table));
        assert.ok(found.equals(before), `${name}, cut behind ${events} events`);
      }
      assertOldOrNew(left.get('test:base') as Uint8Array, before, events);
      await abandon(after);
    }
  });

  test(`a merge, cut behind every event, ${kept}, LAMINA_SEED=${SEED}`, async () => {
    const { images, merged, other } = await makeMergeable();
    for (let events = 1; ; events++) {
      const lab = labOf(SEED, images);
      await create(lab, 't', TABLES.t);
      const left = await cutBehind(lab, events, cut, async () => {
        await lab.dm.create({ name: 'o', table: MERGE });
        await new Promise<void>((resolve) => lab.scheduler.after(3000, resolve));
      });
      if (left === null) {
        assert.ok(events > 60, `only ${events} events`);
        return;
      }
      const what = `cut behind ${events} events`;
      const after = labOf(SEED + 1, left);
      const snapshot = await create(after, 't', TABLES.t);
      const origin = await create(after, 'o', MERGE);
      assert.ok((await readAll(after, origin)).equals(merged), `begun again, ${what}`);
      await pause(after, 3000);
      assert.equal((await after.dm.status('o'))[0]?.params, '16/256 16', what);
      assert.ok(merged.equals(after.disks.get('test:base')?.bytes as Uint8Array), what);
      assert.ok((await readAll(after, snapshot)).equals(other), `the other snapshot, ${what}`);
      await abandon(after);
    }
  });
}

/** Two snapshots of an origin, both written to, all durable; and what `s` and `t` are. */
async function makeMergeable(): Promise<{
  readonly images: Images;
  readonly merged: Buffer;
  readonly other: Buffer;
}> {
  const lab = labOf(SEED, freshImages(new Prng(SEED)));
  const origin = await create(lab, 'o', ORIGIN);
  const [s, t] = [await create(lab, 's', TABLES.s), await create(lab, 't', TABLES.t)];
  for (const [i, [sector, sectors]] of WRITES.entries()) {
    const driver = [origin, s, s, t, s, origin][i] as BioDriver;
    const data = new Uint8Array(sectors * 512).fill(i + 1);
    assert.equal(await lab.scheduler.settle(driver.write(sector * 512, data)), Status.Ok);
  }
  const [merged, other] = [await readAll(lab, s), await readAll(lab, t)];
  for (const driver of [origin, s, t]) await lab.scheduler.settle(driver.flush());
  const images = lab.powerCut(new Prng(SEED), 0, 0);
  await abandon(lab);
  return { images, merged, other };
}

/** Each sector of the origin is as it was, or as one of the writes to it made it. */
function assertOldOrNew(found: Uint8Array, before: Buffer, events: number): void {
  for (let sector = 0; sector < SECTORS; sector++) {
    const bytes = found.subarray(sector * 512, (sector + 1) * 512);
    if (before.subarray(sector * 512, (sector + 1) * 512).equals(bytes)) continue;
    const isNew = WRITES.some(
      ([from, sectors], i) =>
        sector >= from && sector < from + sectors && bytes.every((byte) => byte === i + 1),
    );
    assert.ok(isNew, `sector ${sector} of the origin, cut behind ${events} events`);
  }
}
