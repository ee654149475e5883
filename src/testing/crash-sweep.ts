// Every prefix: a load runs over one disk, and at each moment of it, between any two events, the power could
// have gone. What the disk may hold then (all that is durable, and of the rest any subset, also torn into sectors)
// is opened and read: each block is as before a write or as after it, and what was flushed is there. From some of
// these images the work goes on, and the power goes again: while the device is opened, and in its first writes.

import { crc32 } from 'node:zlib';
import { Prng } from '../base/prng.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { QueueLimits } from '../bio/limits.ts';
import { BioDriver } from './bio-driver.ts';
import { Load, type LoadOp } from './conformance/load.ts';
import { CheckFailure, type Rig } from './conformance/rig.ts';
import type { SimDisk } from './sim/disk.ts';
import { type Lab, makeLab } from './sim/lab.ts';
import { SECTOR_STAMP } from './stamp.ts';
import { VersionModel } from './version-model.ts';

/** The disk, as tables call it. */
export const SWEPT_DISK = 'test:a';
const NAME = 'swept';
/** How much of what is not durable is left. */
const CUTS = [
  { keep: 0, tear: 0 },
  { keep: 0.5, tear: 0 },
  { keep: 0.5, tear: 0.5 },
  { keep: 0.9, tear: 0.1 },
] as const;
const DEPTH = 6;

/** An operation, and whether what is written cannot be compressed. */
export interface SweepOp extends LoadOp {
  readonly isRandom: boolean;
}

export interface SweepSubject {
  readonly name: string;
  /** What the disk holds before the device was ever opened. */
  readonly image: Uint8Array;
  readonly limits: Partial<QueueLimits>;
  /** Of one device over SWEPT_DISK. */
  readonly table: string;
  /** Run to their end and flushed, before the first moment that counts. */
  readonly before: readonly SweepOp[];
  readonly ops: readonly SweepOp[];
  /** What is done after a crash, in the sweeps of that. */
  readonly opsAfter: readonly SweepOp[];
  /** Blocks of so many sectors are one write's. */
  readonly blockSectors: number;
  /**
   * Makes trouble below for as long as the operations that are swept run; answers how it ends.
   * What fails meanwhile is unsure, and no more than that; afterwards everything works.
   */
  readonly disturb?: (lab: Lab, disk: SimDisk, rng: Prng) => () => void;
  /** Clones each device may have out; 256 if not given. */
  readonly clonesMax?: number;
  /** Looks at what is left on the disk: what is wrong, or ''. */
  readonly judge: (image: Uint8Array) => Promise<string>;
}

export interface SweepOptions {
  readonly seed: number;
  /** Images looked at for each moment. */
  readonly cutsPerMoment: number;
  /** One image in so many is opened and swept in turn; 0: none. */
  readonly againEvery: number;
}

/** What was looked at. */
export interface SweepCounts {
  moments: number;
  images: number;
  /** Sweeps of an opening and the writes behind it. */
  again: number;
  /** Operations that failed, with trouble below. */
  failed: number;
}

/** A moment: what the disk may hold then, as sectors that differ from the start, and what is right. */
interface Cut {
  readonly sectors: ReadonlyMap<number, Uint8Array>;
  readonly model: VersionModel;
  readonly moment: number;
}

/** Throws CheckFailure, StallError or BugError, with the seed. */
export async function sweepCrashes(
  subject: SweepSubject,
  options: SweepOptions,
): Promise<SweepCounts> {
  const sweep = new Sweep(subject, options);
  try {
    await sweep.run();
  } catch (error) {
    const where = `${subject.name} (seed ${options.seed}): ${sweep.where}`;
    throw new CheckFailure(`${where}: ${(error as Error).message}`, { cause: error });
  }
  return sweep.counts;
}

class Sweep {
  readonly counts: SweepCounts = { moments: 0, images: 0, again: 0, failed: 0 };
  /** For messages. */
  where = 'before the first moment';
  readonly #subject: SweepSubject;
  readonly #options: SweepOptions;
  readonly #rng: Prng;
  readonly #numbers = { last: 0 };

  constructor(subject: SweepSubject, options: SweepOptions) {
    this.#subject = subject;
    this.#options = options;
    this.#rng = new Prng(options.seed);
  }

  async run(): Promise<void> {
    const { image, ops } = this.#subject;
    const { againEvery } = this.#options;
    const cuts = await this.#record(image, null, ops);
    for (const cut of cuts) {
      this.where = `moment ${cut.moment}`;
      const left = imageOf(cut, image);
      await this.#look(left, cut.model.copy());
      if (againEvery === 0 || !this.#rng.chance(1 / againEvery)) continue;
      await this.#sweepAgain(left, cut);
    }
  }

  async #sweepAgain(image: Uint8Array, first: Cut): Promise<void> {
    this.counts.again++;
    for (const cut of await this.#record(image, first.model, this.#subject.opsAfter)) {
      this.where = `moment ${first.moment}, then ${cut.moment}`;
      await this.#look(imageOf(cut, image), cut.model.copy());
    }
  }

  /**
   * Runs the load over a disk that holds `image`, and answers what the disk may hold at each moment.
   * With a model, the image is what a crash has left: then the opening counts as well.
   */
  async #record(
    image: Uint8Array,
    model: VersionModel | null,
    ops: readonly SweepOp[],
  ): Promise<Cut[]> {
    const { before, blockSectors } = this.#subject;
    // What a crash has left is opened over a disk that works.
    const disturb = model === null ? this.#subject.disturb : undefined;
    const lab = this.#lab(image);
    const disk = lab.disks.get(SWEPT_DISK) as SimDisk;
    const recorder = new Recorder(lab, disk, image, this.#rng, this.#options.cutsPerMoment);
    if (model !== null) recorder.start(() => model);
    const rig = await this.#open(lab);
    const load = new Load(
      rig,
      { depth: DEPTH, mayFail: disturb !== undefined },
      model?.copy() ?? new VersionModel(rig.device.lenSectors, this.#numbers),
    );
    if (model === null) {
      await this.#run(load, before);
      await rig.settle(load.one(FLUSH));
    } else {
      const wrong = checkAll(await this.#readAll(rig), load.model, blockSectors);
      if (wrong !== undefined) throw new CheckFailure(`opened again: ${wrong}`);
    }
    recorder.start(
      () => load.model,
      () => load.ended,
    );
    const calm = disturb?.(lab, disk, this.#rng);
    await this.#run(load, ops);
    if (calm !== undefined) {
      calm();
      this.counts.failed += load.failed;
      load.failed = 0;
    }
    await rig.settle(load.one(FLUSH));
    recorder.finish();
    await load.checkAll();
    if (load.failed > 0) throw new CheckFailure('fails, though there is no trouble any more');
    await close(lab, rig);
    this.counts.moments += recorder.moments;
    return recorder.cuts;
  }

  /** Several operations at a time. */
  async #run(load: Load, ops: readonly SweepOp[]): Promise<void> {
    const numbers = this.#numbers;
    const numbered = function* (): Generator<LoadOp> {
      for (const op of ops) {
        // Of every three numbers one makes data that do not compress.
        if (op.kind === 'write') {
          while (((numbers.last + 1) % 3 === 0) !== op.isRandom) numbers.last++;
        }
        yield op;
      }
    };
    const rest = numbered();
    const lane = async (): Promise<void> => {
      for (let next = rest.next(); next.done !== true; next = rest.next()) {
        await load.one(next.value);
        load.ended++;
      }
    };
    await load.rig.settle(Promise.all(Array.from({ length: DEPTH }, lane)));
  }

  /** What is found on such a disk is what the model allows. */
  async #look(image: Uint8Array, model: VersionModel): Promise<void> {
    this.counts.images++;
    const complaint = await this.#subject.judge(image);
    if (complaint !== '') throw new CheckFailure(`the disk: ${complaint}`);
    const lab = this.#lab(image);
    const rig = await this.#open(lab);
    const wrong = checkAll(await this.#readAll(rig), model, this.#subject.blockSectors);
    if (wrong !== undefined) throw new CheckFailure(wrong);
    await close(lab, rig);
  }

  async #readAll(rig: Rig): Promise<Uint8Array> {
    return await rig.settle(rig.driver.read(0, rig.device.lenSectors * SECTOR_BYTES));
  }

  #lab(image: Uint8Array): Lab {
    const { clonesMax } = this.#subject;
    const seed = this.#rng.u32();
    const lab = makeLab({ seed, ...(clonesMax === undefined ? {} : { clonesMax }) });
    lab.addDisk({
      name: SWEPT_DISK,
      lenSectors: image.length / SECTOR_BYTES,
      limits: this.#subject.limits,
      image: image.slice(),
    });
    return lab;
  }

  async #open(lab: Lab): Promise<Rig> {
    const settle = async <T>(work: Promise<T>): Promise<T> =>
      await lab.scheduler.settle(work, () => 'stands still');
    await settle(lab.dm.create({ name: NAME, table: this.#subject.table }));
    const open = await lab.dm.openDevice(NAME);
    return rigOf(lab, open.device, settle, async () => await open.close());
  }
}

/** Takes down what the disk may hold, before each event. */
class Recorder {
  readonly cuts: Cut[] = [];
  moments = 0;
  readonly #lab: Lab;
  readonly #disk: SimDisk;
  readonly #base: Uint8Array;
  readonly #rng: Prng;
  readonly #perMoment: number;
  readonly #seen = new Set<string>();
  #model: () => VersionModel = () => {
    throw new CheckFailure('no model');
  };
  #acknowledged: () => number = () => 0;
  #isOn = false;

  constructor(lab: Lab, disk: SimDisk, base: Uint8Array, rng: Prng, perMoment: number) {
    this.#lab = lab;
    this.#disk = disk;
    this.#base = base;
    this.#rng = rng;
    this.#perMoment = perMoment;
  }

  start(model: () => VersionModel, acknowledged: () => number = () => 0): void {
    this.#model = model;
    this.#acknowledged = acknowledged;
    if (this.#isOn) return;
    this.#isOn = true;
    this.#lab.scheduler.haltAfter(1, this.#moment);
  }

  /** The last moment is now. */
  finish(): void {
    this.#isOn = false;
    this.#take();
  }

  readonly #moment = (): void => {
    if (!this.#isOn) return;
    this.#lab.scheduler.haltAfter(1, this.#moment);
    this.#take();
  };

  #take(): void {
    this.moments++;
    let model: VersionModel | null = null;
    const first = this.moments % CUTS.length;
    for (let i = 0; i < this.#perMoment; i++) {
      // What has not become durable is lost, always; then the others by turns.
      const { keep, tear } = CUTS[i === 0 ? 0 : (first + i) % CUTS.length] as (typeof CUTS)[0];
      const image = this.#disk.imageAfterCut(this.#rng, keep, tear);
      const sectors = differences(this.#base, image);
      const key = `${this.#acknowledged()} ${keyOf(sectors)}`;
      if (this.#seen.has(key)) continue;
      this.#seen.add(key);
      model ??= this.#model().copy();
      this.cuts.push({ sectors, model, moment: this.moments });
    }
  }
}

const FLUSH: LoadOp = { kind: 'flush', sector: 0, lenSectors: 0, flags: 0, segments: [] };

function differences(base: Uint8Array, image: Uint8Array): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  for (let at = 0; at < base.length; at += SECTOR_BYTES) {
    const end = at + SECTOR_BYTES;
    if (Buffer.compare(base.subarray(at, end), image.subarray(at, end)) === 0) continue;
    found.set(at / SECTOR_BYTES, image.slice(at, end));
  }
  return found;
}

function keyOf(sectors: ReadonlyMap<number, Uint8Array>): string {
  let sum = 0;
  for (const [sector, bytes] of sectors) sum = crc32(bytes, crc32(String(sector), sum));
  return `${sectors.size} ${sum}`;
}

function imageOf({ sectors }: Cut, base: Uint8Array): Uint8Array {
  const image = base.slice();
  for (const [sector, bytes] of sectors) image.set(bytes, sector * SECTOR_BYTES);
  return image;
}

/** What is wrong with what was read after a crash, or undefined. */
function checkAll(data: Uint8Array, model: VersionModel, blockSectors: number): string | undefined {
  for (let block = 0; block < model.lenSectors; block += blockSectors) {
    const first = SECTOR_STAMP.identify(data, block, block);
    for (let s = block + 1; s < block + blockSectors; s++) {
      const other = SECTOR_STAMP.identify(data, s, s);
      if (other === first) continue;
      return `the block at sector ${block} is of two writes: ${first}, and ${other} at ${s}`;
    }
  }
  return model.checkAfterCut(data);
}

function rigOf(
  lab: Lab,
  device: BlockDevice,
  settle: <T>(work: Promise<T>) => Promise<T>,
  abandon: () => Promise<void>,
): Rig {
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
    top: NAME,
    settle,
    control: () => Promise.resolve(),
    finish: () => Promise.resolve(),
    abandon,
  };
}

async function close(lab: Lab, rig: Rig): Promise<void> {
  await rig.settle(rig.abandon());
  await rig.settle(lab.dm.close());
  const [violation] = lab.violations;
  if (violation !== undefined) throw new CheckFailure(violation);
}
