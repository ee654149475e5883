// Who has which sectors for itself alone: what two owners would destroy for each other, such as the data and the
// metadata of thin pools.
//
// A claim is for a range of whatever device a table names. Claims are compared at the bottom: each range is followed
// through the live tables of mapped devices down to backends. A target that spreads its sectors says which lower ones are
// behind a range; one with one lower range of its own length maps sector by sector; of any other target all that it uses
// counts. Where a target gives out sectors of its own (a thin
// device), the way down ends: what lies below belongs to somebody who shares it out.

import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { Table } from './table.ts';
import type { DeviceRange } from './target.ts';

/** What a claimed range is for, in messages: `data device` of `a pool`. */
export interface ClaimUse {
  readonly role: string;
  readonly by: string;
  /** What has the range in truth: tables through which it has it, one after the other, may claim the same. */
  readonly holder?: object;
}

/** How a whole device is held open by its name, as an export has it. */
export interface OpenOptions {
  /** Who, in messages. */
  readonly by: string;
  readonly isReadOnly: boolean;
  /** Nobody else may have its sectors meanwhile, but for who only reads while this one does. */
  readonly isAlone: boolean;
}

interface Opening extends OpenOptions {
  readonly device: BlockDevice;
}

export interface Claim {
  /** Nothing is written by who has it. */
  readonly isReadOnly: boolean;
  /** The mapped device for which the range is claimed. Tables of one owner may claim the same. */
  readonly owner: { readonly node: ClaimNode };
  /** One for all claims of a table: within a table no two may overlap. */
  readonly table: object;
  readonly range: DeviceRange;
  readonly use: ClaimUse;
}

/** A mapped device. */
export interface ClaimNode {
  readonly name: string;
  readonly device: BlockDevice;
}

export class Claims {
  readonly #claims = new Set<Claim>();
  readonly #openings = new Set<Opening>();
  readonly #liveTable: (device: BlockDevice) => Table | null;

  /** `liveTable` is null for whatever is no mapped device, or has no table. */
  constructor(liveTable: (device: BlockDevice) => Table | null) {
    this.#liveTable = liveTable;
  }

  get size(): number {
    return this.#claims.size;
  }

  /**
   * The claim holds until it is closed. Throws DmError when sectors of the range are claimed
   * already: EBUSY for another owner's, EINVAL for the same table's.
   */
  add(claim: Claim): { close(): Promise<void> } {
    const wanted = this.#bottomOf(claim.range);
    for (const other of this.#claims) {
      const isSameTable = other.table === claim.table;
      const { holder } = claim.use;
      const isSameHolder = holder !== undefined && other.use.holder === holder;
      if (!isSameTable && (other.owner.node === claim.owner.node || isSameHolder)) continue;
      const both = overlapOf(wanted, this.#bottomOf(other.range));
      if (both !== undefined)
        throw isSameTable ? twice(claim, other, both) : busy(claim, other, both);
    }
    for (const other of this.#openings) {
      if (!other.isAlone || (other.isReadOnly && claim.isReadOnly)) continue;
      const both = overlapOf(wanted, this.#bottomOf(wholeOf(other.device)));
      if (both === undefined) continue;
      const why = shared(claim.range.device, other.device, both, `${other.by} has open`);
      throw new DmError(Status.Busy, `${claim.use.role} already in use: ${why}`);
    }
    this.#claims.add(claim);
    return {
      close: () => {
        this.#claims.delete(claim);
        return Promise.resolve();
      },
    };
  }

  /**
   * Throws DmError (EBUSY) when the live table of one of `nodes` names sectors of the range. A
   * device that names them through the owner does not count, nor one through which the owner has
   * the range.
   */
  checkAlone(owner: ClaimNode, range: DeviceRange, nodes: Iterable<ClaimNode>): void {
    const wanted = this.#bottomOf(range);
    const below = this.#downFrom(range.device);
    for (const node of nodes) {
      if (node === owner || below.has(node.device)) continue;
      const entries = this.#liveTable(node.device)?.entries ?? [];
      for (const theirs of entries.flatMap(({ target }) => target.devices())) {
        if (this.#downFrom(theirs.device).has(owner.device)) continue;
        const both = overlapOf(wanted, this.#bottomOf(theirs));
        if (both === undefined) continue;
        const what = `device ${range.device.name}: ${node.name} is live there`;
        throw new DmError(Status.Busy, `${what}: it has ${sectorsOf(both)}`);
      }
    }
  }

  /** A device and all that its live table uses, at any depth. */
  #downFrom(device: BlockDevice): Set<BlockDevice> {
    const found = new Set([device]);
    // What is added meanwhile comes up as well.
    for (const one of found) {
      for (const lower of this.#liveTable(one)?.devices() ?? []) found.add(lower);
    }
    return found;
  }

  /**
   * The device is held open until this is closed. Throws DmError when somebody else has sectors of
   * it, and one of the two wants to be alone with them.
   */
  open(opening: Opening): { close(): void } {
    const { device, isReadOnly, isAlone } = opening;
    const wanted = this.#bottomOf(wholeOf(device));
    for (const other of this.#openings) {
      if (!(isAlone || other.isAlone) || (isReadOnly && other.isReadOnly)) continue;
      // Who looks at a header of the same device does not keep others from it.
      if (!other.isAlone && other.isReadOnly && other.device === device) continue;
      const both = overlapOf(wanted, this.#bottomOf(wholeOf(other.device)));
      if (both !== undefined) throw isOpen(device, other.device, both, `${other.by} has open`);
    }
    for (const other of isAlone ? this.#claims : []) {
      if (isReadOnly && other.isReadOnly) continue;
      const both = overlapOf(wanted, this.#bottomOf(other.range));
      const whose = `is ${other.owner.node.name}'s ${other.use.role}`;
      if (both !== undefined) throw isOpen(device, other.range.device, both, whose);
    }
    this.#openings.add(opening);
    return {
      close: () => {
        this.#openings.delete(opening);
      },
    };
  }

  /** Sectors at the bottom that two devices have in common. */
  common(a: DeviceRange, b: DeviceRange): DeviceRange | undefined {
    return overlapOf(this.#bottomOf(a), this.#bottomOf(b));
  }

  /** The ranges of backends, or of targets with sectors of their own, that `range` may reach. */
  #bottomOf(range: DeviceRange): DeviceRange[] {
    const table = this.#liveTable(range.device);
    if (table === null) return [range];
    const end = range.startSector + range.lenSectors;
    const bottom: DeviceRange[] = [];
    for (const { target, startSector, endSector } of table.entries) {
      const from = Math.max(startSector, range.startSector);
      const lenSectors = Math.min(endSector, end) - from;
      if (lenSectors <= 0) continue;
      const lower = target.devices();
      const [only] = lower;
      if (target.hasOwnSectors === true) {
        bottom.push({ device: range.device, startSector: from, lenSectors });
      } else if (target.lowerRanges !== undefined) {
        const behind = target.lowerRanges(from - startSector, lenSectors);
        for (const one of behind) bottom.push(...this.#bottomOf(one));
      } else if (lower.length === 1 && only?.lenSectors === endSector - startSector) {
        const at = only.startSector + from - startSector;
        bottom.push(...this.#bottomOf({ device: only.device, startSector: at, lenSectors }));
      } else {
        for (const one of lower) bottom.push(...this.#bottomOf(one));
      }
    }
    return bottom;
  }
}

function overlapOf(
  ours: readonly DeviceRange[],
  theirs: readonly DeviceRange[],
): DeviceRange | undefined {
  for (const a of ours) {
    for (const b of theirs) {
      if (a.device !== b.device) continue;
      const startSector = Math.max(a.startSector, b.startSector);
      const end = Math.min(a.startSector + a.lenSectors, b.startSector + b.lenSectors);
      if (startSector < end)
        return { device: a.device, startSector, lenSectors: end - startSector };
    }
  }
  return undefined;
}

function wholeOf(device: BlockDevice): DeviceRange {
  return { device, startSector: 0, lenSectors: device.lenSectors };
}

/** The error of a device whose sectors another one has that is in use. */
export function isOpen(
  mine: BlockDevice,
  theirs: BlockDevice,
  both: DeviceRange,
  whose: string,
): DmError {
  return new DmError(
    Status.Busy,
    `device ${mine.name}: is in use: ${shared(mine, theirs, both, whose)}`,
  );
}

function shared(mine: BlockDevice, theirs: BlockDevice, both: DeviceRange, whose: string): string {
  return mine === theirs
    ? `${mine.name}, which ${whose}`
    : `${mine.name} has ${sectorsOf(both)}, and so has ${theirs.name}, which ${whose}`;
}

function sectorsOf({ device, startSector, lenSectors }: DeviceRange): string {
  return `sectors ${startSector}..${startSector + lenSectors} of ${device.name}`;
}

function twice(claim: Claim, other: Claim, both: DeviceRange): DmError {
  const one = `${other.use.role} ${other.range.device.name}`;
  const two = `${claim.use.role} ${claim.range.device.name}`;
  return invalid(`${one} and ${two} must not overlap: both have ${sectorsOf(both)}`);
}

function busy(claim: Claim, other: Claim, both: DeviceRange): DmError {
  const [mine, theirs] = [claim.range.device, other.range.device];
  const whose = `${other.owner.node.name}'s ${other.use.role}`;
  const why =
    mine === theirs
      ? `${mine.name} is ${whose}`
      : `${mine.name} has ${sectorsOf(both)}, and so has ${whose} ${theirs.name}`;
  return new DmError(Status.Busy, `${claim.use.role} already in use by ${other.use.by}: ${why}`);
}
