// delay: holds I/O back for a time, reads, writes and flushes each for their own and on their own device.
//
// Each class is a queue in order of arrival, so its head is always due first; one timer a target waits for
// the earliest head. While the device suspends nothing is held.

import { invalid } from '../../base/errors.ts';
import type { Timer } from '../../base/clock.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { submitBio } from '../../bio/submit.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import {
  type DeviceRange,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';

/** Where one kind of I/O goes, and what of it waits. */
class DelayClass {
  readonly device: BlockDevice;
  readonly startSector: number;
  readonly delayMs: number;
  /** Waiting bios, oldest first, linked by `next`; when each is due. */
  head: Bio | null = null;
  tail: Bio | null = null;
  readonly dueMs: number[] = [];
  count = 0;

  constructor(device: BlockDevice, startSector: number, delayMs: number) {
    this.device = device;
    this.startSector = startSector;
    this.delayMs = delayMs;
  }

  push(bio: Bio, dueMs: number): void {
    bio.next = null;
    if (this.tail === null) this.head = bio;
    else this.tail.next = bio;
    this.tail = bio;
    this.dueMs.push(dueMs);
    this.count++;
  }

  /** The oldest one if it is due. */
  shift(nowMs: number): Bio | null {
    const bio = this.head;
    if (bio === null || (this.dueMs[0] as number) > nowMs) return null;
    this.head = bio.next;
    if (this.head === null) this.tail = null;
    bio.next = null;
    this.dueMs.shift();
    this.count--;
    return bio;
  }

  words(): string {
    return `${deviceWord(this.device)} ${this.startSector} ${this.delayMs}`;
  }
}

class Delay implements Target {
  readonly traits: TargetTraits = { flush: 'map' };
  readonly #reads: DelayClass;
  readonly #writes: DelayClass;
  readonly #flushes: DelayClass;
  /** As many as the table line had. */
  readonly #given: readonly DelayClass[];
  readonly #all: readonly DelayClass[];
  readonly #host: TargetHost;
  #timer: Timer | null = null;
  #timerAtMs = 0;
  #mayDelay = true;

  constructor(given: readonly DelayClass[], host: TargetHost) {
    const [reads, writes = copyOf(reads), flushes = copyOf(writes)] = given as [DelayClass];
    this.#reads = reads;
    this.#writes = writes;
    this.#flushes = flushes;
    this.#given = given;
    this.#all = [reads, writes, flushes];
    this.#host = host;
  }

  map(bio: Bio): MapResult {
    const part = this.#classOf(bio);
    bio.device = part.device;
    bio.sector += part.startSector;
    if (part.delayMs === 0 || !this.#mayDelay) return MapResult.Remapped;
    const dueMs = this.#host.clock.nowMs() + part.delayMs;
    part.push(bio, dueMs);
    if (this.#timer === null || dueMs < this.#timerAtMs) this.#arm(dueMs);
    return MapResult.Submitted;
  }

  /** INFO counts what waits at the moment: reads, writes, flushes. */
  status(kind: 'info' | 'table'): string {
    if (kind === 'info') return this.#all.map((part) => part.count).join(' ');
    return this.#given.map((part) => part.words()).join(' ');
  }

  devices(): readonly DeviceRange[] {
    const { lenSectors } = this.#host;
    return this.#all.map(({ device, startSector }) => ({ device, startSector, lenSectors }));
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const { device, startSector } = this.#reads;
    return device.extents(startSector + sector, lenSectors, maxExtents);
  }

  presuspend(): Promise<void> {
    this.#mayDelay = false;
    this.#release(Number.POSITIVE_INFINITY);
    return Promise.resolve();
  }

  presuspendUndo(): void {
    this.#mayDelay = true;
  }

  resume(): void {
    this.#mayDelay = true;
  }

  #classOf(bio: Bio): DelayClass {
    if (bio.op === Op.Read) return this.#reads;
    return bio.op === Op.Flush ? this.#flushes : this.#writes;
  }

  #arm(dueMs: number): void {
    this.#timer?.cancel();
    this.#timerAtMs = dueMs;
    const { clock } = this.#host;
    this.#timer = clock.after(Math.max(0, dueMs - clock.nowMs()), this.#fire);
  }

  readonly #fire = (): void => {
    this.#timer = null;
    this.#release(this.#host.clock.nowMs());
  };

  /** Sends what is due, and waits for what comes next. */
  #release(nowMs: number): void {
    this.#timer?.cancel();
    this.#timer = null;
    let nextMs = Number.POSITIVE_INFINITY;
    for (const part of this.#all) {
      for (let bio = part.shift(nowMs); bio !== null; bio = part.shift(nowMs)) submitBio(bio);
      nextMs = Math.min(nextMs, part.dueMs[0] ?? Number.POSITIVE_INFINITY);
    }
    // Sending may have brought new ones, which have armed it themselves.
    const isLater = this.#timer !== null && this.#timerAtMs <= nextMs;
    if (Number.isFinite(nextMs) && !isLater) this.#arm(nextMs);
  }
}

function copyOf(part: DelayClass): DelayClass {
  return new DelayClass(part.device, part.startSector, part.delayMs);
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  if (args.length !== 3 && args.length !== 6 && args.length !== 9) {
    throw invalid(
      `Requires exactly 3, 6 or 9 arguments: found ${args.length}; expected <device> <start sector> ` +
        `<delay ms> for all I/O, then for writes, then for flushes`,
    );
  }
  const given: DelayClass[] = [];
  for (let i = 0; i < args.length; i += 3) {
    const [reference, start, delay] = args.slice(i, i + 3) as [string, string, string];
    const startSector = parseSectors(start, 'Invalid device sector');
    const delayMs = Number(delay);
    if (!/^\d+$/.test(delay) || delayMs > 0xffffffff) {
      throw invalid(`Invalid delay: '${delay}': expected milliseconds, 0 to 4294967295`);
    }
    const device = await host.openDevice(reference, { startSector, lenSectors: host.lenSectors });
    given.push(new DelayClass(device, startSector, delayMs));
  }
  return new Delay(given, host);
}

export default { name: 'delay', version: [1, 4, 0], create } satisfies TargetType;
