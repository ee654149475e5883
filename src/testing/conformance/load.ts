// A load: operations drawn from a seed, sent with several in flight, checked against a version model. The
// list is plain data, so a failing one can be made smaller and run again.

import { statusName, Status } from '../../base/status.ts';
import type { Prng } from '../../base/prng.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { BioFlag } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { DriveOptions } from '../bio-driver.ts';
import { type ModelWrite, VersionModel } from '../version-model.ts';
import { fail, type Rig } from './rig.ts';

export type LoadKind =
  | 'read'
  | 'write'
  | 'flush'
  | 'discard'
  | 'zero'
  | 'extents'
  | 'suspend'
  | 'reload';

export interface LoadOp {
  readonly kind: LoadKind;
  readonly sector: number;
  readonly lenSectors: number;
  /** Bits of BioFlag. */
  readonly flags: number;
  /** Bytes of each segment of the buffer. */
  readonly segments: readonly number[];
}

/** How often each kind is drawn; what is not named is not drawn. */
export type Mix = Readonly<Partial<Record<LoadKind, number>>>;

export interface Geometry {
  readonly lenSectors: number;
  readonly blockSectors: number;
}

export function geometryOf(device: BlockDevice): Geometry {
  return {
    lenSectors: device.lenSectors,
    blockSectors: device.limits.logicalBlockBytes / SECTOR_BYTES,
  };
}

export interface DrawOptions {
  readonly count: number;
  readonly mix: Mix;
  /** Longest operation, sectors; 128 if not given. */
  readonly maxSectors?: number;
  /** All in the first so many sectors, so that operations meet. */
  readonly withinSectors?: number;
  /** Buffers in one piece. */
  readonly isPlain?: boolean;
}

export function drawLoad(rng: Prng, geometry: Geometry, options: DrawOptions): LoadOp[] {
  const kinds = Object.entries(options.mix) as [LoadKind, number][];
  const total = kinds.reduce((sum, [, weight]) => sum + weight, 0);
  const draw = (): LoadKind => {
    let at = rng.unit() * total;
    for (const [kind, weight] of kinds) {
      at -= weight;
      if (at < 0) return kind;
    }
    return (kinds[0] as [LoadKind, number])[0];
  };
  return Array.from({ length: options.count }, () => drawOp(rng, geometry, options, draw()));
}

function drawOp(rng: Prng, geometry: Geometry, options: DrawOptions, kind: LoadKind): LoadOp {
  const block = geometry.blockSectors;
  const within = Math.min(geometry.lenSectors, options.withinSectors ?? geometry.lenSectors);
  const blocks = Math.max(1, Math.floor(within / block));
  const maxBlocks = Math.max(1, Math.min(blocks, Math.floor((options.maxSectors ?? 128) / block)));
  // Short ones are more interesting, and long ones too.
  const lenBlocks = rng.chance(0.5)
    ? rng.between(1, Math.min(8, maxBlocks))
    : rng.between(1, maxBlocks);
  const isAtEdge = rng.chance(0.1);
  const from = isAtEdge ? rng.pick([0, blocks - lenBlocks]) : rng.below(blocks - lenBlocks + 1);
  const lenSectors = lenBlocks * block;
  return {
    kind,
    sector: from * block,
    lenSectors,
    flags: drawFlags(rng, kind),
    segments: options.isPlain === true ? [] : drawSegments(rng, lenSectors * SECTOR_BYTES),
  };
}

function drawFlags(rng: Prng, kind: LoadKind): number {
  if (kind === 'write') {
    return rng.chance(0.15) ? BioFlag.Fua : rng.chance(0.1) ? BioFlag.Preflush : 0;
  }
  if (kind === 'zero') {
    return rng.pick([0, 0, BioFlag.Fua, BioFlag.NoUnmap, BioFlag.FastOnly]);
  }
  return 0;
}

/** Cuts anywhere, not only between sectors; sometimes a vector longer than the bio. */
function drawSegments(rng: Prng, lenBytes: number): number[] {
  const cuts = new Set<number>();
  for (let n = rng.pick([0, 0, 1, 2, 5]); n > 0; n--) {
    const cut = rng.chance(0.5) ? rng.below(lenBytes) : rng.below(lenBytes / 512) * 512;
    if (cut > 0) cuts.add(cut);
  }
  const ends = [...cuts].sort((a, b) => a - b);
  ends.push(lenBytes);
  const segments = ends.map((end, i) => end - (ends[i - 1] ?? 0));
  if (rng.chance(0.1)) segments.push(rng.between(1, 1024));
  return segments;
}

/** `write 8+16 fua`, for messages. */
export function describeOp(op: LoadOp): string {
  const flags = Object.entries(BioFlag)
    .filter(([, bit]) => (op.flags & bit) !== 0)
    .map(([name]) => ` ${name.toLowerCase()}`)
    .join('');
  const segments = op.segments.length > 1 ? ` [${op.segments.join(',')}]` : '';
  const place = ['flush', 'suspend', 'reload'].includes(op.kind)
    ? ''
    : ` ${op.sector}+${op.lenSectors}`;
  return `${op.kind}${place}${flags}${segments}`;
}

export interface LoadOptions {
  /** Operations in flight at a time. */
  readonly depth: number;
  /** Errors may happen; what an operation that failed has done is then unknown. */
  readonly mayFail?: boolean;
}

/** Runs operations on a rig, against a model of what the device holds. */
export class Load {
  readonly model: VersionModel;
  readonly rig: Rig;
  /** After a power cut: what ends now tells nothing. */
  isCut = false;
  ended = 0;
  failed = 0;
  /** Called after each operation. */
  onEnded: () => void = () => {};
  readonly #options: LoadOptions;

  constructor(rig: Rig, options: LoadOptions, model?: VersionModel) {
    this.rig = rig;
    this.#options = options;
    this.model = model ?? new VersionModel(rig.device.lenSectors);
    this.model.mayTear = rig.lab === null;
  }

  /** Resolves when all have ended. Throws CheckFailure. */
  async run(ops: readonly LoadOp[]): Promise<void> {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < ops.length && !this.isCut) {
        const op = ops[next++] as LoadOp;
        try {
          await this.one(op);
        } catch (error) {
          // The others send nothing more.
          next = ops.length;
          throw error;
        }
        this.ended++;
        this.onEnded();
      }
    };
    const lanes = Array.from({ length: this.#options.depth }, lane);
    await this.rig.settle(Promise.all(lanes));
  }

  /** The whole device is as the model says. */
  async checkAll(): Promise<void> {
    const { lenSectors } = this.rig.device;
    const step = 1024;
    for (let sector = 0; sector < lenSectors; sector += step) {
      const len = Math.min(step, lenSectors - sector);
      await this.rig.settle(
        this.one({ kind: 'read', sector, lenSectors: len, flags: 0, segments: [] }),
      );
    }
  }

  async one(op: LoadOp): Promise<void> {
    const { driver } = this.rig;
    const offBytes = op.sector * SECTOR_BYTES;
    const lenBytes = op.lenSectors * SECTOR_BYTES;
    const options: DriveOptions = {
      flags: op.flags,
      ...(op.segments.length > 0 ? { segments: op.segments } : {}),
    };
    switch (op.kind) {
      case 'read': {
        const sent = this.model.sendRead(op.sector, op.lenSectors);
        const result = await driver.tryRead(offBytes, lenBytes, options);
        if (this.isCut) return;
        if (typeof result === 'number') {
          this.model.readFailed(sent);
          this.#ends(op, result);
        } else this.#mustBe(op, this.model.checkRead(sent, result));
        return;
      }
      case 'write': {
        // A flush of its own before the data: it covers what had completed by now.
        const flush = (op.flags & BioFlag.Preflush) !== 0 ? this.model.sendFlush() : null;
        const sent = this.model.sendWrite(op.sector, op.lenSectors);
        const data = VersionModel.data(sent.number, op.sector, op.lenSectors);
        const status = await driver.write(offBytes, data, options);
        if (flush !== null && status === Status.Ok && !this.isCut) this.model.flushDone(flush);
        this.#wrote(op, sent, status);
        return;
      }
      case 'zero': {
        const sent = this.model.sendZeroes(op.sector, op.lenSectors);
        const status = await driver.zero(offBytes, lenBytes, { flags: op.flags });
        const mayRefuse = (op.flags & BioFlag.FastOnly) !== 0;
        // A stack may have done a part of it before another part refused.
        if (status === Status.NotSupported && mayRefuse) this.model.writeUnsure(sent);
        else this.#wrote(op, sent, status);
        return;
      }
      case 'discard': {
        const sent = this.model.sendZeroes(op.sector, op.lenSectors);
        const status = await driver.discard(offBytes, lenBytes);
        if (this.isCut) return;
        const cannot = driver.device.limits.maxDiscardSectors === 0;
        if (status === Status.NotSupported && cannot) this.model.writeUndone(sent);
        else {
          this.model.writeUnsure(sent);
          if (status !== Status.NotSupported) this.#ends(op, status);
        }
        return;
      }
      case 'flush': {
        const sent = this.model.sendFlush();
        const status = await driver.flush();
        if (this.isCut) return;
        if (status === Status.Ok) this.model.flushDone(sent);
        this.#ends(op, status);
        return;
      }
      case 'extents':
        await this.#extents(op);
        return;
      default:
        await this.rig.control(op.kind);
    }
  }

  /** Asks until all of the range is told, as often as it takes. */
  async #extents(op: LoadOp): Promise<void> {
    const { device } = this.rig;
    const end = op.sector + op.lenSectors;
    for (let at = op.sector; at < end; ) {
      const left = end - at;
      // Often one, as NBD's NBD_CMD_FLAG_REQ_ONE asks for.
      const max = (at + op.sector + left) % 3 === 0 ? 1 : (left % 7) + 1;
      const sent = this.model.sendRead(at, left);
      const found = await device.extents(at, left, max);
      if (this.isCut) return;
      const isEmpty: boolean[] = [];
      for (const { lenSectors, isHole, isZero } of found) {
        const isRight = Number.isInteger(lenSectors) && lenSectors > 0;
        if (!isRight || isEmpty.length + lenSectors > left) {
          fail(`${describeOp(op)}: an extent of ${lenSectors} sectors at ${at + isEmpty.length}`);
        }
        for (let i = 0; i < lenSectors; i++) isEmpty.push(isHole || isZero);
      }
      if (found.length === 0) fail(`${describeOp(op)}: no extent at sector ${at}`);
      if (found.length > max) fail(`${describeOp(op)}: ${found.length} extents for ${max}`);
      this.#mustBe(op, this.model.checkEmpty(sent, isEmpty));
      at += isEmpty.length;
    }
  }

  #wrote(op: LoadOp, sent: ModelWrite, status: Status): void {
    if (this.isCut) return;
    if (status === Status.Ok) this.model.writeDone(sent, (op.flags & BioFlag.Fua) !== 0);
    else this.model.writeUnsure(sent);
    this.#ends(op, status);
  }

  #ends(op: LoadOp, status: Status): void {
    if (status === Status.Ok) return;
    this.failed++;
    if (this.#options.mayFail === true) return;
    fail(`${describeOp(op)}: ended with ${statusName(status)}`);
  }

  #mustBe(op: LoadOp, wrong: string | undefined): void {
    if (wrong !== undefined) fail(`${describeOp(op)}: ${wrong}`);
  }
}
