// flakey: a device that works for some seconds and then, for some seconds, does not: it fails I/O, drops
// writes, or corrupts data.
//
// Data on its way down is corrupted in a copy: who did not allocate a vector never changes it. What is on
// its way up is corrupted where it was read to.

import { invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { type Bio, BioFlag, type BioOwner, forEachSegment, Op } from '../../bio/bio.ts';
import { BioSet } from '../../bio/bio-set.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { endBio, submitBio } from '../../bio/submit.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import { NONE } from '../../io/arena.ts';
import { type FlakeyFeatures, parseFeatures, printFeatures } from './features.ts';

/** Bits of the kernel's `bi_opf` that bios have here: what `corrupt_bio_byte`'s flags select by. */
const OPF_WRITE = 1;
const OPF_META = 1 << 12;
const OPF_FUA = 1 << 17;
const OPF_PREFLUSH = 1 << 18;
/** Probabilities are parts of this. */
const PROBABILITY_BASE = 1_000_000_000;
/** Corrupted writes under way at a time; the copy of one is at most so long. */
const COPIES_MAX = 16;
const COPY_SECTORS_MAX = 512;

class Flakey implements Target, BioOwner {
  readonly traits: TargetTraits = { flush: 'map' };
  readonly #device: BlockDevice;
  readonly #startSector: number;
  readonly #upSeconds: number;
  readonly #downSeconds: number;
  readonly #features: FlakeyFeatures;
  readonly #ranges: readonly DeviceRange[];
  readonly #host: TargetHost;
  readonly #startMs: number;
  /** Copies of writes to be corrupted. */
  readonly #copies: BioSet;
  /** Writes that wait for a copy, in order, linked by `next`. */
  #waitHead: Bio | null = null;
  #waitTail: Bio | null = null;
  #isListening = false;

  constructor(
    device: BlockDevice,
    startSector: number,
    intervals: readonly [up: number, down: number],
    features: FlakeyFeatures,
    host: TargetHost,
  ) {
    this.#device = device;
    this.#startSector = startSector;
    [this.#upSeconds, this.#downSeconds] = intervals;
    this.#features = features;
    this.#host = host;
    this.#startMs = host.clock.nowMs();
    this.#ranges = [{ device, startSector, lenSectors: host.lenSectors }];
    this.#copies = new BioSet({ name: `${host.deviceName} flakey`, reserve: 1, max: COPIES_MAX });
  }

  map(bio: Bio): MapResult {
    // The target's own word: whether this one was sent in a down interval.
    bio.targetWord = 0;
    if (this.#isDown()) {
      const result = this.#mapDown(bio);
      if (result !== MapResult.Remapped) return result;
    }
    bio.device = this.#device;
    bio.sector += this.#startSector;
    return MapResult.Remapped;
  }

  endIo(bio: Bio): EndIoResult {
    if (bio.targetWord === 0 || bio.op !== Op.Read || bio.status !== Status.Ok) {
      return EndIoResult.Done;
    }
    const { corruptByte, readCorruptOdds } = this.#features;
    if (corruptByte?.direction === 'r' && hasFlags(bio, corruptByte.flags)) {
      this.#corruptByte(bio, corruptByte.byte, corruptByte.value);
    } else if (readCorruptOdds > 0 && this.#draws(readCorruptOdds)) this.#corruptRandom(bio);
    return EndIoResult.Done;
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'info') return '';
    const device = `${deviceWord(this.#device)} ${this.#startSector}`;
    return `${device} ${this.#upSeconds} ${this.#downSeconds} ${printFeatures(this.#features)}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    const { corruptByte, writeCorruptOdds } = this.#features;
    if (corruptByte?.direction !== 'w' && writeCorruptOdds === 0) return stacked;
    return { ...stacked, maxIoSectors: Math.min(stacked.maxIoSectors, COPY_SECTORS_MAX) };
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#device.extents(this.#startSector + sector, lenSectors, maxExtents);
  }

  /** The end of a corrupted copy: its buffer goes back, and the next one may be made. */
  bioEnd(copy: Bio): void {
    const { vec } = copy;
    const mem = vec.mems[0] as number;
    this.#copies.free(copy);
    this.#host.engine.arena.free(mem, vec.lenBytes);
    this.#retry();
  }

  #isDown(): boolean {
    const elapsed = Math.floor((this.#host.clock.nowMs() - this.#startMs) / 1000);
    return elapsed % (this.#upSeconds + this.#downSeconds) >= this.#upSeconds;
  }

  #mapDown(bio: Bio): MapResult {
    bio.targetWord = 1;
    const features = this.#features;
    if (bio.op === Op.Read) return features.errorReads ? MapResult.Kill : MapResult.Remapped;
    if (features.dropWrites) {
      endBio(bio, Status.Ok);
      return MapResult.Submitted;
    }
    if (features.errorWrites) return MapResult.Kill;
    if (bio.op === Op.Write && this.#isToCorrupt(bio)) {
      this.#corruptWrite(bio);
      return MapResult.Submitted;
    }
    return MapResult.Remapped;
  }

  #isToCorrupt(bio: Bio): boolean {
    const { corruptByte, writeCorruptOdds } = this.#features;
    if (corruptByte?.direction === 'w' && hasFlags(bio, corruptByte.flags)) {
      return corruptByte.byte <= bio.lenBytes;
    }
    return writeCorruptOdds > 0 && this.#draws(writeCorruptOdds);
  }

  #draws(odds: number): boolean {
    return this.#host.random() * PROBABILITY_BASE < odds;
  }

  #corruptWrite(bio: Bio): void {
    if (this.#waitHead === null && this.#tryCopy(bio)) return;
    bio.next = null;
    if (this.#waitTail === null) this.#waitHead = bio;
    else this.#waitTail.next = bio;
    this.#waitTail = bio;
    this.#listen();
  }

  #tryCopy(bio: Bio): boolean {
    const { arena } = this.#host.engine;
    if (this.#copies.outstanding >= this.#copies.max) return false;
    const mem = arena.tryAlloc(bio.lenBytes);
    if (mem === NONE) return false;
    const copy = this.#copies.tryDeepClone(bio, arena.u8, mem, this);
    if (copy === null) {
      arena.free(mem, bio.lenBytes);
      return false;
    }
    const { corruptByte } = this.#features;
    if (corruptByte === null) this.#corruptRandom(copy);
    else this.#corruptByte(copy, corruptByte.byte, corruptByte.value);
    copy.device = this.#device;
    copy.sector += this.#startSector;
    submitBio(copy);
    // The copy is its child: it waits for that.
    endBio(bio, Status.Ok);
    return true;
  }

  #retry(): void {
    for (;;) {
      const bio = this.#waitHead;
      if (bio === null) return;
      const { next } = bio;
      if (!this.#tryCopy(bio)) break;
      this.#waitHead = next;
      if (next === null) this.#waitTail = null;
    }
    this.#listen();
  }

  /** With no copy under way there is no end to wait for: then it is memory that others have. */
  #listen(): void {
    if (this.#waitHead === null || this.#isListening || this.#copies.outstanding > 0) return;
    this.#isListening = true;
    this.#host.engine.arena.onFree(() => {
      this.#isListening = false;
      this.#retry();
    });
  }

  /** `byte` counts from 1; a bio that is shorter stays as it is. */
  #corruptByte(bio: Bio, byte: number, value: number): void {
    const { u8 } = this.#host.engine.arena;
    forEachSegment(bio, (mem, len, done) => {
      if (byte > done && byte <= done + len) u8[mem + byte - 1 - done] = value;
    });
  }

  #corruptRandom(bio: Bio): void {
    const byte = 1 + Math.floor(this.#host.random() * bio.lenBytes);
    this.#corruptByte(bio, byte, Math.floor(this.#host.random() * 256));
  }
}

function hasFlags(bio: Bio, wanted: number): boolean {
  let opf = bio.op === Op.Read ? 0 : OPF_WRITE;
  if ((bio.flags & BioFlag.Meta) !== 0) opf |= OPF_META;
  if ((bio.flags & BioFlag.Fua) !== 0) opf |= OPF_FUA;
  if ((bio.flags & BioFlag.Preflush) !== 0) opf |= OPF_PREFLUSH;
  return (opf & wanted) === wanted;
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [reference, start, up, down, ...rest] = args;
  if (reference === undefined || start === undefined || up === undefined || down === undefined) {
    throw invalid(
      `Invalid argument count: ${args.length}, expected <device> <start sector> <up seconds> ` +
        `<down seconds> [<number of feature words> <feature>...]`,
    );
  }
  const startSector = parseSectors(start, 'Invalid device sector');
  const upSeconds = parseSeconds(up, 'Invalid up interval');
  const downSeconds = parseSeconds(down, 'Invalid down interval');
  if (upSeconds + downSeconds === 0) throw invalid('Total (up + down) interval is zero');
  if (upSeconds + downSeconds > 0xffffffff) {
    throw invalid(`Interval overflow: ${upSeconds} + ${downSeconds} seconds`);
  }
  const features = parseFeatures(rest);
  const device = await host.openDevice(reference, { startSector, lenSectors: host.lenSectors });
  return new Flakey(device, startSector, [upSeconds, downSeconds], features, host);
}

function parseSeconds(text: string, what: string): number {
  if (!/^\d+$/.test(text) || Number(text) > 0xffffffff) {
    throw invalid(`${what}: '${text}': expected seconds, 0 to 4294967295`);
  }
  return Number(text);
}

export default { name: 'flakey', version: [1, 5, 0], create } satisfies TargetType;
