// What a thin device tells of changes since others of its pool, held against the bytes of both: nothing that differs
// is left out, whatever the questions are, and a base that has gone is an error.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { Disk } from '../../bio/disk.ts';
import { PlaneCore } from '../../daemon/plane-core.ts';
import type { ChangesSince } from '../../dm/lineage.ts';
import { Arena } from '../../io/arena.ts';
import { NodeEngine } from '../../io/node-engine.ts';
import { SEED } from '../../testing/seed.ts';

const BLOCK_SECTORS = 128;
const BLOCK_BYTES = BLOCK_SECTORS * 512;
const BLOCKS = 48;
const SECTORS = BLOCKS * BLOCK_SECTORS - 40;

console.log(
  `seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/src/targets/thin/thin-lineage.test.js`,
);

class Rig {
  readonly core = new PlaneCore(new NodeEngine(new Arena(16 << 20)));
  #nextId = 1;

  async start(): Promise<void> {
    const table = `0 65536 thin-pool memory:?size=16M memory:?size=32M ${BLOCK_SECTORS} 0`;
    await this.core.dm.create({ name: 'pool', table });
  }

  async make(name: string, lenSectors: number, origin?: number): Promise<number> {
    const id = this.#nextId++;
    const text = origin === undefined ? `create_thin ${id}` : `create_snap ${id} ${origin}`;
    await this.core.dm.message('pool', 0, text);
    await this.core.dm.create({ name, table: `0 ${lenSectors} thin pool ${id}` });
    return id;
  }

  async open(name: string): Promise<Disk> {
    const opened = await this.core.dm.openDevice(name);
    const close = async (): Promise<void> => await opened.close();
    return new Disk(opened.device, this.core.engine.arena, close);
  }

  /** Throws if it cannot be told. */
  async since(name: string, base: string): Promise<ChangesSince> {
    const opened = await this.core.dm.openDevice(name);
    await opened.close();
    const told = this.core.dm.changesSince(opened.device, base);
    assert.ok(told !== undefined);
    return told;
  }

  async end(): Promise<void> {
    await this.core.dm.close();
    this.core.engine.close();
  }
}

/** By sector, asked for in questions of all sizes. */
async function askAll(
  told: ChangesSince,
  sectors: number,
  draw: (below: number) => number,
): Promise<boolean[]> {
  const changed: boolean[] = [];
  while (changed.length < sectors) {
    const at = changed.length;
    const len = 1 + draw(sectors - at);
    const extents = await told(at, len, 1 + draw(3));
    const total = extents.reduce((sum, e) => sum + e.lenSectors, 0);
    assert.ok(total > 0 && total <= len, `${total} sectors told of ${len}`);
    for (const { lenSectors, isChanged } of extents) {
      for (let i = 0; i < lenSectors; i++) changed.push(isChanged);
    }
  }
  return changed;
}

test('no byte that differs from a snapshot is left out', async () => {
  const prng = new Prng(SEED);
  const draw = (below: number): number => prng.below(below);
  const rig = new Rig();
  await rig.start();
  const id = await rig.make('vol', SECTORS);
  const vol = await rig.open('vol');
  const bases: string[] = [];
  for (let round = 0; round < 4; round++) {
    for (let i = 0; i < 12; i++) {
      const offset = draw(SECTORS - 8) * 512;
      if (draw(4) > 0) await vol.write(offset, Buffer.alloc(4096, 1 + draw(255)));
      else await vol.discard(Math.floor(offset / BLOCK_BYTES) * BLOCK_BYTES, BLOCK_BYTES / 2);
    }
    const name = `s${round}`;
    // One is shorter than the volume.
    await rig.make(name, round === 2 ? SECTORS - 700 : SECTORS, id);
    bases.push(name);
  }
  await vol.write(0, Buffer.alloc(4096, 3));
  for (const base of bases) {
    const disk = await rig.open(base);
    const [now, before] = [await vol.read(0, SECTORS * 512), await disk.read(0, disk.sizeBytes)];
    const changed = await askAll(await rig.since('vol', base), SECTORS, draw);
    let told = 0;
    for (let sector = 0; sector < SECTORS; sector++) {
      if (changed[sector] === true) told++;
      const [from, to] = [sector * 512, sector * 512 + 512];
      const same = to <= before.length && now.subarray(from, to).equals(before.subarray(from, to));
      if (!same) assert.equal(changed[sector], true, `sector ${sector} since ${base}`);
    }
    assert.ok(told < SECTORS, 'not everything has changed');
    await disk.close();
  }
  await vol.close();
  await rig.end();
});

test('a base that has gone is an error, also when another device has its name', async () => {
  const rig = new Rig();
  await rig.start();
  const id = await rig.make('vol', SECTORS);
  const snap = await rig.make('snap', SECTORS, id);
  const told = await rig.since('vol', 'snap');
  assert.deepEqual(await told(5, 100, 9), [{ lenSectors: 100, isChanged: false }]);
  await rig.core.dm.remove('snap');
  await assert.rejects(told(0, 100, 9), { status: Status.NoDevice });
  await rig.core.dm.message('pool', 0, `delete ${snap}`);
  await rig.make('snap', SECTORS, id);
  await assert.rejects(told(0, 100, 9), { status: Status.NoDevice });
  assert.equal((await (await rig.since('vol', 'snap'))(0, 100, 9)).length, 1);
  await rig.end();
});

test('devices of other pools, and of other kinds, are no bases', async () => {
  const rig = new Rig();
  await rig.start();
  await rig.make('vol', SECTORS);
  const devices = 'memory:far-meta?size=16M memory:far-data?size=32M';
  const table = `0 65536 thin-pool ${devices} ${BLOCK_SECTORS} 0`;
  await rig.core.dm.create({ name: 'other', table });
  await rig.core.dm.message('other', 0, 'create_thin 1');
  await rig.core.dm.create({ name: 'far', table: `0 ${SECTORS} thin other 1` });
  await rig.core.dm.create({ name: 'flat', table: '0 100 zero' });
  for (const base of ['far', 'flat', 'vol', 'pool', 'nothing']) {
    const opened = await rig.core.dm.openDevice('vol');
    assert.deepEqual(rig.core.dm.basesOf(opened.device), []);
    assert.equal(rig.core.dm.changesSince(opened.device, base), undefined, base);
    await opened.close();
  }
  await rig.end();
});
