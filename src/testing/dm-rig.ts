// A device mapper over backends and targets that fail on order, for tests of its verbs. Every call between
// it and what it uses takes some virtual time, may fail, and is checked: nothing is opened twice, used
// when closed, or told in the wrong order.

import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { type Bio, Op } from '../bio/bio.ts';
import type { BlockDevice, Extent } from '../bio/device.ts';
import { DEFAULT_LIMITS } from '../bio/limits.ts';
import { endBio } from '../bio/submit.ts';
import type { BackendDevice } from '../dm/backend.ts';
import { DeviceMapper } from '../dm/device-mapper.ts';
import { type Shared, ShareKind } from '../dm/shares.ts';
import {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
} from '../dm/target.ts';
import errorTarget from '../targets/error/error.target.ts';
import { Arena } from '../io/arena.ts';
import { SimEngine } from './sim/engine.ts';
import { Scheduler } from './sim/scheduler.ts';

export const RIG_SECTORS = 64;

const SHARED = new ShareKind<RigShared>('rig');

/** A disk whose flushes may fail; what was not flushed is lost then, for good. */
export class RigBackend implements BackendDevice {
  readonly name: string;
  readonly lenSectors = RIG_SECTORS;
  readonly isReadOnly = false;
  readonly limits = DEFAULT_LIMITS;
  isOpen = true;
  /** Writes that have ended, and how many of them are durable. */
  written = 0;
  durable = 0;
  /** A flush has failed. */
  isLost = false;
  readonly #rig: DmRig;

  constructor(name: string, rig: DmRig) {
    this.name = name;
    this.#rig = rig;
  }

  submit(bio: Bio): void {
    if (!this.isOpen) this.#rig.violation(`${this.name}: used when it is closed`);
    const { op } = bio;
    const covered = this.written;
    this.#rig.later(() => {
      if (op === Op.Write) this.written++;
      endBio(bio, op === Op.Flush ? this.#flush(covered) : Status.Ok);
    });
  }

  extents(_sector: number, lenSectors: number): Promise<Extent[]> {
    return Promise.resolve([{ lenSectors, isHole: false, isZero: false }]);
  }

  async close(): Promise<void> {
    await this.#rig.pause();
    if (!this.isOpen) this.#rig.violation(`${this.name}: closed twice`);
    this.isOpen = false;
    const status = this.#flush(this.written);
    if (status !== Status.Ok && this.written > this.durable) this.#rig.losses++;
    if (status !== Status.Ok) throw new DmError(status, `${this.name}: close: data may be lost`);
  }

  #flush(covered: number): Status {
    if (this.#rig.fails('flush', this.name)) this.isLost = true;
    else if (!this.isLost) this.durable = Math.max(this.durable, covered);
    return this.isLost ? Status.Io : Status.Ok;
  }
}

class RigShared implements Shared {
  isAbandoned = false;
  readonly #rig: DmRig;
  readonly #device: BlockDevice;

  constructor(rig: DmRig, device: BlockDevice) {
    this.#rig = rig;
    this.#device = device;
    if (rig.shared.has(device)) rig.violation(`${device.name}: shared by two objects`);
    rig.shared.add(device);
  }

  async abandon(): Promise<void> {
    await this.#rig.pause();
    this.isAbandoned = true;
    this.#rig.shared.delete(this.#device);
  }

  async close(): Promise<void> {
    await this.#rig.hook('shared close', this.#device.name).finally(() => {
      if (!this.isAbandoned) this.#rig.shared.delete(this.#device);
    });
  }
}

type RigState = 'loaded' | 'active' | 'stopping' | 'suspended' | 'ready' | 'closed';

/** `rig <device>`: like linear, from the device's start. `rig <device> shared` shares an object there. */
export class RigTarget implements Target {
  state: RigState = 'loaded';
  readonly #rig: DmRig;
  readonly #device: BlockDevice;
  readonly #host: TargetHost;
  #before: RigState = 'loaded';
  /** The device's count behind this target's last write. */
  #lastWrite = 0;

  constructor(rig: DmRig, device: BlockDevice, host: TargetHost) {
    this.#rig = rig;
    this.#device = device;
    this.#host = host;
  }

  map(bio: Bio): MapResult {
    this.#expect('map', 'active', 'stopping');
    bio.device = this.#device;
    return MapResult.Remapped;
  }

  endIo(bio: Bio): EndIoResult {
    if (bio.op === Op.Write && this.#device instanceof RigBackend) {
      this.#lastWrite = this.#device.written;
    }
    return EndIoResult.Done;
  }

  get deviceName(): string {
    return this.#host.device.name;
  }

  /** All that was written through this target is on a medium, as far as its own device can tell. */
  get isDurable(): boolean {
    return !(this.#device instanceof RigBackend) || this.#lastWrite <= this.#device.durable;
  }

  status(): string {
    return this.#device.name;
  }

  devices(): readonly DeviceRange[] {
    return [{ device: this.#device, startSector: 0, lenSectors: this.#host.lenSectors }];
  }

  async presuspend(): Promise<void> {
    this.#expect('presuspend', 'active');
    this.state = 'stopping';
    await this.#rig.hook('presuspend', this.#host.deviceName);
  }

  presuspendUndo(): void {
    this.#expect('presuspendUndo', 'stopping');
    this.state = 'active';
  }

  async postsuspend(noflush: boolean): Promise<void> {
    // A device that is halted by force goes on behind a presuspend that failed.
    this.#expect('postsuspend', 'stopping', 'suspended');
    if (!noflush && !this.isDurable) {
      this.#rig.violation(`${this.#device.name}: suspended as if it had been flushed`);
    }
    this.state = 'suspended';
    await this.#rig.hook('postsuspend', this.#host.deviceName);
  }

  async preresume(): Promise<void> {
    this.#expect('preresume', 'loaded', 'suspended');
    this.#before = this.state;
    this.state = 'ready';
    await this.#rig.hook('preresume', this.#host.deviceName);
  }

  preresumeUndo(): void {
    this.#expect('preresumeUndo', 'ready');
    this.state = this.#before;
  }

  resume(): void {
    this.#expect('resume', 'ready');
    this.state = 'active';
    if (this.#rig.fails('resume', this.#host.deviceName)) throw injected('resume');
  }

  async close(): Promise<void> {
    this.#expect('close', 'loaded', 'suspended');
    this.state = 'closed';
    this.#rig.targets.delete(this);
    if (!this.isDurable) this.#rig.closedUnflushed.push(this.deviceName);
    await this.#rig.hook('target close', this.#host.deviceName);
  }

  #expect(hook: string, ...states: RigState[]): void {
    if (states.includes(this.state)) return;
    this.#rig.violation(`${this.#host.deviceName}: ${hook} when ${this.state}`);
  }
}

function injected(what: string): DmError {
  return new DmError(Status.Io, `${what}: fails on order`);
}

export class DmRig {
  readonly rng: Prng;
  readonly scheduler: Scheduler;
  readonly arena = new Arena(1 << 20);
  readonly dm: DeviceMapper;
  readonly violations: string[] = [];
  /** What is open. */
  readonly backends = new Map<string, RigBackend>();
  readonly shared = new Set<BlockDevice>();
  /** Made and not closed. */
  readonly targets = new Set<RigTarget>();
  /** Devices whose targets were closed with something written that no flush had made durable. */
  readonly closedUnflushed: string[] = [];
  /** Backends whose last flush, at their end, failed with something written that was not durable. */
  losses = 0;
  /** Faults so far. */
  failures = 0;
  /** Which calls fail: `hook` is one of the names above, `who` a device or a backend. */
  faults: (hook: string, who: string) => boolean = () => false;

  constructor(seed: number) {
    this.rng = new Prng(seed);
    this.scheduler = new Scheduler(new Prng(seed ^ 0x5eed));
    this.dm = new DeviceMapper({
      engine: new SimEngine(this.arena, this.scheduler, seed),
      clock: this.scheduler,
      random: () => this.rng.unit(),
      bareWordsAreDevices: true,
      listTargetTypes: () => ['rig'],
      loadTargetType: async (name) => {
        if (name !== 'rig' && name !== 'error') return undefined;
        await this.hook('load type', name);
        const create = async (args: readonly string[], host: TargetHost): Promise<Target> =>
          await this.#create(args, host);
        if (name === 'error') return errorTarget;
        return { name, version: [1, 0, 0], create };
      },
      openBackend: async (reference) => {
        if (this.backends.has(reference)) this.violation(`${reference}: opened twice`);
        await this.hook('open', reference);
        const backend = new RigBackend(reference, this);
        const close = backend.close.bind(backend);
        backend.close = async () => await close().finally(() => this.backends.delete(reference));
        this.backends.set(reference, backend);
        return backend;
      },
    });
  }

  violation(what: string): void {
    this.violations.push(what);
  }

  fails(hook: string, who: string): boolean {
    const isFailing = this.faults(hook, who);
    if (isFailing) this.failures++;
    return isFailing;
  }

  later(fire: () => void): void {
    this.scheduler.after(this.rng.unit() * 3, fire);
  }

  pause(): Promise<void> {
    return new Promise((resolve) => this.later(resolve));
  }

  /** A call that takes its time and may fail. */
  async hook(name: string, who: string): Promise<void> {
    await this.pause();
    if (this.fails(name, who)) throw injected(`${name} of ${who}`);
  }

  settle<T>(work: Promise<T>, stuck?: () => string): Promise<T> {
    return this.scheduler.settle(work, stuck);
  }

  async #create([word = '', shares]: readonly string[], host: TargetHost): Promise<Target> {
    const device = await host.openDevice(word, { startSector: 0, lenSectors: host.lenSectors });
    if (shares !== undefined) {
      await host.share(SHARED, device, async () => {
        await this.hook('share', device.name);
        return new RigShared(this, device);
      });
    }
    await this.hook('create', host.deviceName);
    const target = new RigTarget(this, device, host);
    this.targets.add(target);
    return target;
  }
}
