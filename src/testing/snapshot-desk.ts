// A desk for tests of the snapshot targets: an origin device over a simulated disk, snapshots of
// it, and what they say.

import assert from 'node:assert/strict';
import { Prng } from '../base/prng.ts';
import type { Status } from '../base/status.ts';
import { BioDriver } from './bio-driver.ts';
import { SEED } from './seed.ts';
import type { SimDisk } from './sim/disk.ts';
import { type Lab, makeLab } from './sim/lab.ts';

export class SnapshotDesk {
  readonly lab: Lab;
  readonly base: SimDisk;
  readonly #drivers = new Map<string, BioDriver>();
  readonly #held: { close(): Promise<void> }[] = [];

  /** An origin device `o` over a disk of random bytes. */
  static async make(sectors = 4096, clonesMax = 256): Promise<SnapshotDesk> {
    const lab = makeLab({ seed: SEED, clonesMax });
    const base = lab.disk('base', sectors);
    new Prng(SEED).fill(base.bytes);
    const desk = new SnapshotDesk(lab, base);
    await desk.create('o', `0 ${sectors} snapshot-origin test:base`);
    return desk;
  }

  private constructor(lab: Lab, base: SimDisk) {
    this.lab = lab;
    this.base = base;
  }

  async settle<T>(work: Promise<T>): Promise<T> {
    return await this.lab.scheduler.settle(work, () => 'stands still');
  }

  async create(name: string, table: string): Promise<void> {
    await this.settle(this.lab.dm.create({ name, table }));
  }

  /** Snapshot `name` with a cow device `test:NAME` of so many sectors. */
  async snapshot(name: string, words: string, cowSectors = 2048): Promise<SimDisk> {
    const cow = this.lab.disks.get(`test:${name}`) ?? this.lab.disk(name, cowSectors);
    const sectors = this.base.lenSectors;
    await this.create(name, `0 ${sectors} snapshot test:base test:${name} ${words}`);
    return cow;
  }

  async driver(name: string): Promise<BioDriver> {
    let driver = this.#drivers.get(name);
    if (driver === undefined) {
      const open = await this.lab.dm.openDevice(name);
      this.#held.push(open);
      driver = new BioDriver(open.device, this.lab.arena, { guards: true });
      this.#drivers.set(name, driver);
    }
    return driver;
  }

  async write(name: string, sector: number, sectors: number, byte = 7): Promise<Status> {
    const driver = await this.driver(name);
    return await this.settle(driver.write(sector * 512, new Uint8Array(sectors * 512).fill(byte)));
  }

  async read(name: string, sector: number, sectors: number): Promise<Buffer | Status> {
    const driver = await this.driver(name);
    return await this.settle(driver.tryRead(sector * 512, sectors * 512));
  }

  async status(name: string): Promise<string> {
    return (await this.lab.dm.status(name))[0]?.params ?? '';
  }

  async table(name: string): Promise<string> {
    return (await this.lab.dm.table(name))[0]?.params ?? '';
  }

  /** Lets go of a device, and removes it. */
  async remove(name: string): Promise<void> {
    const driver = this.#drivers.get(name);
    this.#drivers.delete(name);
    if (driver !== undefined) {
      for (const held of this.#held.splice(0)) await held.close();
      this.#drivers.clear();
    }
    await this.settle(this.lab.dm.remove(name));
  }

  async close(): Promise<void> {
    for (const held of this.#held.splice(0)) await held.close();
    await this.settle(this.lab.dm.close());
    assert.deepEqual(this.lab.violations, []);
    assert.ok(this.lab.arena.usedBytes <= 4096, 'every buffer is back');
  }
}

/** Bytes [from, to). */
export const hex = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.from(bytes.subarray(from, to)).toString('hex');
/** An exception as it is on the device. */
export const entry = (oldChunk: number, newChunk: number): string => {
  const buffer = Buffer.alloc(16);
  buffer.writeBigUInt64LE(BigInt(oldChunk), 0);
  buffer.writeBigUInt64LE(BigInt(newChunk), 8);
  return buffer.toString('hex');
};
