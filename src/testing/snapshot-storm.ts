// A storm over an origin and its snapshots: reads, writes and discards of all of them at once,
// snapshots taken, given up and merged meanwhile, on simulated disks with delays, with power cuts
// in between. Each device has a model of what it may hold; a snapshot starts with a copy of its
// origin's.

import { Prng } from '../base/prng.ts';
import { statusName } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { BioFlag } from '../bio/bio.ts';
import type { BlockDevice } from '../bio/device.ts';
import { BioDriver } from './bio-driver.ts';
import { drawLoad, geometryOf, Load, type LoadOp } from './conformance/load.ts';
import { CheckFailure, type Rig } from './conformance/rig.ts';
import { type Lab, makeLab } from './sim/lab.ts';
import { VersionModel } from './version-model.ts';

export interface SnapshotStormOptions {
  readonly seed: number;
  /** Operations between two power cuts. */
  readonly operations?: number;
  readonly rounds?: number;
}

const ORIGIN_SECTORS = 203;
const SNAPSHOTS_MAX = 4;

/** The origin, or a snapshot of it. */
interface Volume {
  readonly name: string;
  table: string;
  model: VersionModel;
  /** Its cow device may run full, or fail. */
  readonly isTight: boolean;
  /** Its store is lost with the power. */
  readonly isTransient: boolean;
  /** Made, and what it holds is durable. */
  isSure: boolean;
  device: BlockDevice | null;
  close: () => Promise<void>;
  load: Load | null;
}

/** Throws CheckFailure, StallError or BugError. */
export async function runSnapshotStorm(options: SnapshotStormOptions): Promise<void> {
  const { seed, rounds = 3 } = options;
  const storm = new SnapshotStorm(options);
  for (let round = 0; round < rounds; round++) await storm.round(seed + round * 1000);
}

class SnapshotStorm {
  readonly #options: SnapshotStormOptions;
  readonly #rng: Prng;
  readonly #numbers = { last: 0 };
  readonly #origin: Volume;
  readonly #snapshots = new Set<Volume>();
  #images: Map<string, Uint8Array> | null = null;
  #nextId = 1;
  #isCut = false;
  /** Operations still to send. */
  #left = 0;
  /** Operations under way, of each volume; nothing is sent while nobody may. */
  readonly #busy = new Map<Volume, number>();
  #isPaused = false;
  /** The origin's device has its old table still, which answers for extents. */
  #isBeginning = false;
  #invalidations = 0;
  /** The origin's table merges a snapshot. */
  #isMerging = false;

  constructor(options: SnapshotStormOptions) {
    this.#options = options;
    this.#rng = new Prng(options.seed ^ 0x5a9);
    this.#origin = this.#volume('o', `0 ${ORIGIN_SECTORS} snapshot-origin test:base`);
    this.#origin.isSure = true;
  }

  #volume(name: string, table: string, isTight = false, isTransient = false): Volume {
    return {
      name,
      table,
      model: new VersionModel(ORIGIN_SECTORS, this.#numbers),
      isTight,
      isTransient,
      isSure: false,
      device: null,
      close: () => Promise.resolve(),
      load: null,
    };
  }

  async round(seed: number): Promise<void> {
    const { operations = 150 } = this.#options;
    const lab = makeLab({ seed, clonesMax: this.#rng.pick([1, 2, 4, 256]) });
    this.#disk(lab, 'test:base', ORIGIN_SECTORS);
    const names = [...this.#snapshots].map(({ name }) => name);
    const merged = this.#isMerging ? cowOf(this.#origin.table) : [];
    for (const name of [...names, ...merged]) {
      const image = this.#images?.get(`test:${name}`);
      if (image !== undefined) this.#disk(lab, `test:${name}`, image.length / SECTOR_BYTES);
    }
    this.#isCut = false;
    this.#isPaused = false;
    this.#isBeginning = false;
    this.#invalidations = 0;
    this.#busy.clear();
    await this.#reopen(lab);
    lab.scheduler.haltAfter(this.#rng.between(operations, operations * 12), () => this.#cut(lab));
    try {
      await this.#settle(lab, this.#storm(lab, operations));
      if (!this.#isCut) await this.#settle(lab, this.#checkAll());
    } catch (error) {
      if (!this.#isCut) throw error;
    }
    if (!this.#isCut) this.#cut(lab);
    await this.#abandon(lab);
  }

  #disk(lab: Lab, name: string, lenSectors: number, isFresh = false): void {
    const image = this.#images?.get(name)?.slice() ?? new Uint8Array(lenSectors * SECTOR_BYTES);
    // A cow device begins with zeroes, and goes on with anything.
    if (isFresh) this.#rng.fill(image.subarray(SECTOR_BYTES));
    const { faults } = lab.addDisk({ name, lenSectors, image });
    // Now and then a request that everything else overtakes.
    faults.stallRate = this.#rng.pick([0, 0.1, 0.3]);
    faults.stallMs = this.#rng.pick([60, 300]);
  }

  #cut(lab: Lab): void {
    this.#isCut = true;
    const cut = this.#rng.pick([
      { keep: 0, tear: 0 },
      { keep: 0.5, tear: 0.3 },
      { keep: 0.9, tear: 0.1 },
    ]);
    this.#images = lab.powerCut(this.#rng, cut.keep, cut.tear);
    // One whose store could not be told that it is invalid may look whole.
    const unmarked = lab.log.filter((line) => line.includes('could not be marked'));
    for (const volume of this.#snapshots) {
      if (unmarked.some((line) => line.startsWith(`device ${volume.name}:`))) volume.isSure = false;
    }
    for (const { load } of [this.#origin, ...this.#snapshots]) if (load !== null) load.isCut = true;
  }

  /** After a power cut: every device is there and holds what it may. */
  async #reopen(lab: Lab): Promise<void> {
    for (const snapshot of this.#snapshots) {
      if (!snapshot.isSure || snapshot.isTransient) this.#snapshots.delete(snapshot);
      else await this.#open(lab, snapshot);
    }
    // Behind its snapshots: it may go on to merge.
    await this.#open(lab, this.#origin);
    for (const volume of [this.#origin, ...this.#snapshots]) {
      if (await this.#isLost(lab, volume)) continue;
      const data = await this.#settle(lab, this.#readAll(volume, lab));
      const wrong = volume.model.checkAfterCut(data);
      if (wrong !== undefined) throw new CheckFailure(`device ${volume.name}: ${wrong}`);
    }
  }

  /** A snapshot that says that it is invalid, and may be: it goes. */
  async #isLost(lab: Lab, volume: Volume): Promise<boolean> {
    const [status] = await lab.dm.status(volume.name);
    if (status?.params !== 'Invalid') return false;
    if (!volume.isTight) throw new CheckFailure(`${volume.name} is invalid: ${lab.log.join('; ')}`);
    const driver = new BioDriver(volume.device as BlockDevice, lab.arena);
    const read = await this.#settle(lab, driver.tryRead(0, SECTOR_BYTES));
    if (typeof read !== 'number') throw new CheckFailure(`${volume.name} is invalid, and read`);
    await this.#remove(lab, volume);
    return true;
  }

  async #readAll(volume: Volume, lab: Lab): Promise<Uint8Array> {
    const driver = new BioDriver(volume.device as BlockDevice, lab.arena);
    return await driver.read(0, ORIGIN_SECTORS * SECTOR_BYTES);
  }

  /** Undefined: it has become invalid meanwhile, or the power has gone. */
  async #tryReadAll(volume: Volume, lab: Lab): Promise<Uint8Array | undefined> {
    const driver = new BioDriver(volume.device as BlockDevice, lab.arena);
    const found = await driver.tryRead(0, ORIGIN_SECTORS * SECTOR_BYTES);
    if (typeof found !== 'number') return found;
    if (volume.isTight || this.#isCut) return undefined;
    throw new CheckFailure(`device ${volume.name}: cannot be read: ${statusName(found)}`);
  }

  async #open(lab: Lab, volume: Volume): Promise<void> {
    const { name, table } = volume;
    await this.#settle(lab, lab.dm.create({ name, table }));
    const open = await lab.dm.openDevice(name);
    volume.device = open.device;
    volume.close = async () => await open.close();
    volume.load = new Load(this.#rig(lab, open.device), { depth: 1, mayFail: true }, volume.model);
  }

  async #create(lab: Lab): Promise<void> {
    const rng = this.#rng;
    const name = `s${this.#nextId++}`;
    const chunk = rng.pick([1, 4, 8, 8, 16, 64]);
    const isTight = rng.chance(0.25);
    const kind = rng.pick(['P', 'P', 'PO', 'N']);
    const chunks = Math.ceil(ORIGIN_SECTORS / chunk);
    const all = chunks + 3 + Math.ceil(chunks / (chunk * 32));
    this.#disk(lab, `test:${name}`, chunk * (isTight ? rng.between(3, all) : all + 1), true);
    const features = rng.pick(['', ' 1 discard_zeroes_cow']);
    const table = `0 ${ORIGIN_SECTORS} snapshot test:base test:${name} ${kind} ${chunk}${features}`;
    const volume = this.#volume(name, table, isTight, kind === 'N');
    this.#snapshots.add(volume);
    const { model } = this.#origin;
    const taking = model.sendRead(0, ORIGIN_SECTORS);
    await this.#open(lab, volume);
    if (this.#isCut) return;
    const faults = lab.disks.get(`test:${name}`)?.faults;
    if (isTight && faults !== undefined && rng.chance(0.3)) {
      Object.assign(faults, { readErrorRate: 0.01, writeErrorRate: 0.03, flushErrorRate: 0.03 });
    }
    volume.model = model.snapshotSince(taking);
    const load = new Load((volume.load as Load).rig, { depth: 1, mayFail: true }, volume.model);
    volume.load = load;
    // What it has of the origin is as durable as it is there.
    const flush: LoadOp = { kind: 'flush', sector: 0, lenSectors: 0, flags: 0, segments: [] };
    await this.#origin.load?.one(flush);
    if (this.#isCut || (isTight && (await lab.dm.status(name))[0]?.params === 'Invalid')) return;
    // What it shows now it shows from now on, whatever was on its way to the origin.
    const found = await this.#tryReadAll(volume, lab);
    if (this.#isCut || found === undefined) return;
    const wrong = volume.model.checkAfterCut(found);
    if (wrong !== undefined) throw new CheckFailure(`device ${name}: ${wrong}`);
    volume.isSure = true;
  }

  async #remove(lab: Lab, volume: Volume): Promise<void> {
    volume.load = null;
    this.#snapshots.delete(volume);
    const faults = lab.disks.get(`test:${volume.name}`)?.faults;
    Object.assign(faults ?? {}, { readErrorRate: 0, writeErrorRate: 0, flushErrorRate: 0 });
    await volume.close();
    await lab.dm.remove(volume.name);
  }

  async #storm(lab: Lab, operations: number): Promise<void> {
    this.#left = operations;
    const busy = this.#busy;
    const lane = async (): Promise<void> => {
      while (this.#left-- > 0 && !this.#isCut) {
        while (this.#isPaused && !this.#isCut) await pause(lab, 1);
        const usable = [...this.#snapshots].filter((v) => v.isSure && v.load !== null);
        const isOrigin = usable.length === 0 || this.#rng.chance(this.#isMerging ? 0.8 : 0.5);
        const volume = isOrigin ? this.#origin : this.#rng.pick(usable);
        const { load, device } = volume;
        if (load === null || device === null) continue;
        busy.set(volume, (busy.get(volume) ?? 0) + 1);
        await load.one(this.#drawOp(device, volume.isTight));
        busy.set(volume, (busy.get(volume) ?? 0) - 1);
        this.#watch(lab);
      }
    };
    const manager = async (): Promise<void> => {
      while (this.#left > 0 && !this.#isCut) {
        const usable = [...this.#snapshots].filter((v) => v.load !== null);
        if (this.#isMerging) await this.#mergeOn(lab);
        if (this.#isCut) return;
        const mayCreate = usable.length < SNAPSHOTS_MAX && !this.#isMerging;
        const mayMerge = usable.length > 1 && !this.#isMerging;
        if (mayMerge && this.#rng.chance(0.5)) await this.#merge(lab, usable);
        else if (mayCreate && this.#rng.chance(0.7)) await this.#create(lab);
        else if (usable.length > 0 && this.#rng.chance(0.4)) {
          const victim = this.#rng.pick(usable);
          await this.#checkOne(lab, victim);
          if (this.#isCut) return;
          victim.load = null;
          while ((busy.get(victim) ?? 0) > 0 && !this.#isCut) await pause(lab, 1);
          if (!this.#isCut) await this.#remove(lab, victim);
        } else await this.#swap(lab);
        await pause(lab, this.#rng.between(1, 60));
      }
    };
    await Promise.all([...Array.from({ length: 8 }, lane), manager()]);
  }

  /** What happens right behind the news that a snapshot is invalid is worth a power cut. */
  #watch(lab: Lab): void {
    const news = lab.log.filter((line) => line.includes('invalid from now on')).length;
    if (news === this.#invalidations || this.#isCut) return;
    this.#invalidations = news;
    if (this.#rng.chance(0.5)) {
      lab.scheduler.haltAfter(this.#rng.between(1, 12), () => this.#cut(lab));
    }
  }

  /** The origin becomes what a snapshot is. */
  async #merge(lab: Lab, usable: readonly Volume[]): Promise<void> {
    const whole = usable.filter((v) => v.isSure && !v.isTransient && !v.isTight);
    if (whole.length === 0) return;
    const victim = this.#rng.pick(whole);
    this.#isPaused = true;
    while ([...this.#busy.values()].some((count) => count > 0) && !this.#isCut) await pause(lab, 1);
    const table = victim.table.replace('snapshot', 'snapshot-merge');
    if (!this.#isCut) await lab.dm.load('o', table);
    if (this.#isCut) return;
    const isRefused = await lab.dm.resume('o').then(
      () => false,
      () => true,
    );
    if (!this.#isCut && !isRefused) throw new CheckFailure('two tables have a snapshot');
    if (!this.#isCut) await lab.dm.suspend(victim.name);
    if (this.#isCut) return;
    const origin = this.#origin;
    // From here on it may have begun.
    origin.table = table;
    origin.model = victim.model;
    this.#isMerging = true;
    this.#snapshots.delete(victim);
    origin.load = new Load((origin.load as Load).rig, { depth: 1, mayFail: true }, origin.model);
    // Writes come from the first moment on: they wait in the device, and are on their way when the
    // merge begins.
    await lab.dm.suspend('o');
    this.#isPaused = false;
    this.#isBeginning = true;
    if (!this.#isCut) await pause(lab, this.#rng.between(1, 5));
    if (!this.#isCut) await lab.dm.resume('o');
    this.#isBeginning = false;
    if (this.#isCut) return;
    await this.#remove(lab, victim);
  }

  /** When the merge has ended, the origin is an origin again. */
  async #mergeOn(lab: Lab): Promise<void> {
    const [status] = await lab.dm.status('o');
    const [, allocated, metadata] = /^(\d+)\/\d+ (\d+)$/.exec(status?.params ?? '') ?? [];
    if (this.#isCut) return;
    if (allocated === undefined)
      throw new CheckFailure(`merge: ${status?.params}: ${lab.log.join('; ')}`);
    if (allocated !== metadata || this.#rng.chance(0.3)) return;
    const table = `0 ${ORIGIN_SECTORS} snapshot-origin test:base`;
    await lab.dm.load('o', table);
    if (this.#isCut) return;
    await lab.dm.resume('o');
    if (this.#isCut) return;
    this.#origin.table = table;
    this.#isMerging = false;
  }

  /** A new table for one of the devices, under load. */
  async #swap(lab: Lab): Promise<void> {
    // A cow device that fails cannot be flushed, and nothing is suspended that cannot.
    const whole = [...this.#snapshots].filter(({ isTight }) => !isTight);
    const { name, table } = this.#rng.pick([this.#origin, ...whole]);
    if (this.#rng.chance(0.5)) await lab.dm.load(name, table);
    if (!this.#isCut) await lab.dm.suspend(name, { noflush: this.#rng.chance(0.3) });
    if (!this.#isCut) await lab.dm.resume(name);
  }

  async #checkOne(lab: Lab, { name, load, isTight }: Volume): Promise<void> {
    const [status] = await lab.dm.status(name);
    if (status?.params !== 'Invalid' || this.#isCut) await load?.checkAll();
    else if (!isTight) throw new CheckFailure(`${name} is invalid: ${lab.log.join('; ')}`);
  }

  async #checkAll(): Promise<void> {
    for (const volume of [this.#origin, ...this.#snapshots]) {
      const { lab } = (volume.load as Load).rig;
      if (lab !== null) await this.#checkOne(lab, volume);
    }
  }

  /** A snapshot that may be invalid may know of no extents. */
  #drawOp(device: BlockDevice, isTight: boolean): LoadOp {
    const extents = isTight || this.#isBeginning ? 0 : 1;
    const mix = { read: 10, write: 10, discard: 1, zero: 1, flush: 1, extents };
    const options = { count: 1, mix, maxSectors: this.#rng.pick([8, 16, 100]) };
    const op = drawLoad(this.#rng, geometryOf(device), options)[0] as LoadOp;
    const isFast = op.kind === 'zero' && (op.flags & BioFlag.FastOnly) !== 0;
    return isFast ? { ...op, flags: 0 } : op;
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
    for (const volume of [this.#origin, ...this.#snapshots]) volume.load = null;
    if (violation !== undefined) throw new CheckFailure(violation);
  }
}

/** Names of the cow device in a snapshot's table. */
function cowOf(table: string): string[] {
  return [(table.split(' ')[4] ?? '').replace('test:', '')];
}

async function pause(lab: Lab, ms: number): Promise<void> {
  await new Promise<void>((resolve) => lab.scheduler.after(ms, resolve));
}
