// Entries of version 1 over a disk far larger than what is kept in memory: pieces go out and come back as they were.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../../base/prng.ts';
import { Status } from '../../../base/status.ts';
import { type Bio, forEachSegment, Op } from '../../../bio/bio.ts';
import type { BlockDevice } from '../../../bio/device.ts';
import { DEFAULT_LIMITS } from '../../../bio/limits.ts';
import { endBio } from '../../../bio/submit.ts';
import { Arena } from '../../../io/arena.ts';
import { ReservedBuffers } from '../../../io/reserved-buffers.ts';
import { SEED } from '../../../testing/seed.ts';
import { StandingClock } from '../../../testing/standing-clock.ts';
import { EntryCache } from './entry-cache.ts';
import { ENTRIES_SECTOR, type Format1, sizesFor } from './superblock.format.ts';

const DISK_SECTORS = 2 ** 31;
const REGION_BYTES = 20;

/** Holds only what was written. */
class SparseDisk implements BlockDevice {
  readonly name = 'sparse';
  readonly lenSectors = DISK_SECTORS;
  readonly isReadOnly = false;
  readonly limits = DEFAULT_LIMITS;
  readonly sectors = new Map<number, Uint8Array>();
  readonly #arena: Arena;
  isBroken = false;
  reads = 0;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  submit(bio: Bio): void {
    setImmediate(() => {
      if (this.isBroken && bio.op === Op.Write) endBio(bio, Status.Io);
      else {
        if (bio.op === Op.Read) this.reads++;
        if (bio.op !== Op.Flush)
          forEachSegment(bio, (mem, len, done) => this.#move(bio, mem, len, done));
        endBio(bio, Status.Ok);
      }
    });
  }

  #move(bio: Bio, mem: number, len: number, done: number): void {
    const { u8 } = this.#arena;
    for (let at = 0; at < len; at += 512) {
      const sector = bio.sector + (done + at) / 512;
      if (bio.op === Op.Write) this.sectors.set(sector, u8.slice(mem + at, mem + at + 512));
      else u8.set(this.sectors.get(sector) ?? new Uint8Array(512), mem + at);
    }
  }

  extents(): Promise<never> {
    return Promise.reject(new Error('nobody asks'));
  }
}

test(`what is changed is found again, in memory or on the disk, LAMINA_SEED=${SEED}`, async () => {
  const prng = new Prng(SEED);
  const arena = new Arena(8 << 20);
  const device = new SparseDisk(arena);
  const sizes = sizesFor(DISK_SECTORS);
  assert.ok(sizes !== undefined);
  const format: Format1 = { ...sizes, codec: 'lzo' };
  const failures: Status[] = [];
  const cache = new EntryCache({
    format,
    device,
    arena,
    buffers: new ReservedBuffers(arena, 262144, 'test'),
    clock: new StandingClock(),
    writebackMs: 60_000,
    commitFailed: (status) => void failures.push(status),
  });
  const model = new Map<number, Uint8Array>();
  const one = async (): Promise<void> => {
    const region = prng.chance(0.5)
      ? prng.below(1000 * 1024)
      : prng.below(100) * 1024 + prng.below(2);
    const held = await cache.hold(region);
    assert.ok(typeof held !== 'number');
    assert.deepEqual(held.entries.slice(), model.get(region) ?? new Uint8Array(REGION_BYTES));
    const now = new Uint8Array(REGION_BYTES);
    if (prng.chance(0.7)) {
      prng.fill(now);
      cache.set(held, now);
      model.set(region, now);
    }
    cache.letGo(held);
  };
  for (let round = 0; round < 60; round++) {
    await Promise.all(Array.from({ length: 50 }, one));
    if (round % 20 !== 10) continue;
    device.isBroken = true;
    assert.equal(await cache.commit(), Status.Io);
    device.isBroken = false;
  }
  assert.ok(device.reads > 1000, `${device.reads} reads of a thousand pieces: none was read again`);
  assert.ok(failures.length >= 3);
  assert.equal(await cache.commit(), Status.Ok);
  cache.stopTimer();
  const u8 = (at: number): number =>
    device.sectors.get(ENTRIES_SECTOR + Math.floor(at / 512))?.[at % 512] ?? 0;
  for (const [region, entries] of model) {
    const found = entries.map((_, i) => u8(region * REGION_BYTES + i));
    assert.deepEqual(found, entries, `region ${region}`);
  }
});
