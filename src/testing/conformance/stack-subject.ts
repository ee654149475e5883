// A stack over simulated disks, as a subject for the checks.

import { DmError, errorText } from '../../base/errors.ts';
import { MappedDevice } from '../../dm/mapped-device.ts';
import { Status, statusName } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import type { SimDisk } from '../sim/disk.ts';
import { dropSharedArena, type Lab, makeLab } from '../sim/lab.ts';
import {
  Account,
  fail,
  type OpenOptions,
  type PowerCut,
  type PoweredOff,
  type Rig,
  type Subject,
} from './rig.ts';

export interface DiskSpec {
  /** As tables call it: `test:NAME`. */
  readonly name: string;
  readonly lenSectors: number;
  readonly limits?: Partial<QueueLimits>;
  /** Holds what a target keeps beside the data (a log): no flush of a client has to reach it. */
  readonly isAside?: boolean;
  /** What it holds before anything is opened; zeroes if not given. */
  readonly image?: Uint8Array;
}

export interface StackDevice {
  readonly name: string;
  readonly table: string;
  /** Sent when it has been made; that what they make is there already (EEXIST) is fine. */
  readonly messages?: readonly string[];
}

export interface StackSpec {
  readonly disks: readonly DiskSpec[];
  /** In order; a table may name disks and devices before it. */
  readonly devices: readonly StackDevice[];
  /** An error of a disk may leave the stack in a worse mode for good (a pool, read-only). */
  readonly degrades?: boolean;
  /** On disks of zeroes the stack is not zeroes: it is filled with them first. */
  readonly isScrambled?: boolean;
  /** The device that is checked. */
  readonly top: string;
}

/** So much virtual time without a new request, and the work behind the client's back is stuck. */
const STUCK_MS = 120_000;
const CALM_STEP_MS = 500;

/** Content of disks by name. */
type Images = ReadonlyMap<string, Uint8Array>;

export class StackSubject implements Subject {
  readonly name: string;
  readonly spec: StackSpec;
  readonly isSimulated = true;
  readonly canCutPower = true;
  readonly isSteady: boolean;
  /** Prepares a fresh lab: target types of one's own. */
  readonly #prepare: (lab: Lab) => void;
  #zeroed: Images | null = null;

  constructor(name: string, spec: StackSpec, prepare: (lab: Lab) => void = () => undefined) {
    this.name = name;
    this.spec = spec;
    this.#prepare = prepare;
    this.isSteady = spec.degrades !== true;
  }

  get description(): string {
    const disks = this.spec.disks.map((d) => `${d.name} ${d.lenSectors} sectors${limitsText(d)}`);
    const devices = this.spec.devices.map((d) => `${d.name}: ${d.table.replaceAll('\n', ' | ')}`);
    return [...disks, ...devices].join('; ');
  }

  async open(seed: number, options: OpenOptions): Promise<Rig> {
    if (this.spec.isScrambled === true) this.#zeroed ??= await this.#makeZeroed();
    const lab = this.#lab(seed, options, this.#zeroed);
    return await this.#rig(lab);
  }

  /** What the disks hold when the stack is all zeroes. */
  async #makeZeroed(): Promise<Images> {
    const lab = this.#lab(0, {}, null);
    const rig = await this.#rig(lab);
    const step = 256 * 1024;
    const total = rig.device.lenSectors * SECTOR_BYTES;
    for (let at = 0; at < total; at += step) {
      const status = await rig.settle(
        rig.driver.write(at, new Uint8Array(Math.min(step, total - at))),
      );
      if (status !== Status.Ok) fail(`filling it with zeroes: byte ${at}: ${statusName(status)}`);
    }
    const status = await rig.settle(rig.driver.flush());
    if (status !== Status.Ok) fail(`filling it with zeroes: flush: ${statusName(status)}`);
    const images = new Map<string, Uint8Array>();
    for (const disk of lab.disks.values()) images.set(disk.name, disk.bytes.slice());
    await rig.abandon();
    return images;
  }

  async powerCut(rig: Rig, cut: PowerCut): Promise<PoweredOff> {
    const { lab } = rig;
    if (lab === null) return fail('power cut without a lab');
    const images = lab.powerCut(cut.rng, cut.keep, cut.tear);
    await rig.abandon();
    return { open: async (seed, options) => await this.#reopen(images, seed, options, cut) };
  }

  /** Opening may be interrupted by another power cut, and that by another. */
  async #reopen(
    images: Images,
    seed: number,
    options: OpenOptions,
    { rng, keep, tear }: PowerCut,
  ): Promise<Rig> {
    let left: Images = images;
    for (let cuts = rng.pick([0, 0, 1, 2]); cuts > 0; cuts--) {
      const lab = this.#lab(seed + cuts, options, left);
      let after: Images | null = null;
      lab.scheduler.haltAfter(rng.between(1, 60), () => {
        after = lab.powerCut(rng, keep, tear);
      });
      try {
        await this.#build(lab);
      } catch (error) {
        if (after === null) throw error;
      }
      left = after ?? lab.powerCut(rng, keep, tear);
      await abandon(lab);
    }
    return await this.#rig(this.#lab(seed, options, left));
  }

  #lab(seed: number, options: OpenOptions, images: Images | null): Lab {
    const lab = makeLab({
      seed,
      ...(options.clonesMax === undefined ? {} : { clonesMax: options.clonesMax }),
    });
    this.#prepare(lab);
    for (const disk of this.spec.disks) {
      const image = images?.get(disk.name) ?? disk.image;
      lab.addDisk({
        name: disk.name,
        lenSectors: disk.lenSectors,
        ...(disk.limits === undefined ? {} : { limits: disk.limits }),
        ...(options.delayMs === undefined ? {} : { delayMs: options.delayMs }),
        ...(image === undefined ? {} : { image: image.slice() }),
      });
    }
    return lab;
  }

  async #build(lab: Lab): Promise<void> {
    const work = async (): Promise<void> => {
      for (const { name, table, messages = [] } of this.spec.devices) {
        await lab.dm.create({ name, table });
        for (const text of messages) await sendMessage(lab, name, text);
      }
    };
    await lab.scheduler.settle(
      work(),
      () => 'opening the stack waits for something that never comes',
    );
  }

  async #rig(lab: Lab): Promise<Rig> {
    const usedBefore = lab.arena.usedBytes;
    try {
      await this.#build(lab);
    } catch (error) {
      await abandon(lab);
      if (error instanceof DmError) return fail(`cannot be opened: ${errorText(error)}`);
      throw error;
    }
    return await StackRig.open(this.spec, lab, usedBefore);
  }
}

class StackRig implements Rig {
  readonly device;
  readonly arena;
  readonly driver;
  readonly lab: Lab;
  readonly top: string;
  readonly flushedDisks: readonly SimDisk[];
  readonly #spec: StackSpec;
  readonly #account: Account;
  readonly #usedBefore: number;
  readonly #held: readonly { readonly close: () => Promise<void> }[];
  readonly #devices: readonly MappedDevice[];

  static async open(spec: StackSpec, lab: Lab, usedBefore: number): Promise<StackRig> {
    const held = [];
    for (const { name } of spec.devices) held.push(await lab.dm.openDevice(name));
    const devices = held.map((h) => h.device as MappedDevice);
    const top = devices[spec.devices.findIndex((d) => d.name === spec.top)];
    if (top === undefined) return fail(`no device '${spec.top}' in the stack`);
    return new StackRig(spec, lab, top, usedBefore, held, devices);
  }

  private constructor(
    spec: StackSpec,
    lab: Lab,
    top: MappedDevice,
    usedBefore: number,
    held: readonly { readonly close: () => Promise<void> }[],
    devices: readonly MappedDevice[],
  ) {
    this.#spec = spec;
    this.lab = lab;
    const aside = new Set(spec.disks.filter((d) => d.isAside === true).map((d) => d.name));
    this.flushedDisks = [...lab.disks.values()].filter((d) => !aside.has(d.name));
    this.top = spec.top;
    this.device = top;
    this.arena = lab.arena;
    // What a target writes beside the data is charged to whoever wrote the data.
    const isExact = !spec.disks.some((d) => d.isAside === true);
    this.#account = new Account(top, lab.arena, lab.violations, lab, isExact);
    this.driver = this.#account.driver;
    this.#usedBefore = usedBefore;
    this.#held = held;
    this.#devices = devices;
  }

  async settle<T>(work: Promise<T>): Promise<T> {
    return await this.lab.scheduler.settle(
      work,
      () => `nothing moves any more; has not ended: ${this.driver.describePending()}`,
    );
  }

  async control(verb: 'suspend' | 'reload'): Promise<void> {
    const { dm, rng } = this.lab;
    const { name, table } = rng.pick(this.#spec.devices);
    if (verb === 'reload') await dm.load(name, table);
    await dm.suspend(name, { noflush: rng.chance(0.3) });
    const device = this.#devices[this.#spec.devices.findIndex((d) => d.name === name)];
    if (device !== undefined && device.inFlight > 0) {
      this.lab.violations.push(`${name}: ${device.inFlight} bios in flight while suspended`);
    }
    await dm.resume(name);
  }

  async finish(): Promise<void> {
    await this.#calm();
    this.#account.check();
    for (const device of this.#devices) {
      if (device.inFlight > 0) fail(`${device.name}: ${device.inFlight} bios are still inside`);
      for (const pool of device.pools) {
        if (pool.outstandingPeak > pool.max) {
          fail(`pool '${pool.name}': ${pool.outstandingPeak} bios were out, ${pool.max} may be`);
        }
        if (pool.outstanding > 0) fail(`pool '${pool.name}': ${pool.outstanding} bios not back`);
      }
    }
    for (const disk of this.lab.disks.values()) {
      if (disk.inFlight > 0) fail(`${disk.name}: ${disk.inFlight} requests nobody waits for`);
    }
    for (const opened of this.#held) await opened.close();
    await this.lab.scheduler.settle(this.lab.dm.close(), () => 'closing never ends');
    this.#account.checkClosed();
    const left = this.arena.usedBytes - this.#usedBefore;
    if (left !== 0) fail(`${left} bytes of buffers are not back`);
    for (const disk of this.lab.disks.values()) if (!disk.isClosed) fail(`${disk.name}: left open`);
  }

  /** Lets work end that nobody waits for: a log is written, a pool commits behind the client's back. */
  async #calm(): Promise<void> {
    const { scheduler } = this.lab;
    const disks = [...this.lab.disks.values()];
    const seen = (): number => disks.reduce((sum, disk) => sum + disk.seen.length, 0);
    let before = seen();
    for (let quietMs = 0; quietMs < STUCK_MS; quietMs += CALM_STEP_MS) {
      if ([...disks, ...this.#devices].every((device) => device.inFlight === 0)) return;
      await scheduler.settle(new Promise<void>((r) => scheduler.after(CALM_STEP_MS, r)));
      if (seen() !== before) quietMs = 0;
      before = seen();
    }
  }

  async abandon(): Promise<void> {
    await abandon(this.lab);
    if (this.arena.usedBytes !== this.#usedBefore) dropSharedArena();
  }
}

async function sendMessage(lab: Lab, name: string, text: string): Promise<void> {
  try {
    await lab.dm.message(name, 0, text);
  } catch (error) {
    if (!(error instanceof DmError && error.status === Status.Exists)) throw error;
  }
}

/** The disks answer errors, so everything ends; what it says on the way is of no interest. */
async function abandon(lab: Lab): Promise<void> {
  for (const disk of lab.disks.values()) {
    disk.release();
    disk.faults.isGone = true;
  }
  const closed = lab.dm.close().catch(() => undefined);
  await lab.scheduler.settle(closed).catch(() => undefined);
}

function limitsText(disk: DiskSpec): string {
  const limits = Object.entries(disk.limits ?? {}).map(([name, value]) => `${name}=${value}`);
  return limits.length > 0 ? ` (${limits.join(' ')})` : '';
}
