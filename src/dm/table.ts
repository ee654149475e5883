// A table: targets in order, covering a device from sector 0 to its end.

import { Status } from '../base/status.ts';
import { closeAll } from '../base/close-all.ts';
import { errorText, DmError, invalid } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { BlockDevice } from '../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits, stackLimits } from '../bio/limits.ts';
import type { DeviceNode } from './device-node.ts';
import type { Holdings } from './holdings.ts';
import type { Target, TargetType } from './target.ts';
import { hideKeys, hideKeysOf } from './hide-keys.ts';
import { joinArgs, type TableLine } from './table-text.ts';

/** A target in its place, with what the hot path asks of it worked out before. */
export interface TableEntry {
  readonly target: Target;
  /** Without its words: one of them may have been a key, and would stay in memory. */
  readonly line: Omit<TableLine, 'args'>;
  readonly startSector: number;
  /** First sector behind it. */
  readonly endSector: number;
  /** Reads and writes stop at multiples of this, counted from the start; 0 is no boundary. */
  boundarySectors: number;
  /** The same for discards and write-zeroes. */
  rangeBoundarySectors: number;
  /** The target says itself how far a bio may go over a boundary. */
  readonly fits: boolean;
  readonly flushesByMap: boolean;
  discardPieces: number;
  writeZeroesPieces: number;
  readonly hasEndIo: boolean;
}

/** Whose table it is: another device's, once the table has moved there. */
export interface TableOwner {
  node: DeviceNode;
}

export class Table {
  readonly owner: TableOwner;
  readonly entries: readonly TableEntry[];
  readonly lenSectors: number;
  readonly limits: QueueLimits;
  /** Of sectors and lengths: bits that are 0 in whole blocks. */
  readonly blockMask: number;
  /** Every lower device once, in table order: what a flush goes to. */
  readonly flushDevices: readonly BlockDevice[];
  /** Targets that get the flush themselves. */
  readonly ownFlushers: readonly TableEntry[];
  /** Not Ok: what stood here before was lost for want of a flush, and each flush has to say so. */
  flushFailure: Status = Status.Ok;
  readonly isReadOnly: boolean;
  readonly holdings: Holdings;

  constructor(
    owner: TableOwner,
    entries: readonly TableEntry[],
    isReadOnly: boolean,
    holdings: Holdings,
  ) {
    this.owner = owner;
    this.entries = entries;
    this.lenSectors = entries[entries.length - 1]?.endSector ?? 0;
    this.isReadOnly = isReadOnly;
    this.holdings = holdings;
    this.limits = tableLimits(entries);
    this.blockMask = this.limits.logicalBlockBytes / SECTOR_BYTES - 1;
    const devices = new Set<BlockDevice>();
    for (const entry of entries) {
      if (entry.flushesByMap) continue;
      for (const range of entry.target.devices()) devices.add(range.device);
    }
    this.flushDevices = [...devices];
    this.ownFlushers = entries.filter((e) => e.flushesByMap);
  }

  /** The entry that has `sector`, which is inside the table. */
  find(sector: number): TableEntry {
    const { entries } = this;
    let low = 0;
    let high = entries.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sector < (entries[middle] as TableEntry).endSector) high = middle;
      else low = middle + 1;
    }
    return entries[low] as TableEntry;
  }

  /** All lower devices, each once. */
  devices(): BlockDevice[] {
    const all = this.entries.flatMap((e) => e.target.devices().map((range) => range.device));
    return [...new Set(all)];
  }

  /** Takes over what targets say of themselves now; where a flush goes is settled at the load. */
  readTraits(): void {
    for (const entry of this.entries) {
      const traits = entry.target.traits ?? {};
      entry.boundarySectors = traits.boundarySectors ?? 0;
      entry.rangeBoundarySectors = traits.rangeBoundarySectors ?? 0;
      entry.discardPieces = traits.discardPieces ?? 1;
      entry.writeZeroesPieces = traits.writeZeroesPieces ?? 1;
    }
  }

  /** Brings up to date what the targets' status tells. */
  async prestatus(): Promise<void> {
    for (const entry of this.entries) await entry.target.prestatus?.();
  }

  /** Closes the targets, then what they used, whatever fails. Throws the first error. */
  async close(): Promise<void> {
    await closeEntries(this.entries, this.holdings);
  }
}

/** As `Table.close`, for a table that never came to be as well. */
export async function closeEntries(
  entries: readonly TableEntry[],
  holdings: Holdings,
): Promise<void> {
  const targets = entries.map(
    ({ target }) =>
      async () =>
        await target.close?.(),
  );
  await closeAll([...targets, async () => await holdings.close()]);
}

/** Makes one target; errors get the target's name and line in front. */
export async function makeEntry(
  type: TargetType,
  line: TableLine,
  create: () => Promise<Target>,
): Promise<TableEntry> {
  try {
    const target = await create();
    const traits = target.traits ?? {};
    const { startSector, lenSectors } = line;
    return {
      target,
      line: { startSector, lenSectors, type: line.type },
      startSector: line.startSector,
      endSector: line.startSector + line.lenSectors,
      boundarySectors: traits.boundarySectors ?? 0,
      rangeBoundarySectors: traits.rangeBoundarySectors ?? 0,
      fits: target.fit !== undefined,
      flushesByMap: traits.flush === 'map',
      discardPieces: traits.discardPieces ?? 1,
      writeZeroesPieces: traits.writeZeroesPieces ?? 1,
      hasEndIo: target.endIo !== undefined,
    };
  } catch (error) {
    const status = error instanceof DmError ? error.status : statusOfError(error);
    const words = `${line.startSector} ${line.lenSectors} ${type.name} ${joinArgs(line.args)}`;
    const shown = hideKeys(words);
    const reason = hideKeysOf(type.name, line.args, errorText(error));
    throw new DmError(status, `table: ${type.name}: ${reason} (in '${shown.trim()}')`, {
      cause: error,
    });
  }
}

function tableLimits(entries: readonly TableEntry[]): QueueLimits {
  let limits = DEFAULT_LIMITS;
  for (const entry of entries) {
    let stacked = DEFAULT_LIMITS;
    for (const range of entry.target.devices()) {
      stacked = stackLimits(stacked, range.device.limits);
      checkAlignment(entry, range.device, range.startSector);
    }
    if (entry.discardPieces === 0) stacked = { ...stacked, maxDiscardSectors: 0 };
    const own = entry.target.limits?.(stacked) ?? stacked;
    limits = stackLimits(limits, own);
  }
  checkBoundaries(entries, limits);
  return limits;
}

/** A range that begins inside a lower device's block could never be written whole. */
function checkAlignment(entry: TableEntry, device: BlockDevice, startSector: number): void {
  const block = device.limits.logicalBlockBytes / SECTOR_BYTES;
  if (startSector % block === 0) return;
  throw invalid(
    `table: ${entry.line.type}: start sector ${startSector} on ${device.name} is not a multiple of ` +
      `its logical block size of ${block * SECTOR_BYTES} bytes`,
  );
}

/** Targets must begin and end on the blocks of the whole device. */
function checkBoundaries(entries: readonly TableEntry[], limits: QueueLimits): void {
  const block = limits.logicalBlockBytes / SECTOR_BYTES;
  for (const entry of entries) {
    if (entry.startSector % block === 0 && entry.endSector % block === 0) continue;
    throw invalid(
      `table: ${entry.line.type}: sectors ${entry.startSector}..${entry.endSector} are not aligned ` +
        `to the logical block size of ${limits.logicalBlockBytes} bytes`,
    );
  }
}
