// A lab: a device mapper on virtual time over simulated disks. All that happens in it follows from its
// seed. A power cut ends a lab; the next one starts from what the disks then hold.

import { DmError } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import type { Clock } from '../../base/clock.ts';
import type { Bio } from '../../bio/bio.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import type { OpenBackend } from '../../dm/backend-shares.ts';
import { DeviceMapper } from '../../dm/device-mapper.ts';
import type { TargetType } from '../../dm/target.ts';
import { Arena } from '../../io/arena.ts';
import { listTargetTypes, loadTargetType } from '../../targets/load-target.ts';
import { SimDisk, type SimDiskOptions } from './disk.ts';
import { SimEngine } from './engine.ts';
import { Scheduler } from './scheduler.ts';

export interface LabOptions {
  readonly seed: number;
  /** Clones each mapped device may have out; its reserve is 1. */
  readonly clonesMax?: number;
  /** Buffers; one of 16 MiB that all labs of the process share if not given. */
  readonly arena?: Arena;
  /** In place of virtual time, for what is asked for a clock; disks keep to virtual time. */
  readonly clock?: Clock;
}

export interface Lab {
  readonly seed: number;
  readonly rng: Prng;
  readonly scheduler: Scheduler;
  readonly arena: Arena;
  readonly engine: SimEngine;
  readonly dm: DeviceMapper;
  /** By which `dm` opens disks: for a device mapper of one's own over the same ones. */
  readonly openBackend: OpenBackend;
  readonly disks: ReadonlyMap<string, SimDisk>;
  /** What targets have told the operator. */
  readonly log: string[];
  /** Broken rules that the disks saw. */
  readonly violations: string[];
  /** Top-level bios some of whose requests a disk has failed, with the statuses. */
  readonly failedRoots: Map<Bio, Status[]>;
  /** Makes a disk that tables call `test:NAME`. */
  disk(name: string, lenSectors: number, limits?: Partial<QueueLimits>): SimDisk;
  addDisk(options: SimDiskOptions): SimDisk;
  /** Makes a target type that tables can name, in place of one that comes with lamina. */
  targetType(type: TargetType): void;
  /** What every disk holds when the power goes now; see SimDisk. The lab is good for nothing afterwards. */
  powerCut(rng: Prng, keep: number, tear: number): Map<string, Uint8Array>;
}

let sharedArena: Arena | null = null;

/** All of them at once, so that no lab ever waits for a file. */
const BUILT_IN = new Map<string, TargetType>();
for (const word of listTargetTypes()) {
  const type = await loadTargetType(word);
  if (type !== undefined) BUILT_IN.set(word, type);
}

/** After a run that left buffers taken: the next lab gets a fresh arena. */
export function dropSharedArena(): void {
  sharedArena = null;
}

export function makeLab(options: LabOptions): Lab {
  const { seed } = options;
  const rng = new Prng(seed);
  const scheduler = new Scheduler(new Prng(seed ^ 0x5eed));
  sharedArena ??= new Arena(16 << 20);
  const arena = options.arena ?? sharedArena;
  const disks = new Map<string, SimDisk>();
  const types = new Map<string, TargetType>();
  const log: string[] = [];
  const violations: string[] = [];
  const failedRoots = new Map<Bio, Status[]>();
  const watch = {
    violation: (what: string): void => void violations.push(what),
    failed(root: Bio, status: Status): void {
      const statuses = failedRoots.get(root);
      if (statuses === undefined) failedRoots.set(root, [status]);
      else statuses.push(status);
    },
  };
  const engine = new SimEngine(arena, scheduler, seed);
  const openBackend: OpenBackend = async (reference) => {
    const disk = disks.get(reference);
    if (disk === undefined) {
      throw new DmError(Status.NoEntry, `device ${reference}: no such simulated disk`);
    }
    disk.isClosed = false;
    return await Promise.resolve(disk);
  };
  const dm = new DeviceMapper({
    engine,
    clock: options.clock ?? scheduler,
    random: () => rng.unit(),
    log: (line) => void log.push(line),
    ...(options.clonesMax === undefined ? {} : { clonesMax: options.clonesMax }),
    loadTargetType: async (name) => await Promise.resolve(types.get(name) ?? BUILT_IN.get(name)),
    listTargetTypes: () => [...builtInTargets(), ...types.keys()],
    openBackend,
  });
  const addDisk = (disk: SimDiskOptions): SimDisk => {
    const added = new SimDisk(disk, arena, scheduler, new Prng(rng.u32()), watch);
    disks.set(added.name, added);
    return added;
  };
  return {
    seed,
    rng,
    scheduler,
    arena,
    engine,
    dm,
    openBackend,
    disks,
    log,
    violations,
    failedRoots,
    addDisk,
    // As a URI, so that nobody takes it for a path.
    disk: (name, lenSectors, limits = {}) => addDisk({ name: `test:${name}`, lenSectors, limits }),
    targetType: (type) => void types.set(type.name, type),
    powerCut(cutRng, keep, tear) {
      const images = new Map<string, Uint8Array>();
      for (const disk of disks.values()) images.set(disk.name, disk.powerCut(cutRng, keep, tear));
      return images;
    },
  };
}

/** Names of the targets that come with lamina. */
export function builtInTargets(): string[] {
  return [...BUILT_IN.keys()].sort();
}
