// Damaged disks of insitu_comp: bits, sectors, swapped sectors, and values that make no sense behind checksums that
// are right. Whatever is done with such a disk ends, with a DmError or an errno at worst; what is read is what was
// written, or an error; a repair leaves nothing worse, and has nothing left to do the second time.

import { BugError } from '../base/assert.ts';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { Status, statusName } from '../base/status.ts';
import { CODEC_NAMES, type CodecName } from '../codec/codec.ts';
import { findSuperblock, type VolumeFormat } from '../targets/insitu-comp/superblock.format.ts';
import { checkVolume } from '../tools/compress/check.ts';
import type { CompressIo } from '../tools/compress/image.ts';
import { repairVolume } from '../tools/compress/repair.ts';
import { DAMAGES } from './insitu-damage.ts';
import { INSITU_BLOCK_BYTES, InsituDesk } from './insitu-desk.ts';
import { dropSharedArena } from './sim/lab.ts';

const REGIONS = 3;
const BLOCKS = REGIONS * 32;
const SECTOR = 512;
/** Writes to a damaged volume. */
const WRITES = 12;
const SPILL_ROUNDS_MAX = 100;

/** A volume with extents of every kind, and what its device has. */
export interface FuzzVolume {
  readonly image: Uint8Array;
  /** What was there some flushes before. */
  readonly older: Uint8Array;
  readonly data: Buffer;
  readonly codec: CodecName;
  readonly blockBytes: number;
}

/** What came of the rounds. */
export interface FuzzCounts {
  rounds: number;
  refused: number;
  /** Blocks that ended with an error, and blocks that were right. */
  errors: number;
  right: number;
  repairs: number;
}

/** Volumes to damage: one for each codec, every other one on a disk with blocks of 4096 bytes. */
export async function fuzzVolumes(seed: number): Promise<FuzzVolume[]> {
  const volumes: FuzzVolume[] = [];
  for (const [i, codec] of CODEC_NAMES.entries()) {
    volumes.push(await makeVolume(seed + i, codec, i % 2 === 0 ? 512 : 4096));
  }
  return volumes;
}

async function makeVolume(seed: number, codec: CodecName, blockBytes: number): Promise<FuzzVolume> {
  const desk = await InsituDesk.open({ seed, codec, blockBytes, regions: REGIONS });
  const prng = new Prng(seed);
  const data = Buffer.alloc(BLOCKS * INSITU_BLOCK_BYTES);
  const write = async (block: number, bytes: Buffer): Promise<void> => {
    data.set(bytes, block * INSITU_BLOCK_BYTES);
    const status = await desk.driver.write(block * INSITU_BLOCK_BYTES, bytes);
    if (status !== Status.Ok) throw new BugError(`write: ${statusName(status)}`);
  };
  let older = desk.imageAfterCut();
  // What is in the spill area is soon brought home: the state is that of a moment behind a flush.
  for (let round = 0; ; round++) {
    if (round > SPILL_ROUNDS_MAX) throw new BugError('nothing comes into the spill area');
    const writes: Promise<void>[] = [];
    for (let region = 0; region < REGIONS; region++) {
      const isWhole = round % 4 === 0;
      const first = region * 32 + (isWhole ? 0 : prng.between(0, 8));
      const count = isWhole ? 32 : prng.between(8, 16);
      // In every other volume what is there first compresses by half.
      const noise = isWhole && blockBytes === 512 ? 14 : count;
      const rest = desk.text(count - noise, `round ${round}`);
      writes.push(write(first, Buffer.concat([desk.noise(noise), rest])));
      const text = desk.text(prng.between(2, 6), `round ${round}`);
      if (round % 4 === 3) writes.push(write(region * 32 + 25, text));
    }
    if (round % 4 === 3) writes.push(write(24, Buffer.alloc(INSITU_BLOCK_BYTES)));
    await desk.settle(Promise.all(writes));
    await desk.flush();
    if (round % 4 === 3 && hasSpilled(desk)) break;
    older = desk.imageAfterCut();
  }
  const image = desk.imageAfterCut();
  await desk.close();
  return { image, older, data, codec, blockBytes };
}

function hasSpilled(desk: InsituDesk): boolean {
  const { spillSector } = desk.format.layout;
  const regions = Array.from({ length: REGIONS }, (_, region) => desk.record(region));
  const spilled = regions.filter(({ extents }) => extents.some(({ at }) => at >= spillSector));
  return spilled.length > 1;
}

/** Damages images and does with them whatever can be done. Throws what was found, with what repeats it. */
export async function fuzzInsitu(
  volumes: readonly FuzzVolume[],
  options: { readonly seed: number; readonly rounds: number },
): Promise<FuzzCounts> {
  const counts: FuzzCounts = { rounds: 0, refused: 0, errors: 0, right: 0, repairs: 0 };
  for (let round = 0; round < options.rounds; round++) {
    const volume = volumes[round % volumes.length] as FuzzVolume;
    const seed = options.seed + round;
    const prng = new Prng(seed);
    const kinds: string[] = [];
    const image = volume.image.slice();
    const format = formatOf(image);
    let isHostile = false;
    for (let n = prng.pick([1, 1, 2, 5, 20]); n > 0; n--) {
      const [kind, damage] = prng.pick(DAMAGES);
      kinds.push(kind);
      if (damage(image, prng, format, volume.older)) isHostile = true;
    }
    counts.rounds++;
    try {
      await new FuzzRound(volume, seed, image, isHostile, counts).run();
    } catch (error) {
      // What it has taken of the arena is lost.
      dropSharedArena();
      const what = `seed ${seed}, ${volume.codec}, blocks of ${volume.blockBytes}: ${kinds.join(', ')}`;
      throw new Error(`${what}: ${(error as Error).message}`, { cause: error });
    }
  }
  return counts;
}

function formatOf(image: Uint8Array): VolumeFormat {
  const found = findSuperblock(image.subarray(0, 4096), image.length / SECTOR);
  if (found.what !== 'version 2') throw new BugError('no volume to damage');
  return found.format;
}

/** What writes have left. */
interface Used {
  readonly data: Buffer;
  readonly written: Set<number>;
  readonly maybe: Map<number, Buffer>;
  readonly mayBeFull: boolean;
}

class FuzzRound {
  readonly #volume: FuzzVolume;
  readonly #seed: number;
  readonly #image: Uint8Array;
  readonly #isHostile: boolean;
  readonly #counts: FuzzCounts;
  readonly #prng: Prng;

  constructor(
    volume: FuzzVolume,
    seed: number,
    image: Uint8Array,
    isHostile: boolean,
    counts: FuzzCounts,
  ) {
    this.#volume = volume;
    this.#seed = seed;
    this.#image = image;
    this.#isHostile = isHostile;
    this.#counts = counts;
    this.#prng = new Prng(seed ^ 0xf0);
  }

  async run(): Promise<void> {
    const before = await this.#readable(this.#image);
    if (before !== null) await this.#use(before);
    await this.#repair(before, false);
    await this.#repair(before, true);
  }

  /** Which blocks can be read; null: the table is refused. What is read is right. */
  async #readable(image: Uint8Array): Promise<boolean[] | null> {
    const desk = await this.#tryOpen(image.slice());
    if (desk === null) return null;
    const readable = await this.#readBlocks(desk, this.#volume.data);
    await this.#close(desk);
    return readable;
  }

  async #tryOpen(image: Uint8Array): Promise<InsituDesk | null> {
    const { codec, blockBytes } = this.#volume;
    try {
      return await InsituDesk.open({
        seed: this.#seed,
        codec,
        blockBytes,
        regions: REGIONS,
        image,
      });
    } catch (error) {
      if (!(error instanceof DmError) || error instanceof BugError) throw error;
      this.#counts.refused++;
      return null;
    }
  }

  async #readBlocks(
    desk: InsituDesk,
    data: Buffer,
    maybe: ReadonlyMap<number, Buffer> = new Map(),
  ): Promise<boolean[]> {
    const readable: boolean[] = [];
    for (let block = 0; block < BLOCKS; ) {
      const most = Math.min(BLOCKS - block, this.#prng.pick([1, 3, 8, 40]));
      let count = most;
      let found = await desk.read(block, count);
      // One that cannot be read is an error for all of the read.
      if (typeof found === 'number' && count > 1) {
        count = 1;
        found = await desk.read(block);
      }
      for (let b = block; b < block + count; b++) readable.push(typeof found !== 'number');
      if (typeof found === 'number') {
        this.#counts.errors++;
        if (found !== Status.Io) throw new Error(`block ${block}: ${statusName(found)}`);
      } else {
        this.#counts.right += count;
        for (let i = 0; i < count && !this.#isHostile; i++) {
          const b = block + i;
          const bytes = blockOf(found, i);
          if (bytes.equals(blockOf(data, b)) || maybe.get(b)?.equals(bytes) === true) continue;
          throw new Error(`block ${b}: wrong, and no error`);
        }
      }
      block += count;
    }
    return readable;
  }

  /** Writes, flushes and reads, and what was written is there, also in the next table. */
  async #use(before: readonly boolean[]): Promise<void> {
    const desk = await this.#tryOpen(this.#image.slice());
    if (desk === null) return;
    const data = Buffer.from(this.#volume.data);
    const written = new Set<number>();
    /** What a write that failed would have left: one of its parts may have succeeded. */
    const maybe = new Map<number, Buffer>();
    const found = await this.#check(ioOf(this.#image.slice(), this.#volume.blockBytes));
    const mayBeFull = found !== null && [...found.mismatched].some(({ codec }) => codec > 0);
    const used: Used = { data, written, maybe, mayBeFull };
    const load: Promise<void>[] = [];
    for (let n = 0; n < WRITES; n++) {
      const count = this.#prng.pick([1, 2, 7, 32]);
      const block =
        count === 32 ? 32 * this.#prng.below(REGIONS) : this.#prng.below(BLOCKS - count);
      const isText = this.#prng.chance(0.5);
      const bytes = isText ? desk.text(count, `write ${n}`) : desk.noise(count);
      load.push(this.#write(desk, block, bytes, used));
      if (this.#prng.chance(0.5)) await desk.settle(Promise.all(load.splice(0)));
    }
    await desk.settle(Promise.all(load));
    const flushed = await desk.flush();
    if (flushed !== Status.Ok) throw new Error(`flush: ${statusName(flushed)}`);
    for (let again = 0; again < 2; again++) {
      const readable = await this.#readBlocks(desk, data, maybe);
      for (const block of written) {
        if (readable[block] !== true && !maybe.has(block) && !this.#isHostile) {
          throw new Error(`block ${block} was written, and cannot be read`);
        }
      }
      for (const [block, wasReadable] of before.entries()) {
        if (wasReadable && readable[block] !== true && !this.#isHostile) {
          throw new Error(`block ${block} could be read before others were written`);
        }
      }
      if (again === 0) await desk.reload();
    }
    await this.#close(desk);
  }

  async #close(desk: InsituDesk): Promise<void> {
    await desk.close();
    const { usedBytes } = desk.lab.arena;
    if (usedBytes > 0) throw new Error(`${usedBytes} bytes of buffers are left over`);
  }

  async #write(desk: InsituDesk, block: number, bytes: Buffer, used: Used): Promise<void> {
    const { data, written, maybe } = used;
    // Writes that meet would leave either.
    const blocks = Array.from({ length: bytes.length / INSITU_BLOCK_BYTES }, (_, i) => block + i);
    if (blocks.some((b) => written.has(b))) return;
    for (const b of blocks) written.add(b);
    const status = await desk.driver.write(block * INSITU_BLOCK_BYTES, bytes);
    if (status === Status.Ok) {
      data.set(bytes, block * INSITU_BLOCK_BYTES);
      return;
    }
    for (const [i, b] of blocks.entries()) maybe.set(b, blockOf(bytes, i));
    // A damaged payload that is in the way cannot be made smaller.
    if (status === Status.NoSpace && used.mayBeFull) return;
    if (status !== Status.Io) throw new Error(`write of block ${block}: ${statusName(status)}`);
  }

  /** What could be read can be read afterwards, but for what a repair says is lost. */
  async #repair(before: readonly boolean[] | null, isForced: boolean): Promise<void> {
    const image = this.#image.slice();
    const io = ioOf(image, this.#volume.blockBytes);
    const found = await this.#check(io);
    if (found === null) return;
    const lost = new Set<number>();
    if (before !== null && !this.#isHostile) {
      const named = new Set(found.faults.flatMap(({ ranges }) => ranges.flatMap(blocksIn)));
      for (const [block, isReadable] of before.entries()) {
        if (isReadable === named.has(block)) {
          throw new Error(
            `block ${block}: ${isReadable ? 'readable' : 'EIO'}, check says otherwise`,
          );
        }
      }
    }
    for (const repair of await repairVolume(io, found, isForced)) {
      if (repair.isDone) this.#counts.repairs++;
      for (const range of repair.lost) for (const block of blocksIn(range)) lost.add(block);
    }
    const once = image.slice();
    const again = await this.#check(io);
    if (again === null) throw new Error('after a repair there is no volume');
    await repairVolume(io, again, isForced);
    if (Buffer.compare(once, image) !== 0) throw new Error('the second repair changes something');
    if (again.faults.length > found.faults.length) {
      throw new Error(`${found.faults.length} faults, after a repair ${again.faults.length}`);
    }
    await this.#compare(before, once, lost, isForced);
  }

  async #compare(
    before: readonly boolean[] | null,
    image: Uint8Array,
    lost: ReadonlySet<number>,
    isForced: boolean,
  ): Promise<void> {
    const data = Buffer.from(this.#volume.data);
    if (isForced) {
      // A record that was made empty has zeroes.
      for (const block of lost) {
        data.fill(0, block * INSITU_BLOCK_BYTES, (block + 1) * INSITU_BLOCK_BYTES);
      }
    }
    const desk = await this.#tryOpen(image);
    if (desk === null) {
      if (before !== null) throw new Error('a repair has made a volume that cannot be opened');
      return;
    }
    const after = await this.#readBlocks(desk, data);
    await this.#close(desk);
    for (const [block, isReadable] of (before ?? []).entries()) {
      if (isReadable && after[block] !== true && !lost.has(block)) {
        throw new Error(
          `block ${block} could be read before the repair, and was not named as lost`,
        );
      }
    }
  }

  async #check(
    io: CompressIo,
  ): Promise<Exclude<Awaited<ReturnType<typeof checkVolume>>, string> | null> {
    const found = await checkVolume(io);
    return typeof found === 'string' ? null : found;
  }
}

function blockOf(bytes: Buffer, i: number): Buffer {
  return bytes.subarray(i * INSITU_BLOCK_BYTES, (i + 1) * INSITU_BLOCK_BYTES);
}

function blocksIn({ offsetBytes, lenBytes }: { offsetBytes: number; lenBytes: number }): number[] {
  const first = offsetBytes / INSITU_BLOCK_BYTES;
  return Array.from({ length: lenBytes / INSITU_BLOCK_BYTES }, (_, i) => first + i);
}

function ioOf(image: Uint8Array, blockBytes: number): CompressIo {
  return {
    sizeBytes: image.length,
    blockBytes,
    read: async (at, len) => {
      if (at < 0 || at + len > image.length) throw new BugError(`read at ${at}, ${len} bytes`);
      return await Promise.resolve(image.slice(at, at + len));
    },
    write: async (at, bytes) => {
      if (at < 0 || at + bytes.length > image.length) throw new BugError(`write at ${at}`);
      await Promise.resolve(image.set(bytes, at));
    },
    flush: () => Promise.resolve(),
  };
}
