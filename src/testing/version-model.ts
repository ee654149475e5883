// What a device may hold: a model of its content that knows about concurrency, failed writes, and power
// cuts.
//
// Every write has a number, and every sector written says the number and its own place, with a pattern that
// follows from both. So a sector found on a device says which write it is from, and whether it is whole.
// Number 0 is zeroes. Instead of sectors a model may have smaller pieces, with a stamp of their own.
//
// Per sector the model keeps the writes that may be there. A completed write rules out those that had
// completed before it was sent; a flush or FUA makes that true for what is durable, too. What was sent and
// has not completed, or has failed, or was a discard (old or zeroes), may be there or not.

import { assert } from '../base/assert.ts';
import { SECTOR_STAMP, type Stamp } from './stamp.ts';

const NEVER = Number.POSITIVE_INFINITY;
/** Among the numbers a read may find, where new blocks are not zeroed. */
const ANYTHING = -1;

interface Version {
  readonly number: number;
  readonly sentAt: number;
  /** When it ended; NEVER while it is in flight. */
  endedAt: number;
  /** It is there for certain: it ended well and was no discard. */
  isSure: boolean;
  /** When it became certain that a power cut cannot undo it. */
  durableAt: number;
}

/** A write (or zeroing, or discard) on its way. */
export interface ModelWrite {
  readonly number: number;
  readonly sector: number;
  readonly lenSectors: number;
  readonly version: Version;
}

/** A read on its way: what was there or on its way when it was sent. */
export interface ModelRead {
  readonly sector: number;
  readonly lenSectors: number;
  /** Per sector. */
  readonly before: readonly (readonly number[])[];
  /** Sent since then. */
  readonly during: ModelWrite[];
}

export interface ModelFlush {
  readonly sentAt: number;
}

export class VersionModel {
  readonly lenSectors: number;
  /** A sector may hold anything while a write to it is under way: new blocks are not zeroed. */
  readonly mayBeStale: boolean;
  /**
   * A read beside a write may get a sector that has words of both. On a real file it may: the
   * kernel copies out of a page of its cache while another call copies into it.
   */
  mayTear = false;
  readonly #stamp: Stamp;
  readonly #sectors: Version[][];
  readonly #reads = new Set<ModelRead>();
  #time = 0;
  /** Numbers given out; shared with copies, so that each write has its own. */
  readonly #numbers: { last: number };

  constructor(
    lenSectors: number,
    numbers = { last: 0 },
    mayBeStale = false,
    stamp: Stamp = SECTOR_STAMP,
  ) {
    this.#stamp = stamp;
    this.lenSectors = lenSectors;
    this.mayBeStale = mayBeStale;
    this.#numbers = numbers;
    this.#sectors = Array.from({ length: lenSectors }, () => [original(0)]);
  }

  /** The same model, for a question that changes it; reads under way are not in it. */
  copy(): VersionModel {
    const copy = new VersionModel(this.lenSectors, this.#numbers, this.mayBeStale, this.#stamp);
    copy.#time = this.#time;
    const known = new Map<Version, Version>();
    for (let s = 0; s < this.lenSectors; s++) {
      copy.#sectors[s] = this.#at(s).map((version) => {
        let same = known.get(version);
        if (same === undefined) known.set(version, (same = { ...version }));
        return same;
      });
    }
    return copy;
  }

  /**
   * What a snapshot taken now holds, durable: what is on its way may be in it or not, and will not
   * come later.
   */
  snapshot(): VersionModel {
    const copy = new VersionModel(this.lenSectors, this.#numbers, this.mayBeStale, this.#stamp);
    for (let s = 0; s < this.lenSectors; s++) {
      const versions = this.#at(s);
      copy.#sectors[s] = versions
        .filter((v) => !versions.some((w) => w.isSure && w.sentAt > v.endedAt))
        .map((v) => ({ ...v, sentAt: -1, endedAt: 0, durableAt: v.isSure ? 0 : NEVER }));
    }
    return copy;
  }

  /** What holds either what this model or the other one may hold. Both are of snapshots. */
  merged(other: VersionModel): VersionModel {
    const copy = new VersionModel(this.lenSectors, this.#numbers, this.mayBeStale, this.#stamp);
    for (let s = 0; s < this.lenSectors; s++) {
      const all = [...this.#at(s), ...other.#at(s)];
      const isSame = all.every((v) => v.number === all[0]?.number);
      // With a choice nothing is certain, so nothing rules anything out.
      copy.#sectors[s] = isSame
        ? [original((all[0] as Version).number)]
        : all.map((v) => ({ ...v, isSure: false, durableAt: NEVER }));
    }
    return copy;
  }

  /** What a snapshot holds that was taken some time since `read` began, over all: any of what was there meanwhile, durable. */
  snapshotSince(read: ModelRead): VersionModel {
    this.#reads.delete(read);
    const copy = new VersionModel(this.lenSectors, this.#numbers, this.mayBeStale, this.#stamp);
    for (let s = 0; s < this.lenSectors; s++) {
      const during = read.during.filter((w) => s >= w.sector && s < w.sector + w.lenSectors);
      const numbers = new Set([...(read.before[s] as number[]), ...during.map((w) => w.number)]);
      const [first] = numbers;
      copy.#sectors[s] =
        numbers.size === 1
          ? [original(first as number)]
          : [...numbers].map((number) => ({
              ...original(number),
              isSure: false,
              durableAt: NEVER,
            }));
    }
    return copy;
  }

  /** The data of write `number` for `lenSectors` sectors from `sector` on. */
  static data(
    number: number,
    sector: number,
    lenSectors: number,
    stamp: Stamp = SECTOR_STAMP,
  ): Uint8Array {
    const words = new Uint32Array((lenSectors * stamp.bytes) / 4);
    if (number !== 0) stamp.put(words, number, sector, lenSectors);
    return new Uint8Array(words.buffer);
  }

  sendWrite(sector: number, lenSectors: number): ModelWrite {
    return this.#send(sector, lenSectors, ++this.#numbers.last);
  }

  sendZeroes(sector: number, lenSectors: number): ModelWrite {
    return this.#send(sector, lenSectors, 0);
  }

  /** It completed well. `isDurable`: with FUA. */
  writeDone(write: ModelWrite, isDurable: boolean): void {
    const { version } = write;
    version.endedAt = ++this.#time;
    version.isSure = true;
    if (isDurable) this.#makeDurable(write.sector, write.lenSectors, version);
    this.#forget(write.sector, write.lenSectors);
  }

  /** It ended, and may be there or not, also in part: it failed, or was a discard. */
  writeUnsure(write: ModelWrite): void {
    write.version.endedAt = ++this.#time;
  }

  /** It ended and is known to have changed nothing. */
  writeUndone(write: ModelWrite): void {
    for (let s = write.sector; s < write.sector + write.lenSectors; s++) {
      this.#sectors[s] = this.#at(s).filter((v) => v !== write.version);
    }
  }

  sendFlush(): ModelFlush {
    return { sentAt: ++this.#time };
  }

  flushDone(flush: ModelFlush): void {
    this.#time++;
    for (let s = 0; s < this.lenSectors; s++) {
      const versions = this.#at(s);
      if (versions.length === 1 && versions[0]?.durableAt !== NEVER) continue;
      for (const v of versions) if (v.isSure && v.endedAt <= flush.sentAt) v.durableAt = this.#time;
      this.#forgetAt(s);
    }
  }

  sendRead(sector: number, lenSectors: number): ModelRead {
    const before: number[][] = [];
    for (let s = sector; s < sector + lenSectors; s++) before.push(this.#readable(s));
    const read = { sector, lenSectors, before, during: [] };
    this.#reads.add(read);
    return read;
  }

  /** It ended with an error. */
  readFailed(read: ModelRead): void {
    this.#reads.delete(read);
  }

  /** What is wrong with the data of a read, or undefined. */
  checkRead(read: ModelRead, data: Uint8Array): string | undefined {
    this.#reads.delete(read);
    for (let i = 0; i < read.lenSectors; i++) {
      const sector = read.sector + i;
      const found = this.#stamp.identify(data, i, sector);
      const allowed = [...(read.before[i] as readonly number[])];
      for (const write of read.during) {
        if (sector >= write.sector && sector < write.sector + write.lenSectors) {
          allowed.push(write.number);
          if (write.number !== 0) allowed.push(ANYTHING);
        }
      }
      if (typeof found === 'number' && allowed.includes(found)) continue;
      if (this.mayBeStale && allowed.includes(ANYTHING)) continue;
      if (this.mayTear && this.#isMix(data, i, sector, allowed)) continue;
      return wrong('read', sector, found, allowed);
    }
    return undefined;
  }

  /**
   * What is wrong with what was told of allocation from `read.sector` on, or undefined: `isEmpty` says of
   * each sector that it was called a hole or zeroes.
   */
  checkEmpty(read: ModelRead, isEmpty: readonly boolean[]): string | undefined {
    this.#reads.delete(read);
    for (const [i, empty] of isEmpty.entries()) {
      const sector = read.sector + i;
      const allowed = read.before[i] as readonly number[];
      if (!empty || allowed.includes(0) || allowed.includes(ANYTHING)) continue;
      // What is on its way may already count, and may be zeroes.
      const isTouched = read.during.some(
        (w) => sector >= w.sector && sector < w.sector + w.lenSectors,
      );
      if (!isTouched) return wrong('block status', sector, 'called empty', allowed);
    }
    return undefined;
  }

  /**
   * What is wrong with what a device holds after a power cut, or undefined. What was found is what
   * it holds from then on, durable.
   */
  checkAfterCut(data: Uint8Array): string | undefined {
    for (let sector = 0; sector < this.lenSectors; sector++) {
      const found = this.#stamp.identify(data, sector, sector);
      const versions = this.#at(sector);
      const allowed = versions.map((v) => v.number);
      const isOne = typeof found === 'number' && allowed.includes(found);
      if (!isOne && !this.#mayHoldAnything(versions)) {
        return wrong('after the power cut', sector, found, allowed);
      }
      this.#sectors[sector] = [original(isOne ? found : ANYTHING)];
    }
    return undefined;
  }

  /** Whether each word of piece `i` of `data` is from one of the `allowed` writes. */
  #isMix(data: Uint8Array, i: number, sector: number, allowed: readonly number[]): boolean {
    const found = wordsOf(data.slice(i * this.#stamp.bytes, (i + 1) * this.#stamp.bytes));
    const versions = [...new Set(allowed)]
      .filter((number) => number !== ANYTHING)
      .map((number) => wordsOf(VersionModel.data(number, sector, 1, this.#stamp)));
    return found.every((word, at) => versions.some((version) => version[at] === word));
  }

  /** A new block may have become durable before what was written to it. */
  #mayHoldAnything(versions: readonly Version[]): boolean {
    if (!this.mayBeStale) return false;
    return versions.some((v) => v.number === ANYTHING || (v.durableAt === NEVER && v.number !== 0));
  }

  #at(sector: number): Version[] {
    return this.#sectors[sector] as Version[];
  }

  #send(sector: number, lenSectors: number, number: number): ModelWrite {
    assert(sector + lenSectors <= this.lenSectors, `model: ${sector}+${lenSectors} is outside`);
    const sentAt = ++this.#time;
    const version = { number, sentAt, endedAt: NEVER, isSure: false, durableAt: NEVER };
    for (let s = sector; s < sector + lenSectors; s++) this.#at(s).push(version);
    const write = { number, sector, lenSectors, version };
    for (const read of this.#reads) read.during.push(write);
    return write;
  }

  #makeDurable(sector: number, lenSectors: number, version: Version): void {
    // Other sectors of the same write are durable too, but that is this write's own range.
    assert(version.isSure, 'model: durable before it is done');
    version.durableAt = this.#time;
    this.#forget(sector, lenSectors);
  }

  /** Drops what can neither be read nor come back in a power cut. */
  #forget(sector: number, lenSectors: number): void {
    for (let s = sector; s < sector + lenSectors; s++) this.#forgetAt(s);
  }

  #forgetAt(sector: number): void {
    const versions = this.#at(sector);
    if (versions.length === 1) return;
    const kept = versions.filter(
      (v) => !versions.some((w) => w.durableAt !== NEVER && w.sentAt > v.endedAt),
    );
    if (kept.length < versions.length) this.#sectors[sector] = kept;
  }

  /** Numbers that a read sent now may find. */
  #readable(sector: number): number[] {
    const versions = this.#at(sector);
    const numbers = versions
      .filter((v) => !versions.some((w) => w.isSure && w.sentAt > v.endedAt))
      .map((v) => v.number);
    if (versions.some((v) => v.endedAt === NEVER && v.number !== 0)) numbers.push(ANYTHING);
    return numbers;
  }
}

function original(number: number): Version {
  return { number, sentAt: -1, endedAt: 0, isSure: true, durableAt: 0 };
}

function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
}

function name(number: number): string {
  return number === 0 ? 'zeroes' : `write ${number}`;
}

function wrong(
  when: string,
  sector: number,
  found: number | string,
  allowed: readonly number[],
): string {
  const is = typeof found === 'number' ? name(found) : found;
  const may = [...new Set(allowed)].filter((n) => n !== ANYTHING).map(name);
  return `${when}: sector ${sector} is ${is}; may be ${may.join(' or ')}`;
}
