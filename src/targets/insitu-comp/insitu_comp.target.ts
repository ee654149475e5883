// insitu_comp: a compressed device. docs/targets/insitu_comp.md is the page, docs/formats/insitu-comp.md the format,
// docs/design/insitu-comp.md the reasons.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import type { Bio } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { deviceWord } from '../../dm/references.ts';
import {
  type DeviceRange,
  type EndIoResult,
  type MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import { checkNoRecords, checkUnknown } from './blank-disk.ts';
import { checkCodec } from './codecs.ts';
import { CHUNK_BYTES } from './disk-io.ts';
import { findFormat, formatDevice, planDevice } from './format-volume.ts';
import {
  BLOCK_BYTES,
  BLOCK_SECTORS,
  REGION_BYTES,
  REGION_SECTORS,
  type VolumeFormat,
} from './superblock.format.ts';
import type { Format1 } from './v1/superblock.format.ts';
import { InsituComp1 } from './v1/target.ts';
import { Volume1 } from './v1/volume.ts';
import { Volume } from './volume.ts';

/** A discard of 128 MiB goes to the target in one piece. */
const RANGE_SECTORS = 1024 * REGION_SECTORS;

type Mode = { readonly kind: 'writethrough' } | { readonly kind: 'writeback'; readonly s: number };

/** A volume that a table is for. */
interface Plan {
  readonly format: VolumeFormat;
  /** The disk is blank: the volume is made when the table is resumed first. */
  readonly isNew: boolean;
}

class InsituComp implements Target {
  readonly hasOwnSectors = true;
  readonly traits: TargetTraits = { boundarySectors: REGION_SECTORS, flush: 'map' };
  #plan: Plan;
  readonly #device: BlockDevice;
  readonly #mode: Mode;
  readonly #host: TargetHost;
  readonly #ranges: readonly DeviceRange[];
  /** Null before the first resume: until then the table before may change what is on the disk. */
  #volume: Volume | null = null;
  /** The resume that is under way has opened it. */
  #isFresh = false;

  constructor(plan: Plan, device: BlockDevice, mode: Mode, host: TargetHost) {
    this.#plan = plan;
    this.#device = device;
    this.#mode = mode;
    this.#host = host;
    this.#ranges = [wholeOf(device)];
  }

  map(bio: Bio): MapResult {
    return (this.#volume as Volume).map(bio);
  }

  endIo(bio: Bio): EndIoResult {
    return (this.#volume as Volume).ended(bio);
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'table') {
      return tableWords(this.#device, this.#mode);
    }
    const volume = this.#volume;
    if (volume === null) return '-';
    const { blocks, sectors, spill, badRegions, badExtents } = volume;
    const metadata = this.#plan.format.layout.homeSector * 512;
    const used = `${spill.usedUnits}/${spill.units}`;
    return `${blocks * BLOCK_BYTES} ${sectors * 512} ${metadata} 2 ${used} ${badRegions + badExtents}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    return limitsOver(stacked);
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return (this.#volume as Volume).extents(sector, lenSectors, maxExtents);
  }

  async postsuspend(): Promise<void> {
    const status = (await this.#volume?.quiesce()) ?? Status.Ok;
    if (status === Status.Ok) return;
    // Also without a flush: another table would know nothing of what has been acknowledged.
    throw new DmError(status, `the records could not be written: ${errnoText(status)}`);
  }

  async preresume(): Promise<void> {
    const { clock, engine, deviceName } = this.#host;
    this.#isFresh = this.#volume === null;
    if (this.#plan.isNew) {
      this.#plan = { format: await makeVolume(this.#plan, this.#device, this.#host), isNew: false };
    }
    this.#volume ??= await Volume.open({
      name: `insitu_comp ${deviceName}`,
      format: this.#plan.format,
      device: this.#device,
      engine,
      clock,
      isWritethrough: this.#mode.kind === 'writethrough',
      writebackMs: this.#mode.kind === 'writeback' ? this.#mode.s * 1000 : 0,
      isReadOnly: this.#host.isReadOnly,
      log: (text) => this.#host.log(text),
    });
  }

  preresumeUndo(): void {
    // One that was there before may have what could not be committed yet.
    if (!this.#isFresh) return;
    this.#volume?.close();
    this.#volume = null;
  }

  resume(): void {
    this.#volume?.goOnAfterSuspend();
  }

  close(): Promise<void> {
    const count = this.#volume?.commits.changedCount ?? 0;
    if (count > 0) {
      const regions = count === 1 ? '1 region' : `${count} regions`;
      this.#host.log(`closed; the last changes of ${regions} could not be written and are lost`);
    }
    this.#volume?.close();
    this.#volume = null;
    return Promise.resolve();
  }
}

function tableWords(device: BlockDevice, mode: Mode): string {
  const word = mode.kind === 'writeback' ? `writeback ${mode.s}` : 'writethrough';
  return `${deviceWord(device)} ${word}`;
}

/** What either version takes, over a disk with these limits. */
function limitsOver(stacked: QueueLimits): QueueLimits {
  const maxIo = Math.floor(stacked.maxIoSectors / BLOCK_SECTORS) * BLOCK_SECTORS;
  return {
    ...stacked,
    logicalBlockBytes: BLOCK_BYTES,
    physicalBlockBytes: BLOCK_BYTES,
    ioMinBytes: BLOCK_BYTES,
    ioOptBytes: REGION_BYTES,
    maxIoSectors: Math.max(BLOCK_SECTORS, maxIo),
    maxDiscardSectors: RANGE_SECTORS,
    discardGranularityBytes: BLOCK_BYTES,
    maxWriteZeroesSectors: RANGE_SECTORS,
  };
}

function parseMode(args: readonly string[]): Mode {
  const [word, seconds] = args;
  if (word === 'writethrough' && args.length === 1) return { kind: 'writethrough' };
  if (word === 'writeback' && args.length === 2) {
    const s = Number(seconds);
    if (/^\d+$/.test(seconds ?? '') && s >= 1 && s <= 3600) return { kind: 'writeback', s };
    throw invalid(`Invalid writeback time: '${seconds}': expected 1 to 3600 seconds`);
  }
  throw invalid(`Invalid mode: '${args.join(' ')}': expected writethrough, or writeback <seconds>`);
}

/** What is on a device, or will be on a blank one. Writes nothing. Throws DmError. */
async function planOf(device: BlockDevice, host: TargetHost): Promise<Plan | Format1> {
  const found = await findFormat(device, host.engine.arena);
  if (found.what === 'other') throw invalid(`device ${device.name}: ${found.complaint}`);
  if (found.what === 'version 1') return found.format;
  if (found.what === 'version 2') return { format: found.format, isNew: false };
  if (host.isReadOnly)
    throw invalid(`device ${device.name} is not formatted: it begins with zeroes`);
  if (host.isRestored) throw gone(device);
  host.checkAlone(wholeOf(device));
  await checkUnknown(device, host.engine.arena);
  // The other records are looked at before they are written over.
  await checkNoRecords(device, host.engine.arena, CHUNK_BYTES);
  const random = (): number => host.random();
  return { format: planDevice(device, { codec: 'lz4', level: 0, random }), isNew: true };
}

/** Formats a device that was blank when its table was loaded. Throws DmError. */
async function makeVolume(
  { format }: Plan,
  device: BlockDevice,
  host: TargetHost,
): Promise<VolumeFormat> {
  const { arena } = host.engine;
  const found = await findFormat(device, arena);
  if (found.what === 'zeroes') {
    host.checkAlone(wholeOf(device));
    await checkUnknown(device, arena);
    await checkNoRecords(device, arena, Number.POSITIVE_INFINITY);
    await formatDevice(device, arena, format);
    return format;
  }
  // An attempt that failed at its end has formatted it.
  if (found.what === 'version 2' && isSameVolume(found.format, format)) return format;
  throw invalid(
    `device ${device.name}: was blank when the table was loaded, and is not any more: load the table again`,
  );
}

/** The refusal of a disk that is not there any more: another one in its place has nothing of it. */
function gone({ name }: BlockDevice): DmError {
  return invalid(
    `device ${name} is blank: it has zeroes where the superblock was; bring the disk back, or remove the ` +
      'device and create it anew, without what was there',
  );
}

function isSameVolume(a: VolumeFormat, b: VolumeFormat): boolean {
  return Buffer.compare(a.uuid, b.uuid) === 0;
}

function wholeOf(device: BlockDevice): DeviceRange {
  return { device, startSector: 0, lenSectors: device.lenSectors };
}

/** The grain of what is stored is that of the device's blocks, or a multiple. Throws DmError. */
function checkBlocks(device: BlockDevice, reference: string, grainBytes: number): void {
  const { logicalBlockBytes } = device.limits;
  if (grainBytes % logicalBlockBytes === 0) return;
  throw invalid(
    `device ${reference}: blocks of ${logicalBlockBytes} bytes, formatted for blocks of ${grainBytes}: ` +
      "'lamina compress format --force' makes it anew, empty; to keep what it has, copy it to a disk with such blocks",
  );
}

function checkLength(lenSectors: number, most: number): void {
  if (lenSectors <= most && lenSectors % BLOCK_SECTORS === 0) return;
  throw invalid(
    `Invalid length: ${lenSectors} sectors, expected a multiple of ${BLOCK_SECTORS} up to ${most}`,
  );
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [reference, ...rest] = args;
  if (reference === undefined || rest.length === 0) {
    throw invalid(
      `Invalid argument count: ${args.length}, expected <device> writethrough, or <device> writeback <seconds>`,
    );
  }
  const mode = parseMode(rest);
  const device = await host.openDevice(reference);
  host.claim(wholeOf(device), { role: 'disk', by: 'a compressed device' });
  const plan = await planOf(device, host);
  if ('dataBlocks' in plan) {
    checkBlocks(device, reference, 512);
    checkLength(host.lenSectors, plan.dataBlocks * BLOCK_SECTORS);
    return version1(plan, device, mode, host);
  }
  const { format } = plan;
  try {
    checkCodec(host.engine.arena.memory, format);
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    throw new DmError(error.status, `device ${reference}: superblock: ${error.message}`);
  }
  checkBlocks(device, reference, format.layout.grainSectors * 512);
  checkLength(host.lenSectors, format.layout.regions * REGION_SECTORS);
  return new InsituComp(plan, device, mode, host);
}

function version1(format: Format1, device: BlockDevice, mode: Mode, host: TargetHost): Target {
  const volume = new Volume1({
    name: `insitu_comp ${host.deviceName}`,
    format,
    device,
    engine: host.engine,
    clock: host.clock,
    isWritethrough: mode.kind === 'writethrough',
    writebackMs: mode.kind === 'writeback' ? mode.s * 1000 : 0,
    log: (text) => host.log(text),
  });
  return new InsituComp1(volume, device, tableWords(device, mode), limitsOver);
}

export default { name: 'insitu_comp', version: [2, 0, 0], create } satisfies TargetType;
