// Trouble below insitu_comp, for crash sweeps: a disk that is full, one that vanishes and comes back, one that fails
// now and then, and next to no memory for buffers.

import { NONE } from '../io/arena.ts';
import type { SweepSubject } from './crash-sweep.ts';

/** The first region's record. */
const RECORD_SECTOR = 8;

type Disturb = NonNullable<SweepSubject['disturb']>;

/** The disk takes so many sectors more that it has not had before: a volume of a thin pool that is full. */
const full: Disturb = (_lab, disk, rng) => {
  disk.faults.spaceSectors = rng.pick([0, 8, 40, 200, 600]);
  return () => {
    disk.faults.spaceSectors = Number.POSITIVE_INFINITY;
  };
};

/** It is unplugged for a while, again and again. */
const gone: Disturb = (lab, disk, rng) => {
  const { scheduler } = lab;
  let isOver = false;
  const turn = (): void => {
    if (isOver) return;
    disk.faults.isGone = !disk.faults.isGone;
    scheduler.after(rng.between(1, 60), turn);
  };
  scheduler.after(rng.between(1, 30), turn);
  return () => {
    isOver = true;
    disk.faults.isGone = false;
  };
};

const failing: Disturb = (_lab, disk, rng) => {
  const { faults } = disk;
  faults.writeErrorRate = rng.pick([0.02, 0.2]);
  faults.landRate = rng.pick([0, 0.5]);
  faults.flushErrorRate = rng.pick([0, 0.3]);
  faults.readErrorRate = rng.pick([0, 0.1]);
  // A record that cannot be written for long, though the disk may have it all the same.
  if (rng.chance(0.4)) disk.badSectors.add(RECORD_SECTOR + rng.below(2));
  for (let n = rng.below(4); n > 0; n--) disk.badSectors.add(rng.below(disk.lenSectors));
  return () => {
    faults.writeErrorRate = faults.flushErrorRate = faults.readErrorRate = 0;
    disk.badSectors.clear();
  };
};

/** Memory for so many operations of the driver that sends them. */
const SPARES = 2;
const SPARE_BYTES = 1 << 18;

/** All buffers are taken but for those of one or two operations. */
const noMemory: Disturb = ({ arena }) => {
  const taken: { readonly mem: number; readonly bytes: number }[] = [];
  const spares = Array.from({ length: SPARES }, () => arena.tryAlloc(SPARE_BYTES));
  for (const bytes of [1 << 20, 1 << 18, 1 << 16, 1 << 14, 1 << 12]) {
    for (let mem = arena.tryAlloc(bytes); mem !== NONE; mem = arena.tryAlloc(bytes)) {
      taken.push({ mem, bytes });
    }
  }
  for (const mem of spares) if (mem !== NONE) arena.free(mem, SPARE_BYTES);
  return () => {
    for (const { mem, bytes } of taken) arena.free(mem, bytes);
  };
};

/** By what tests call them. */
export const INSITU_TROUBLE = {
  'a full disk': full,
  'a disk that vanishes': gone,
  'a disk that fails': failing,
  'no memory for buffers': noMemory,
} as const satisfies Record<string, Disturb>;
