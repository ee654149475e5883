// What a check works on: a device that is open, and what can be done to it besides I/O.

import type { Prng } from '../../base/prng.ts';
import { statusName } from '../../base/status.ts';
import { IoContext } from '../../bio/context.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { Arena } from '../../io/arena.ts';
import { BioDriver } from '../bio-driver.ts';
import type { SimDisk } from '../sim/disk.ts';
import type { Lab } from '../sim/lab.ts';

/** A check found something. The message says what was found and what was expected. */
export class CheckFailure extends Error {
  override readonly name = 'CheckFailure';
}

export function fail(what: string): never {
  throw new CheckFailure(what);
}

export interface OpenOptions {
  /** Clones each device may have out, where that can be chosen. */
  readonly clonesMax?: number;
  /** Disks take so long for a request, virtual ms. */
  readonly delayMs?: readonly [low: number, high: number];
}

/** One device under test, open. */
export interface Rig {
  readonly device: BlockDevice;
  readonly arena: Arena;
  readonly driver: BioDriver;
  /** In a simulation: disks, clock, and the mapper. */
  readonly lab: Lab | null;
  /** Disks that a flush of the device must reach, in a simulation. */
  readonly flushedDisks: readonly SimDisk[];
  /** Name of the device in the lab. */
  readonly top: string;
  /** Waits, and throws when nothing could ever end `work`. */
  settle<T>(work: Promise<T>): Promise<T>;
  /** Suspends and resumes, or puts the same table in place again; nothing where that is impossible. */
  control(verb: 'suspend' | 'reload'): Promise<void>;
  /** Looks at everything that has to hold when nothing is in flight. Throws CheckFailure. */
  finish(): Promise<void>;
  /** Lets go of it, whatever state it is in. */
  abandon(): Promise<void>;
}

/** A device that can be made again and again. */
export interface Subject {
  readonly name: string;
  /** How to make it by hand: table lines, a URI. */
  readonly description: string;
  readonly isSimulated: boolean;
  /** Its content survives `powerCut`, which can be asked for. */
  readonly canCutPower: boolean;
  /** When a disk that failed works again, so does everything. */
  readonly isSteady: boolean;
  open(seed: number, options: OpenOptions): Promise<Rig>;
  /** The power goes at once, and comes back. `rig` is done with. See SimDisk for `keep` and `tear`. */
  powerCut(rig: Rig, cut: PowerCut): Promise<PoweredOff>;
}

export interface PowerCut {
  readonly rng: Prng;
  readonly keep: number;
  readonly tear: number;
}

/** What is left after a power cut. */
export interface PoweredOff {
  /** Opens it again. Throws CheckFailure when that fails. */
  open(seed: number, options: OpenOptions): Promise<Rig>;
}

/** Counts of what a driver's context must have been charged, and the rules for how bios end. */
export class Account {
  readonly ctx = new IoContext({ name: 'conformance' });
  readonly violations: string[];
  readonly driver: BioDriver;
  readonly #isExact: boolean;
  #bytes = 0;
  #ios = 0;

  /** `isExact`: nothing but the client's own I/O is charged to its context. */
  constructor(
    device: BlockDevice,
    arena: Arena,
    violations: string[],
    lab: Lab | null,
    isExact = true,
  ) {
    this.#isExact = isExact;
    this.violations = violations;
    this.driver = new BioDriver(device, arena, {
      ctx: this.ctx,
      guards: true,
      violation: (what) => void violations.push(what),
      onEnd: (bio, what) => {
        this.#ios++;
        this.#bytes += bio.lenBytes;
        const causes = lab?.failedRoots.get(bio);
        if (lab === null || (causes === undefined && bio.status === 0)) return;
        // Refusals of the mapper or of a target are not errors of a disk.
        if (REFUSALS.has(bio.status)) return;
        if (causes === undefined) {
          violations.push(`${what}: ended with ${statusName(bio.status)}, but no disk failed it`);
        } else if (!causes.includes(bio.status)) {
          const expected = causes.map(statusName).join(' or ');
          violations.push(
            `${what}: a disk failed it with ${expected}, it ended with ${statusName(bio.status)}`,
          );
        }
      },
    });
  }

  /** What must hold when nothing is in flight. Throws CheckFailure. */
  check(): void {
    const [first] = this.violations;
    if (first !== undefined) {
      const more = this.violations.length > 1 ? ` (and ${this.violations.length - 1} more)` : '';
      fail(`${first}${more}`);
    }
    if (this.driver.pending.size > 0) fail(`has not ended: ${this.driver.describePending()}`);
  }

  /** What must hold when the device is closed. Throws CheckFailure. */
  checkClosed(): void {
    this.check();
    if (this.ctx.refs !== 1) fail(`${this.ctx.refs - 1} references to the I/O context are left`);
    const ios = this.ctx.ios.reduce((sum, n) => sum + n, 0);
    const bytes = this.ctx.bytes.reduce((sum, n) => sum + n, 0);
    const isRight = ios === this.#ios && bytes === this.#bytes;
    const isEnough = ios >= this.#ios && bytes >= this.#bytes;
    if (isRight || (isEnough && !this.#isExact)) return;
    fail(
      `its context was charged ${ios} bios of ${bytes} bytes; ${this.#ios} of ${this.#bytes} ended`,
    );
  }
}

/** EINVAL, EROFS, EOPNOTSUPP: what a device may answer of its own accord. */
const REFUSALS: ReadonlySet<number> = new Set([22, 30, 95]);
