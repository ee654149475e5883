// The target contract: what one word of a table line has to do.
//
// A target maps bios synchronously. What would have to wait goes to a queue of the target's own
// (`MapResult.Submitted`) and continues there. A target touches the world only through its host.

import type { Clock } from '../base/clock.ts';
import { Status } from '../base/status.ts';
import type { Bio } from '../bio/bio.ts';
import type { BlockDevice, Extent } from '../bio/device.ts';
import type { QueueLimits } from '../bio/limits.ts';
import { endBio, submitBio } from '../bio/submit.ts';
import type { IoEngine } from '../io/engine.ts';
import type { ClaimUse } from './claims.ts';
import type { Lineage } from './lineage.ts';
import type { Shared, ShareKind } from './shares.ts';

export type MapResult = 0 | 1 | 2 | 3;

export const MapResult = {
  /** The target has it and will end it, or submit it, once. */
  Submitted: 0,
  /** `bio.device` and `bio.sector` are set; the core sends it on. */
  Remapped: 1,
  /** Not now: the device holds it and maps it again after the next resume. */
  Requeue: 2,
  /** The core ends it with an I/O error. */
  Kill: 3,
} as const;

/** What `endIo` makes of a bio that comes back. */
export type EndIoResult = 0 | 1 | 2;

export const EndIoResult = {
  /** It goes on up with `bio.status`, which the target may have changed. */
  Done: 0,
  /** The target keeps it and will submit or end it again. */
  Incomplete: 1,
  /** Map it again (at once, or after the resume if the device is suspended). */
  Requeue: 2,
} as const;

/** A part of a device that a target uses. */
export interface DeviceRange {
  readonly device: BlockDevice;
  readonly startSector: number;
  readonly lenSectors: number;
}

/**
 * What the core does for a target. Read when the table is loaded, at each resume, and when the
 * target calls `host.traitsChanged`; `flush` only when the table is loaded.
 */
export interface TargetTraits {
  /**
   * Reads and writes never cross a multiple of this many sectors, counted from the target's start,
   * unless `fit` lets them.
   */
  readonly boundarySectors?: number;
  /** Discards and write-zeroes never cross a multiple of this many sectors, likewise. */
  readonly rangeBoundarySectors?: number;
  /**
   * `devices` (the default): the core sends a flush to every device in `devices()`. `map`: the
   * target gets the flush in `map`, with `bio.lenBytes` 0.
   */
  readonly flush?: 'devices' | 'map';
  /**
   * How many bios a discard or a write-zeroes becomes, each given to `map` over the whole
   * range with `bio.targetWord` = 0, 1, ...; a target that finds nothing to do for one ends
   * it. Default 1; 0: the target cannot discard (NotSupported).
   */
  readonly discardPieces?: number;
  readonly writeZeroesPieces?: number;
}

export interface Target {
  /**
   * The hot path. `bio.sector` is relative to the target; the bio stays within the target, and
   * within its boundary or what `fit` has answered. No promise, no closure, no exception.
   */
  map(bio: Bio): MapResult;
  /**
   * Asked about a read or write that crosses the boundary, right before `map` gets it: how
   * many sectors from `bio.sector` on, at least 1 and at most `maxSectors`, one `map` takes.
   * What is left of the bio comes later. As hot as `map`.
   */
  fit?(bio: Bio, maxSectors: number): number;
  /** The end of a bio that `map` remapped. `bio` has the iterator it was mapped with. */
  endIo?(bio: Bio): EndIoResult;
  /**
   * The kernel's status line after `<start> <len> <type>`: INFO (`dmsetup status`) or TABLE
   * (`table`).
   */
  status(kind: 'info' | 'table'): string;
  /** Brings up to date what INFO tells, before it is asked; not with `dmsetup status --noflush`. */
  prestatus?(): Promise<void>;
  /** The TABLE line with keys in it, for a target whose `status` hides them. */
  tableWithKeys?(): string;
  devices(): readonly DeviceRange[];
  /**
   * The lower sectors behind a range of the target, a range for each stretch, and no others. For
   * a target that spreads its sectors over several lower ranges. Without it one lower range of the
   * target's length is taken to be the target sector by sector; otherwise all of `devices()` is
   * behind any sector. See claims.ts.
   */
  lowerRanges?(startSector: number, lenSectors: number): readonly DeviceRange[];
  /**
   * The sectors of the target are its own: who uses its lower devices beside it does not get at
   * them, because an owner of these devices gives out their space. See claims.ts.
   */
  readonly hasOwnSectors?: boolean;
  readonly traits?: TargetTraits;
  /** For a target that can tell what has changed since another one. */
  readonly lineage?: Lineage;
  /** May tighten or loosen what stacking the devices of `devices()` gave. */
  limits?(stacked: QueueLimits): QueueLimits;
  /**
   * Allocation from `sector` (relative to the target) on. As BlockDevice.extents. Without it
   * everything counts as allocated.
   */
  extents?(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]>;
  /**
   * `dmsetup message`; answers text for the caller, '' for none. Throws DmError. When `signal` is aborted, nobody
   * waits for the answer any more: a message that only tells may end early.
   */
  message?(argv: readonly string[], signal?: AbortSignal): Promise<string>;
  /**
   * Suspend and resume, in this order: presuspend, (I/O drained, lower devices flushed),
   * postsuspend; preresume, resume. With `requeues`, what waits here for something that may
   * not come goes back to the device. May throw: the suspend does not take place.
   */
  presuspend?(requeues: boolean): Promise<void>;
  /** What I/O that has not ended waits for, if the target knows: for an operator whose suspend waits for it. */
  waitsFor?(): string;
  /**
   * The suspend that `presuspend` has heard of does not take place; also when `presuspend`
   * itself failed.
   */
  presuspendUndo?(): void;
  /**
   * Nothing is in flight. Throws when something that was written cannot be made durable,
   * unless `noflush` says that nobody asked for it; the device is suspended all the same, and
   * says that it failed. Called again, without a resume in between, when a suspended device is
   * to be flushed after all.
   */
  postsuspend?(noflush: boolean): Promise<void>;
  /** May throw: the resume does not take place. */
  preresume?(): Promise<void>;
  /**
   * The resume that `preresume` has heard of does not take place; also when `preresume` itself
   * failed.
   */
  preresumeUndo?(): void;
  resume?(): void;
  /** Lets everything go, except devices opened through the host: those the host closes. */
  close?(): Promise<void>;
}

/** What a target may use. One host a target instance. */
export interface TargetHost {
  /** The mapped device whose table the target is in. */
  readonly device: BlockDevice;
  /** The mapped device's name. */
  readonly deviceName: string;
  readonly isReadOnly: boolean;
  /** Whether the device was there before a restart: what it stands on is to be found as it was, and never made anew. */
  readonly isRestored: boolean;
  /** Clones that the mapped device may have out at a time: what a target keeps of its own is no more numerous. */
  readonly clonesMax: number;
  /** This target's place in the table. */
  readonly startSector: number;
  readonly lenSectors: number;
  readonly engine: IoEngine;
  readonly clock: Clock;
  /** Seeded in simulations. Uniform in 0 .. 1. */
  random(): number;
  /**
   * Opens what a table names: a mapped device's name, a path, a URI. Held until the target is
   * closed. With `range` it is checked that the device is large enough. Throws DmError in the
   * kernel's words.
   */
  openDevice(
    reference: string,
    range?: { readonly startSector: number; readonly lenSectors: number },
  ): Promise<BlockDevice>;
  /**
   * The object that all tables share which name this kind and this device; opened when there
   * is none. Held until the table is closed, also when the rest of the table cannot be made.
   * The table is one of the object's providers: see shares.ts.
   */
  share<T extends Shared>(kind: ShareKind<T>, key: BlockDevice, open: () => Promise<T>): Promise<T>;
  /**
   * The object of this kind which the live table of `device` provides; undefined when `device`
   * is no mapped device or its live table provides none. Held as by `share`, but this table is
   * a user only.
   */
  findShared<T extends Shared>(kind: ShareKind<T>, device: BlockDevice): T | undefined;
  /**
   * No other mapped device may claim sectors of this range, by whatever way, and no other range
   * that this table claims may have any. Held until the table is closed, also when the rest of
   * the table cannot be made. Throws DmError. To be called before anything is written.
   */
  claim(range: DeviceRange, use: ClaimUse): void;
  /**
   * Throws DmError when the live table of another mapped device has sectors of this range, unless
   * this table has them through it. To be called before something new is made on the range.
   */
  checkAlone(range: DeviceRange): void;
  /** Something that `wait` waits for has happened. */
  event(): void;
  /**
   * One line for the operator: what has become worse by itself. The core says whose line it is.
   * Never about single I/O.
   */
  log(text: string): void;
  /**
   * Has `traits` read again, for bios that come from now on. Without effect before the first
   * resume.
   */
  traitsChanged(): void;
}

/** The default export of `src/targets/<family>/<name>.target.ts`. */
export interface TargetType {
  /** The table word. */
  readonly name: string;
  /** As `dmsetup targets` prints it; the kernel version whose behaviour this is. */
  readonly version: readonly [number, number, number];
  /**
   * Makes an instance from the words after the type. Throws DmError with the kernel's text
   * (`Invalid argument count`), prefixed by nobody: the core adds device and line.
   */
  create(args: readonly string[], host: TargetHost): Promise<Target>;
}

/** Sends on a bio that `map` had kept, as `Remapped` would have: `endIo` sees its target word. */
export function submitMapped(bio: Bio): void {
  const frame = bio.topFrame;
  if (frame !== null) frame.word = bio.targetWord;
  submitBio(bio);
}

/**
 * Ends a bio that `map` had kept, not for good: `endIo` sees its target word and may requeue it.
 */
export function returnMapped(bio: Bio): void {
  const frame = bio.topFrame;
  if (frame !== null) frame.word = bio.targetWord;
  endBio(bio, Status.Ok);
}

export function failMap(bio: Bio, status: Status): MapResult {
  bio.fail(status);
  return MapResult.Kill;
}
