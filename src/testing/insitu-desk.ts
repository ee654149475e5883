// One insitu_comp device over a simulated disk, and what tests do with it: write and read blocks, look into records,
// cut the power and go on with what is left.

import { BugError } from '../base/assert.ts';
import type { Prng } from '../base/prng.ts';
import type { Status } from '../base/status.ts';
import type { CodecName } from '../codec/codec.ts';
import type { OpenDevice } from '../dm/holdings.ts';
import type { Arena } from '../io/arena.ts';
import { formatSink } from '../targets/insitu-comp/format-volume.ts';
import { type DecodedRecord, decodeRecord } from '../targets/insitu-comp/record.format.ts';
import {
  findSuperblock,
  REGION_SECTORS,
  type VolumeFormat,
} from '../targets/insitu-comp/superblock.format.ts';
import { BioDriver } from './bio-driver.ts';
import type { SimDisk } from './sim/disk.ts';
import { type Lab, makeLab } from './sim/lab.ts';

const NAME = 'd';
const DISK = 'a';
export const INSITU_BLOCK_BYTES = 4096;

export interface InsituDeskOptions {
  readonly seed: number;
  /** 2 if not given. */
  readonly regions?: number;
  /** `writeback 30` if not given. */
  readonly mode?: string;
  /** `lz4` if not given. */
  readonly codec?: CodecName;
  /** Blocks of the disk; 512 if not given. */
  readonly blockBytes?: number;
  /** What the disk holds; an empty volume if not given. Taken over. */
  readonly image?: Uint8Array;
  readonly arena?: Arena;
  readonly clonesMax?: number;
}

/** Sectors of a disk for so many regions, up to sixteen. */
export function insituDiskSectors(regions: number): number {
  return REGION_SECTORS + regions * REGION_SECTORS + 1024 + 8;
}

/** A disk with an empty volume. */
export async function insituImage(
  regions: number,
  options: { codec: CodecName; blockBytes: number; rng: Prng },
): Promise<Uint8Array> {
  const lenSectors = insituDiskSectors(regions);
  const image = new Uint8Array(lenSectors * 512);
  const sink = {
    name: 'test',
    lenSectors,
    blockBytes: options.blockBytes,
    write: async (sector: number, bytes: Uint8Array): Promise<void> =>
      await Promise.resolve(image.set(bytes, sector * 512)),
    flush: () => Promise.resolve(),
  };
  const random = (): number => options.rng.unit();
  await formatSink(sink, { codec: options.codec, level: 0, random });
  return image;
}

export class InsituDesk {
  readonly lab: Lab;
  readonly disk: SimDisk;
  readonly driver: BioDriver;
  readonly table: string;
  readonly regions: number;
  readonly #options: InsituDeskOptions;
  readonly #open: OpenDevice;

  private constructor(options: InsituDeskOptions, lab: Lab, table: string, open: OpenDevice) {
    this.#options = options;
    this.lab = lab;
    this.disk = lab.disks.get(`test:${DISK}`) as SimDisk;
    this.table = table;
    this.regions = options.regions ?? 2;
    this.#open = open;
    this.driver = new BioDriver(open.device, lab.arena, { guards: true });
  }

  /** Throws DmError when the table is refused. */
  static async open(options: InsituDeskOptions): Promise<InsituDesk> {
    const { seed, regions = 2, mode = 'writeback 30', codec = 'lz4', blockBytes = 512 } = options;
    const { arena, clonesMax } = options;
    const lab = makeLab({
      seed,
      ...(arena === undefined ? {} : { arena }),
      ...(clonesMax === undefined ? {} : { clonesMax }),
    });
    const image =
      options.image ?? (await insituImage(regions, { codec, blockBytes, rng: lab.rng }));
    lab.addDisk({
      name: `test:${DISK}`,
      lenSectors: image.length / 512,
      limits: { logicalBlockBytes: blockBytes },
      image,
    });
    const table = `0 ${regions * REGION_SECTORS} insitu_comp test:${DISK} ${mode}`;
    await lab.scheduler.settle(lab.dm.create({ name: NAME, table }));
    return new InsituDesk(options, lab, table, await lab.dm.openDevice(NAME));
  }

  async settle<T>(work: Promise<T>): Promise<T> {
    return await this.lab.scheduler.settle(work);
  }

  /** Lets so much virtual time pass. */
  async pass(ms: number): Promise<void> {
    await this.settle(new Promise<void>((go) => void this.lab.scheduler.after(ms, go)));
  }

  async write(block: number, data: Uint8Array, flags = 0): Promise<Status> {
    return await this.settle(this.driver.write(block * INSITU_BLOCK_BYTES, data, { flags }));
  }

  async flush(): Promise<Status> {
    return await this.settle(this.driver.flush());
  }

  /** The blocks, or the status that the read ended with. */
  async read(block: number, count = 1): Promise<Buffer | Status> {
    const at = block * INSITU_BLOCK_BYTES;
    return await this.settle(this.driver.tryRead(at, count * INSITU_BLOCK_BYTES));
  }

  async readAll(): Promise<Buffer> {
    return await this.settle(this.driver.read(0, this.regions * REGION_SECTORS * 512));
  }

  /** Blocks that compress to a small part of their length. */
  text(count: number, word: string): Buffer {
    return Buffer.alloc(count * INSITU_BLOCK_BYTES, `${word} and so on, `);
  }

  /** Blocks that do not compress. */
  noise(count: number): Buffer {
    const bytes = Buffer.alloc(count * INSITU_BLOCK_BYTES);
    this.lab.rng.fill(bytes);
    return bytes;
  }

  get format(): VolumeFormat {
    const found = findSuperblock(this.disk.bytes.subarray(0, 4096), this.disk.lenSectors);
    if (found.what !== 'version 2') throw new BugError('no superblock');
    return found.format;
  }

  /** A region's record as a reader of the disk would see it now. */
  record(region: number): DecodedRecord {
    const { format } = this;
    const at = (format.layout.recordSector + region) * 512;
    const record = decodeRecord(format, region, this.disk.bytes.subarray(at, at + 512));
    if (typeof record === 'string') throw new BugError(record);
    return record;
  }

  async status(): Promise<string[]> {
    const [target] = await this.settle(this.lab.dm.status(NAME));
    return target?.params.split(' ') ?? [];
  }

  async suspend(noflush = false): Promise<void> {
    await this.settle(this.lab.dm.suspend(NAME, { noflush }));
  }

  async resume(): Promise<void> {
    await this.settle(this.lab.dm.resume(NAME));
  }

  /** A new table over what the disk has: nothing of the old one's memory is left. */
  async reload(): Promise<void> {
    await this.suspend();
    await this.settle(this.lab.dm.load(NAME, this.table));
    await this.resume();
  }

  /** What the disk would hold if the power went now. */
  imageAfterCut(keep = 0, tear = 0): Uint8Array {
    return this.disk.imageAfterCut(this.lab.rng, keep, tear);
  }

  /** Another desk over what a disk was left with. */
  async after(image: Uint8Array): Promise<InsituDesk> {
    return await InsituDesk.open({ ...this.#options, seed: this.#options.seed + 1, image });
  }

  async close(): Promise<void> {
    await this.settle(this.#open.close());
    await this.settle(this.lab.dm.close());
    const [violation] = this.lab.violations;
    if (violation !== undefined) throw new BugError(violation);
  }
}
