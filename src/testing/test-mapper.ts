// A device mapper over disks in memory, for tests: disks complete in seeded random order, record every
// bio, and can be told to fail or to hold everything back.

import { existsSync } from 'node:fs';
import { assert } from '../base/assert.ts';
import { realClock } from '../base/clock.ts';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { type Bio, forEachSegment, Op } from '../bio/bio.ts';
import type { Extent } from '../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../bio/limits.ts';
import { endBio } from '../bio/submit.ts';
import type { BackendDevice } from '../dm/backend.ts';
import { DeviceMapper } from '../dm/device-mapper.ts';
import type { TargetType } from '../dm/target.ts';
import { Arena } from '../io/arena.ts';
import { NodeEngine } from '../io/node-engine.ts';

export interface SeenBio {
  readonly op: Op;
  readonly sector: number;
  readonly lenSectors: number;
  readonly flags: number;
}

export class TestDisk implements BackendDevice {
  readonly name: string;
  readonly lenSectors: number;
  readonly isReadOnly = false;
  readonly limits: QueueLimits;
  readonly bytes: Uint8Array;
  /** What has been submitted, in order. */
  readonly seen: SeenBio[] = [];
  /** Ends every bio that touches one of these sectors with EIO. */
  readonly badSectors = new Set<number>();
  /** Ends every flush with EIO. */
  failsFlushes = false;
  /** Bios wait while this is true; `release` lets them go. */
  isHeld = false;
  /** Deepest call stack seen in `submit`, frames. */
  callDepthMax = 0;
  measuresDepth = false;
  isClosed = false;
  readonly #arena: Arena;
  readonly #rng: Prng;
  #waiting: Bio[] = [];
  #isScheduled = false;

  constructor(name: string, lenSectors: number, arena: Arena, rng: Prng, limits?: QueueLimits) {
    this.name = name;
    this.lenSectors = lenSectors;
    this.limits = limits ?? DEFAULT_LIMITS;
    this.bytes = new Uint8Array(lenSectors * SECTOR_BYTES);
    this.#arena = arena;
    this.#rng = rng;
  }

  submit(bio: Bio): void {
    const { op, sector, lenSectors, flags } = bio;
    this.seen.push({ op, sector, lenSectors, flags });
    if (this.measuresDepth) this.#measureDepth();
    this.#waiting.push(bio);
    this.#schedule();
  }

  /** Lets held bios go. */
  release(): void {
    this.isHeld = false;
    this.#schedule();
  }

  /** Ends one of the held bios, counted from the oldest. */
  completeOne(index: number): void {
    const [bio] = this.#waiting.splice(index, 1);
    assert(bio !== undefined, `test disk ${this.name}: no bio ${index} is held`);
    this.#complete(bio);
  }

  get heldCount(): number {
    return this.#waiting.length;
  }

  extents(_sector: number, lenSectors: number): Promise<Extent[]> {
    return Promise.resolve([{ lenSectors, isHole: false, isZero: false }]);
  }

  close(): Promise<void> {
    this.isClosed = true;
    return Promise.resolve();
  }

  #schedule(): void {
    if (this.#isScheduled || this.isHeld) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      if (this.isHeld) return;
      // A few at a time, any of them first.
      for (let n = this.#rng.between(1, 8); n > 0 && this.#waiting.length > 0; n--) {
        const [bio] = this.#waiting.splice(this.#rng.below(this.#waiting.length), 1);
        if (bio !== undefined) this.#complete(bio);
      }
      if (this.#waiting.length > 0) this.#schedule();
    });
  }

  #complete(bio: Bio): void {
    for (let s = bio.sector; s < bio.sector + bio.lenSectors; s++) {
      if (!this.badSectors.has(s)) continue;
      endBio(bio, Status.Io);
      return;
    }
    if (bio.op === Op.Flush && this.failsFlushes) {
      endBio(bio, Status.Io);
      return;
    }
    const at = bio.sector * SECTOR_BYTES;
    const { u8 } = this.#arena;
    if (bio.op === Op.Read) {
      forEachSegment(bio, (mem, len, done) => {
        u8.set(this.bytes.subarray(at + done, at + done + len), mem);
      });
    } else if (bio.op === Op.Write) {
      forEachSegment(bio, (mem, len, done) => {
        this.bytes.set(u8.subarray(mem, mem + len), at + done);
      });
    } else if (bio.op !== Op.Flush) this.bytes.fill(0, at, at + bio.lenBytes);
    endBio(bio, Status.Ok);
  }

  #measureDepth(): void {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = Number.POSITIVE_INFINITY;
    const frames = (new Error('depth').stack ?? '').split('\n').length;
    Error.stackTraceLimit = limit;
    this.callDepthMax = Math.max(this.callDepthMax, frames);
  }
}

export interface TestMapper {
  readonly dm: DeviceMapper;
  readonly arena: Arena;
  /** Makes a disk that tables can name. */
  disk(name: string, lenSectors: number, limits?: QueueLimits): TestDisk;
  /** Makes a target type that tables can name. */
  targetType(type: TargetType): void;
}

export function makeTestMapper(seed: number, clonesMax: number): TestMapper {
  const rng = new Prng(seed);
  const arena = new Arena(16 << 20);
  const disks = new Map<string, TestDisk>();
  const types = new Map<string, TargetType>();
  const dm = new DeviceMapper({
    engine: new NodeEngine(arena),
    clock: realClock,
    random: () => rng.unit(),
    clonesMax,
    loadTargetType: async (name) => types.get(name) ?? (await builtInTarget(name)),
    listTargetTypes: () => ['linear', 'striped', 'zero', 'error', ...types.keys()],
    openBackend: async (reference) => {
      const disk = disks.get(reference);
      if (disk !== undefined) return await Promise.resolve(disk);
      throw new DmError(Status.NoEntry, `device ${reference}: no such test disk`);
    },
  });
  return {
    dm,
    arena,
    disk(name, lenSectors, limits) {
      // As a URI, so that nobody takes it for a path.
      const disk = new TestDisk(`test:${name}`, lenSectors, arena, rng, limits);
      disks.set(disk.name, disk);
      return disk;
    },
    targetType(type) {
      types.set(type.name, type);
    },
  };
}

async function builtInTarget(name: string): Promise<TargetType | undefined> {
  const file = new URL(`../targets/${name}.js`, import.meta.url);
  if (!existsSync(file)) return undefined;
  return ((await import(file.href)) as { default: TargetType }).default;
}
