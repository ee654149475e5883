// Regions in memory. Records come in eight at a time, a block of 4096 bytes; blocks that nobody has used for long
// and whose records are on the disk go out again when there are too many.

import { DmError } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import type { ReservedBuffers } from '../../io/reserved-buffers.ts';
import type { Arena } from '../../io/arena.ts';
import { type DecodedRecord, decodeRecord, homeOf, Records } from './record.format.ts';
import { type RecordPage, Region } from './region.ts';
import { RECORD_BYTES, REGION_SECTORS, type VolumeFormat } from './superblock.format.ts';

const PAGE_REGIONS = 8;
const PAGE_BYTES = PAGE_REGIONS * RECORD_BYTES;
/** Pages kept, of 1 MiB of the volume each. */
const PAGES_MAX = 4096;
/** When there are too many, this many go. */
const PAGES_OUT = 512;

interface Page {
  readonly regions: Region[];
  usedAt: number;
}

/** A page being read, and the bios that wait for it. */
interface Loading {
  readonly bios: Bio[];
  readonly loaded: Promise<Page>;
}

export interface RegionCacheHost {
  readonly format: VolumeFormat;
  readonly device: BlockDevice;
  readonly arena: Arena;
  readonly buffers: ReservedBuffers;
  /** A bio whose region is there now. */
  goOn(bio: Bio, region: Region): void;
  /** A bio whose region cannot be had. */
  fail(bio: Bio, status: Status): void;
  /** A record that cannot be right. */
  badRecord(region: number, complaint: string): void;
}

export class RegionCache {
  readonly #host: RegionCacheHost;
  readonly #pages = new Map<number, Page>();
  readonly #loading = new Map<number, Loading>();
  #tick = 0;

  constructor(host: RegionCacheHost) {
    this.#host = host;
  }

  /** Null: it has to be read; see `wait` and `hold`. */
  find(index: number): Region | null {
    const page = this.#pages.get(Math.floor(index / PAGE_REGIONS));
    if (page === undefined) return null;
    page.usedAt = ++this.#tick;
    return page.regions[index % PAGE_REGIONS] as Region;
  }

  /** Goes on with `bio` when its region is there. */
  wait(index: number, bio: Bio): void {
    this.#loadingOf(Math.floor(index / PAGE_REGIONS)).bios.push(bio);
  }

  /** The region, which stays in memory until `users` is one less again. Throws DmError. */
  async hold(index: number): Promise<Region> {
    const number = Math.floor(index / PAGE_REGIONS);
    const page = this.#pages.get(number) ?? (await this.#loadingOf(number).loaded);
    page.usedAt = ++this.#tick;
    const region = page.regions[index % PAGE_REGIONS] as Region;
    region.users++;
    return region;
  }

  #loadingOf(number: number): Loading {
    const known = this.#loading.get(number);
    if (known !== undefined) return known;
    const loaded = this.#load(number);
    const loading = { bios: [], loaded };
    this.#loading.set(number, loading);
    spawn('insitu_comp records', this.#goOn(number, loading));
    return loading;
  }

  async #goOn(number: number, { bios, loaded }: Loading): Promise<void> {
    let page: Page | undefined;
    let status: Status = Status.Ok;
    try {
      page = await loaded;
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      status = error.status;
    }
    this.#loading.delete(number);
    for (const bio of bios) {
      if (page === undefined) this.#host.fail(bio, status);
      else this.#host.goOn(bio, page.regions[regionOf(bio) % PAGE_REGIONS] as Region);
    }
  }

  async #load(number: number): Promise<Page> {
    if (this.#pages.size >= PAGES_MAX) this.#evict();
    let bytes = await this.#read(number);
    let records = this.#decode(number, bytes);
    if (records.some((record) => typeof record === 'string')) {
      // What is wrong may have gone wrong on the way.
      bytes = await this.#read(number);
      records = this.#decode(number, bytes);
    }
    const first = number * PAGE_REGIONS;
    const now = new Records(this.#host.format, first, PAGE_REGIONS);
    const hasBad = records.some((record) => typeof record === 'string');
    const kept = { now, bytes, hasBad };
    const regions = records.map((record, i) => this.#regionOf(first + i, record, kept));
    const page = { regions, usedAt: ++this.#tick };
    this.#pages.set(number, page);
    return page;
  }

  async #read(number: number): Promise<Uint8Array> {
    const { format, device, arena, buffers } = this.#host;
    const mem = await buffers.take(PAGE_BYTES);
    try {
      const vec = new BioVec([mem], [PAGE_BYTES], this);
      const at = format.layout.recordSector + number * PAGE_REGIONS;
      const status = await sendBio(Op.Read, device, at, PAGE_BYTES, vec, { flags: BioFlag.Meta });
      if (status === Status.Ok) return arena.u8.slice(mem, mem + PAGE_BYTES);
      throw new DmError(status, `records at sector ${at}: ${errnoText(status)}`);
    } finally {
      buffers.give(mem, PAGE_BYTES);
    }
  }

  /** Of each region of a page: its record, or what is wrong with that; null: behind the last one. */
  #decode(number: number, bytes: Uint8Array): (DecodedRecord | string | null)[] {
    const { format } = this.#host;
    return Array.from({ length: PAGE_REGIONS }, (_, i) => {
      const index = number * PAGE_REGIONS + i;
      if (index >= format.layout.regions) return null;
      return decodeRecord(format, index, bytes.subarray(i * RECORD_BYTES));
    });
  }

  #regionOf(index: number, decoded: DecodedRecord | string | null, page: RecordPage): Region {
    const region = new Region(index, homeOf(this.#host.format, index), page);
    if (decoded !== null && typeof decoded !== 'string') {
      region.load(decoded.extents, decoded.map, decoded.hint);
      return region;
    }
    region.isBad = true;
    if (decoded !== null) this.#host.badRecord(index, decoded);
    return region;
  }

  #evict(): void {
    const idle = [...this.#pages].filter(([, { regions }]) => regions.every(isIdle));
    idle.sort(([, a], [, b]) => a.usedAt - b.usedAt);
    for (const [number] of idle.slice(0, PAGES_OUT)) this.#pages.delete(number);
  }
}

function regionOf(bio: Bio): number {
  return Math.floor(bio.sector / REGION_SECTORS);
}

function isIdle(region: Region): boolean {
  return (
    region.users === 0 &&
    !region.isDirty &&
    !region.isLocked &&
    !region.hasTrimmable &&
    !region.hasGone &&
    region.waiting.length === 0
  );
}
