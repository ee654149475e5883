// Moving the key material of a LUKS2 volume to given places, as far as there is room: each move is a copy to
// free space, one update of the header, and the old place is overwritten. A crash leaves the slot here or there.

import { wipeRandom } from './key-area.ts';
import { LUKS2_ALIGN_BYTES } from './luks2.format.ts';
import { areasOf, type Luks2Metadata } from './luks2-metadata.ts';
import type { Luks2Volume } from './luks2-volume.ts';

export interface Range {
  readonly at: number;
  readonly end: number;
}

interface Move {
  readonly slot: number;
  readonly to: number;
}

/** Moves in one call at most; two a slot are enough. */
const MOVES_MAX = 64;

export interface Arrangement {
  readonly moves: readonly Move[];
  /** As it will be after them. */
  readonly metadata: Luks2Metadata;
}

/** `target` answers where a slot should begin, bytes, or undefined for wherever it is. */
export function planArrangement(
  volume: Luks2Volume,
  target: (slot: number) => number | undefined,
): Arrangement {
  const metadata = structuredClone(volume.metadata);
  const limits = { low: 2 * volume.fields.headerBytes, high: volume.headerBytes };
  const moves: Move[] = [];
  while (moves.length < MOVES_MAX) {
    const move = nextMove(metadata, limits, target);
    if (move === undefined) break;
    const keySlot = metadata.keyslots[move.slot];
    if (keySlot !== undefined) keySlot.area.offset = String(move.to);
    moves.push(move);
  }
  return { moves, metadata };
}

export async function arrangeSlots(volume: Luks2Volume, { moves }: Arrangement): Promise<void> {
  for (const move of moves) await moveArea(volume, move);
}

/** A slot that can go to its target now, or aside because it overlaps its own target. */
function nextMove(
  metadata: Luks2Metadata,
  { low, high }: { readonly low: number; readonly high: number },
  target: (slot: number) => number | undefined,
): Move | undefined {
  const areas = areasOf(metadata);
  for (const own of areas) {
    const { slot } = own;
    const to = target(slot);
    const sizeBytes = own.end - own.at;
    if (to === undefined || to === own.at || to < low) continue;
    const goal = { at: to, end: to + sizeBytes };
    const others = areas.filter((area) => area !== own);
    if (goal.end > high || others.some((area) => overlaps(area, goal))) continue;
    if (!overlaps(own, goal)) return { slot, to };
    const used = [{ at: 0, end: low }, ...areas, goal];
    const aside = firstGap(used, sizeBytes, high);
    if (aside !== undefined) return { slot, to: aside };
  }
  return undefined;
}

function overlaps(a: Range, b: Range): boolean {
  return a.at < b.end && b.at < a.end;
}

/**
 * The first place for `sizeBytes` between ranges that may overlap, a multiple of 4 KiB below
 * `limit`.
 */
export function firstGap(
  used: readonly Range[],
  sizeBytes: number,
  limit: number,
): number | undefined {
  let at = 0;
  for (const range of [...used].sort((a, b) => a.at - b.at)) {
    if (range.at - at >= sizeBytes) break;
    at = Math.max(at, Math.ceil(range.end / LUKS2_ALIGN_BYTES) * LUKS2_ALIGN_BYTES);
  }
  return at + sizeBytes <= limit ? at : undefined;
}

async function moveArea(volume: Luks2Volume, { slot, to }: Move): Promise<void> {
  const { io } = volume;
  const metadata = structuredClone(volume.metadata);
  const keySlot = metadata.keyslots[slot];
  if (keySlot === undefined) return;
  const from = Number(keySlot.area.offset);
  const material = new Uint8Array(Number(keySlot.area.size));
  io.read(from, material);
  io.write(to, material);
  await io.flush();
  keySlot.area.offset = String(to);
  await volume.update(metadata);
  await wipeRandom(io, from, material.length);
}
