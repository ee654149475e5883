// Writes and zeroes that do not cover whole blocks: the blocks at the edges are read, changed and
// written back while nobody else writes to the device. A slow path.

import { assert } from '../../base/assert.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { Bio, BioFlag, type BioOwner, Op } from '../../bio/bio.ts';
import type { IoContext } from '../../bio/context.ts';
import { submitBio } from '../../bio/submit.ts';
import { BioVec, NO_VEC } from '../../bio/vec.ts';
import type { Export } from '../../exports/export.ts';
import { GATE_BLOCK_BYTES, type GateWaiter, type WriteGate } from '../../exports/write-gate.ts';
import { type Arena, NONE } from '../../io/arena.ts';

export interface PartialWrite {
  readonly export: Export;
  readonly ctx: IoContext;
  readonly arena: Arena;
  readonly offBytes: number;
  readonly lenBytes: number;
  /** Where the payload is; NONE writes zeroes. */
  readonly mem: number;
  /** Bio flags for everything written. */
  readonly flags: number;
}

/** Does it; the first error, or Ok. */
export async function writePartial(write: PartialWrite): Promise<Status> {
  const { gate } = write.export;
  await enterExclusive(gate);
  try {
    return await writeParts(write);
  } finally {
    gate.leave();
  }
}

async function writeParts(write: PartialWrite): Promise<Status> {
  const block = write.export.blockBytes;
  const end = write.offBytes + write.lenBytes;
  const firstWhole = Math.ceil(write.offBytes / block) * block;
  const lastWhole = Math.floor(end / block) * block;
  // The middle goes first: a fast-only request that must fail has then changed nothing.
  if (lastWhole > firstWhole) {
    const status = await writeWhole(write, firstWhole, lastWhole - firstWhole);
    if (status !== Status.Ok) return status;
  }
  if (write.offBytes < firstWhole) {
    const status = await mergeBlock(write, firstWhole - block);
    if (status !== Status.Ok || end <= firstWhole) return status;
  }
  return end > lastWhole ? mergeBlock(write, lastWhole) : Status.Ok;
}

async function writeWhole(write: PartialWrite, offBytes: number, len: number): Promise<Status> {
  if (write.mem === NONE) return await doBio(write, Op.WriteZeroes, offBytes, len, NO_VEC);
  const vec = new BioVec([write.mem + (offBytes - write.offBytes)], [len], write);
  return await doBio(write, Op.Write, offBytes, len, vec);
}

/** Reads the block at `blockBytes`, lays the payload's part over it, writes it back. */
async function mergeBlock(write: PartialWrite, blockOff: number): Promise<Status> {
  const { arena } = write;
  const size = write.export.blockBytes;
  assert(size <= GATE_BLOCK_BYTES, `nbd partial write: a block of ${size} bytes`);
  // The gate's own, because whoever waits at the gate may hold all other memory.
  const mem = write.export.gate.blockMem;
  const vec = new BioVec([mem], [size], write);
  const read = await doBio(write, Op.Read, blockOff, size, vec);
  if (read !== Status.Ok) return read;
  const from = Math.max(write.offBytes, blockOff);
  const to = Math.min(write.offBytes + write.lenBytes, blockOff + size);
  const at = mem + (from - blockOff);
  if (write.mem === NONE) arena.u8.fill(0, at, at + (to - from));
  else {
    const source = write.mem + (from - write.offBytes);
    arena.u8.copyWithin(at, source, source + (to - from));
  }
  return await doBio(write, Op.Write, blockOff, size, vec);
}

function enterExclusive(gate: WriteGate): Promise<void> {
  return new Promise((resolve) => {
    const waiter: GateWaiter = { gateEntered: () => resolve() };
    if (gate.enter(waiter, true)) resolve();
  });
}

function doBio(
  write: PartialWrite,
  op: Op,
  offBytes: number,
  lenBytes: number,
  vec: BioVec,
): Promise<Status> {
  return new Promise((resolve) => {
    const owner: BioOwner = { bioEnd: (bio) => resolve(bio.status) };
    const bio = new Bio();
    const { device } = write.export;
    bio.init(op, device, offBytes / SECTOR_BYTES, lenBytes, vec, write.ctx, owner);
    bio.flags =
      op === Op.Write ? write.flags & BioFlag.Fua : op === Op.WriteZeroes ? write.flags : 0;
    submitBio(bio);
  });
}
