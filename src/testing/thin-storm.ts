// A storm over a thin pool: writers, readers, discards, flushes, snapshots and deletes at once, on
// simulated disks with delays, with power cuts in between. Each device has a model of what it may hold; a
// snapshot starts with a copy of its origin's.

import { assert } from '../base/assert.ts';
import { Prng } from '../base/prng.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { BlockDevice } from '../bio/device.ts';
import { BioDriver } from './bio-driver.ts';
import { drawLoad, geometryOf, Load, type LoadOp } from './conformance/load.ts';
import { CheckFailure, type Rig } from './conformance/rig.ts';
import { type Lab, makeLab } from './sim/lab.ts';
import { VersionModel } from './version-model.ts';

export interface ThinStormOptions {
  readonly seed: number;
  readonly dataBlocks?: number;
  readonly metadataBlocks?: number;
  /** Operations between two power cuts. */
  readonly operations?: number;
  readonly rounds?: number;
  /**
   * New blocks are not zeroed: they hold anything until they are written, so all writes are of
   * whole blocks.
   */
  readonly skipsZeroing?: boolean;
  /** Judges the metadata device after each power cut and at the end: what is wrong, or ''. */
  readonly judge?: (metadata: Uint8Array) => Promise<string>;
}

const BLOCK_SECTORS = 128;
const VOLUME_BLOCKS = 6;
const DEVICES_MAX = 6;

interface Volume {
  readonly id: number;
  model: VersionModel;
  device: BlockDevice | null;
  close: () => Promise<void>;
  load: Load | null;
  /** Its creation or deletion was under way when the power went. */
  isDoubtful: boolean;
}

/** Throws CheckFailure, StallError or BugError. */
export async function runThinStorm(options: ThinStormOptions): Promise<void> {
  const { seed, rounds = 3 } = options;
  const storm = new ThinStorm(options);
  for (let round = 0; round < rounds; round++) await storm.round(seed + round * 1000);
}

class ThinStorm {
  readonly #options: ThinStormOptions;
  readonly #rng: Prng;
  readonly #volumes = new Map<number, Volume>();
  readonly #numbers = { last: 0 };
  readonly #dataBlocks: number;
  #images: Map<string, Uint8Array> | null = null;
  #nextId = 1;
  #isCut = false;
  /** Operations still to send. */
  #left = 0;

  constructor(options: ThinStormOptions) {
    this.#options = options;
    this.#rng = new Prng(options.seed ^ 0x7417);
    // The fewer there are the sooner a freed one is in use again.
    this.#dataBlocks = options.dataBlocks ?? this.#rng.pick([10, 16, 30]);
  }

  async round(seed: number): Promise<void> {
    const { metadataBlocks = 128, operations = 120, skipsZeroing = false } = this.#options;
    const dataBlocks = this.#dataBlocks;
    const lab = makeLab({ seed, clonesMax: this.#rng.pick([1, 4, 256]) });
    const add = (name: string, lenSectors: number): void => {
      const image = this.#images?.get(name);
      const disk = { name, lenSectors, ...(image === undefined ? {} : { image: image.slice() }) };
      const added = lab.addDisk(disk);
      added.forbidsDiscardRaces = true;
      const { faults } = added;
      // Now and then a request that everything else overtakes.
      faults.stallRate = this.#rng.pick([0, 0.1, 0.3]);
      faults.stallMs = this.#rng.pick([60, 300]);
    };
    add('test:meta', metadataBlocks * 8);
    add('test:data', dataBlocks * BLOCK_SECTORS);
    const features = ['error_if_no_space'];
    if (this.#rng.chance(0.3)) features.push('no_discard_passdown');
    if (skipsZeroing) features.push('skip_block_zeroing');
    const table =
      `0 ${dataBlocks * BLOCK_SECTORS} thin-pool test:meta test:data ${BLOCK_SECTORS} 0 ` +
      `${features.length} ${features.join(' ')}`;
    this.#isCut = false;
    await this.#settle(lab, lab.dm.create({ name: 'pool', table }));
    await this.#reopen(lab);
    if (this.#images === null) await this.#create(lab, undefined);
    const cutAt = this.#rng.between(operations, operations * 12);
    lab.scheduler.haltAfter(cutAt, () => this.#cut(lab));
    try {
      await this.#settle(lab, this.#storm(lab, operations));
    } catch (error) {
      if (!this.#isCut) throw error;
    }
    if (!this.#isCut) this.#cut(lab);
    await this.#abandon(lab);
    const metadata = this.#images?.get('test:meta');
    assert(metadata !== undefined, 'storm: no image of the metadata');
    const wrong = (await this.#options.judge?.(metadata)) ?? '';
    if (wrong !== '') throw new CheckFailure(`metadata after the power cut: ${wrong}`);
  }

  #cut(lab: Lab): void {
    this.#isCut = true;
    const cut = this.#rng.pick([
      { keep: 0, tear: 0 },
      { keep: 0.5, tear: 0.3 },
      { keep: 0.9, tear: 0.1 },
    ]);
    this.#images = lab.powerCut(this.#rng, cut.keep, cut.tear);
    for (const volume of this.#volumes.values()) if (volume.load !== null) volume.load.isCut = true;
  }

  /** After a power cut: every device is there and holds what it may. */
  async #reopen(lab: Lab): Promise<void> {
    for (const volume of this.#volumes.values()) {
      try {
        await this.#open(lab, volume);
      } catch (error) {
        if (!volume.isDoubtful) throw error;
        this.#volumes.delete(volume.id);
        continue;
      }
      volume.isDoubtful = false;
      const data = await this.#settle(lab, this.#readAll(volume, lab));
      const wrong = volume.model.checkAfterCut(data);
      if (wrong !== undefined) throw new CheckFailure(`device ${volume.id}: ${wrong}`);
    }
  }

  async #readAll(volume: Volume, lab: Lab): Promise<Uint8Array> {
    const driver = new BioDriver(volume.device as BlockDevice, lab.arena);
    return await driver.read(0, VOLUME_BLOCKS * BLOCK_SECTORS * SECTOR_BYTES);
  }

  async #open(lab: Lab, volume: Volume): Promise<void> {
    const sectors = VOLUME_BLOCKS * BLOCK_SECTORS;
    const name = `t${volume.id}`;
    await this.#settle(lab, lab.dm.create({ name, table: `0 ${sectors} thin pool ${volume.id}` }));
    const open = await lab.dm.openDevice(name);
    volume.device = open.device;
    volume.close = async () => await open.close();
    volume.load = new Load(this.#rig(lab, open.device), { depth: 1, mayFail: true }, volume.model);
  }

  async #create(lab: Lab, origin: Volume | undefined): Promise<void> {
    const id = this.#nextId++;
    const model =
      origin?.model.snapshot() ??
      new VersionModel(
        VOLUME_BLOCKS * BLOCK_SECTORS,
        this.#numbers,
        this.#options.skipsZeroing === true,
      );
    const volume: Volume = {
      id,
      model,
      device: null,
      close: () => Promise.resolve(),
      load: null,
      isDoubtful: true,
    };
    this.#volumes.set(id, volume);
    if (origin === undefined) await lab.dm.message('pool', 0, `create_thin ${id}`);
    else {
      const before = origin.model.snapshot();
      const disk = lab.disks.get('test:data');
      const early = disk?.writesInFlight() ?? new Set();
      await lab.dm.message('pool', 0, `create_snap ${id} ${origin.id}`);
      if (this.#isCut) return;
      for (const write of disk?.writesInFlight() ?? []) {
        if (!early.has(write)) continue;
        lab.violations.push(`snapshot ${id}: a write sent before it was made is still under way`);
      }
      // What ended while the snapshot was made may be in it.
      volume.model = before.merged(origin.model.snapshot());
    }
    if (this.#isCut) return;
    volume.isDoubtful = false;
    await this.#open(lab, volume);
  }

  async #delete(lab: Lab, volume: Volume): Promise<void> {
    await volume.close();
    await lab.dm.remove(`t${volume.id}`);
    volume.isDoubtful = true;
    await lab.dm.message('pool', 0, `delete ${volume.id}`);
    if (!this.#isCut) this.#volumes.delete(volume.id);
  }

  async #storm(lab: Lab, operations: number): Promise<void> {
    this.#left = operations;
    const busy = new Map<Volume, number>();
    const lane = async (): Promise<void> => {
      while (this.#left-- > 0 && !this.#isCut) {
        const volume = this.#rng.pick([...this.#volumes.values()].filter((v) => v.load !== null));
        const { load, device } = volume;
        if (load === null || device === null) continue;
        busy.set(volume, (busy.get(volume) ?? 0) + 1);
        await load.one(this.#drawOp(device));
        busy.set(volume, (busy.get(volume) ?? 0) - 1);
      }
    };
    const manager = async (): Promise<void> => {
      while (this.#left > 0 && !this.#isCut) {
        await new Promise<void>((r) => lab.scheduler.after(this.#rng.between(1, 60), r));
        const usable = [...this.#volumes.values()].filter((v) => v.load !== null);
        if (this.#isCut) return;
        if (usable.length < DEVICES_MAX && this.#rng.chance(0.6)) {
          await this.#create(lab, this.#rng.chance(0.8) ? this.#rng.pick(usable) : undefined);
        } else if (usable.length > 1) {
          const victim = this.#rng.pick(usable);
          victim.load = null;
          while ((busy.get(victim) ?? 0) > 0 && !this.#isCut) {
            await new Promise<void>((r) => lab.scheduler.after(1, r));
          }
          if (!this.#isCut) await this.#delete(lab, victim);
        }
      }
    };
    await Promise.all([...Array.from({ length: 8 }, lane), manager()]);
  }

  #drawOp(device: BlockDevice): LoadOp {
    const mix = { read: 8, write: 10, discard: 4, zero: 1, flush: 1 };
    const options = { count: 1, mix, maxSectors: this.#rng.pick([16, 200]) };
    const op = drawLoad(this.#rng, geometryOf(device), options)[0] as LoadOp;
    const mustBeWhole = op.kind === 'write' && this.#options.skipsZeroing === true;
    const isWhole = mustBeWhole || this.#rng.chance(op.kind === 'discard' ? 0.8 : 0.1);
    if (!isWhole || op.kind === 'flush') return op;
    // Whole blocks: only they are unmapped, and a write of one provisions it at once.
    const blocks = this.#rng.between(1, 3);
    const from = this.#rng.below(VOLUME_BLOCKS - blocks + 1);
    const lenSectors = blocks * BLOCK_SECTORS;
    return { ...op, sector: from * BLOCK_SECTORS, lenSectors, segments: [] };
  }

  async #settle<T>(lab: Lab, work: Promise<T>): Promise<T> {
    return await lab.scheduler.settle(work, () => 'the storm stands still');
  }

  /** Just enough of one for a load. */
  #rig(lab: Lab, device: BlockDevice): Rig {
    const driver = new BioDriver(device, lab.arena, {
      guards: true,
      violation: (what) => void lab.violations.push(what),
    });
    return {
      device,
      arena: lab.arena,
      driver,
      lab,
      flushedDisks: [],
      top: device.name,
      settle: async (work) => await this.#settle(lab, work),
      control: () => Promise.resolve(),
      finish: () => Promise.resolve(),
      abandon: () => Promise.resolve(),
    };
  }

  async #abandon(lab: Lab): Promise<void> {
    const [violation] = lab.violations;
    const closed = lab.dm.close().catch(() => undefined);
    await lab.scheduler.settle(closed).catch(() => undefined);
    for (const volume of this.#volumes.values()) volume.load = null;
    if (violation !== undefined) throw new CheckFailure(violation);
  }
}
