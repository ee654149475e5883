// What crash sweeps do to insitu_comp: partial overwrites of compressed extents above all, in volumes that are full,
// with the spill area in use.

import { Prng } from '../base/prng.ts';
import { BioFlag } from '../bio/bio.ts';
import { CODEC_NAMES, type CodecName } from '../codec/codec.ts';
import type { SweepOp, SweepSubject } from './crash-sweep.ts';
import { insituImage } from './insitu-desk.ts';

const REGION_SECTORS = 256;
const REGION_BLOCKS = 32;

/** What is in the volume before the sweep begins. */
export type SweepFill = 'compressed' | 'full' | 'mixed' | 'empty';
export const SWEEP_FILLS: readonly SweepFill[] = ['compressed', 'full', 'mixed', 'empty'];

export interface InsituSweep {
  readonly fill: SweepFill;
  readonly codec: CodecName;
  readonly mode: string;
  readonly blockBytes: 512 | 4096;
  readonly regions: number;
}

/** For a seed: every kind of content, codec and mode comes by turns. */
export function drawInsituSweep(seed: number): InsituSweep {
  const rng = new Prng(seed ^ 0x53);
  return {
    fill: SWEEP_FILLS[seed % SWEEP_FILLS.length] as SweepFill,
    codec: CODEC_NAMES[Math.floor(seed / 4) % CODEC_NAMES.length] as CodecName,
    mode: rng.pick(['writethrough', 'writeback 1', 'writeback 30']),
    blockBytes: rng.chance(0.25) ? 4096 : 512,
    regions: rng.between(1, 3),
  };
}

/** A subject for `sweepCrashes`; `count` operations are swept. */
export async function insituSubject(
  sweep: InsituSweep,
  seed: number,
  count: number,
  judge: SweepSubject['judge'],
): Promise<SweepSubject> {
  const { fill, codec, mode, blockBytes, regions } = sweep;
  const rng = new Prng(seed);
  const image = await insituImage(regions, { codec, blockBytes, rng });
  const draw = (n: number): SweepOp[] =>
    Array.from({ length: n }, () => drawOp(rng, regions, fill === 'full'));
  return {
    name: `${fill}, ${codec}, ${mode}, blocks of ${blockBytes}, ${regions} regions`,
    image,
    limits: { logicalBlockBytes: blockBytes },
    table: `0 ${regions * REGION_SECTORS} insitu_comp test:a ${mode}`,
    before: drawFill(rng, fill, regions),
    ops: draw(count),
    opsAfter: draw(Math.ceil(count / 4)),
    blockSectors: 8,
    judge,
  };
}

function drawFill(rng: Prng, fill: SweepFill, regions: number): SweepOp[] {
  if (fill === 'empty') return [];
  const ops: SweepOp[] = [];
  for (let r = 0; r < regions; r++) {
    ops.push(writeOp(r * REGION_BLOCKS, REGION_BLOCKS, fill === 'full'));
  }
  // Extents of which blocks belong to others by now.
  const pieces = fill === 'mixed' ? 8 : 0;
  for (let n = 0; n < pieces; n++) ops.push(drawPart(rng, regions, rng.chance(0.3)));
  return ops;
}

function drawOp(rng: Prng, regions: number, isFull: boolean): SweepOp {
  const isRandom = rng.chance(isFull ? 0.9 : 0.3);
  const at = rng.unit();
  if (at < 0.08) return { ...FLUSH };
  if (at < 0.12) return { ...drawPart(rng, regions, false), kind: 'zero' };
  if (at < 0.16) return { ...drawPart(rng, regions, false), kind: 'discard' };
  // A whole home again: beside what is there is no room but in the spill area.
  const isWhole = rng.chance(isFull ? 0.5 : 0.12);
  const op = isWhole
    ? writeOp(rng.below(regions) * REGION_BLOCKS, REGION_BLOCKS, isRandom)
    : drawPart(rng, regions, isRandom);
  return rng.chance(0.15) ? { ...op, flags: BioFlag.Fua } : op;
}

/** A few blocks: in the middle of what was written as one, at its edge, or over the end of a region. */
function drawPart(rng: Prng, regions: number, isRandom: boolean): SweepOp {
  const blocks = rng.pick([1, 1, 2, 3, 5, 9]);
  const region = rng.below(regions) * REGION_BLOCKS;
  const total = regions * REGION_BLOCKS;
  const first = rng.pick([
    region + rng.below(REGION_BLOCKS),
    region + rng.below(REGION_BLOCKS),
    region,
    region + REGION_BLOCKS - blocks,
    Math.max(0, region - 1),
  ]);
  return writeOp(Math.min(first, total - blocks), blocks, isRandom);
}

function writeOp(block: number, blocks: number, isRandom: boolean): SweepOp {
  const place = { sector: block * 8, lenSectors: blocks * 8 };
  return { kind: 'write', ...place, flags: 0, segments: [], isRandom };
}

const FLUSH: SweepOp = {
  kind: 'flush',
  sector: 0,
  lenSectors: 0,
  flags: 0,
  segments: [],
  isRandom: false,
};
