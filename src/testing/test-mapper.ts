// A lab in the short form most tests want, with an arena of its own.

import type { Clock } from '../base/clock.ts';
import { Arena } from '../io/arena.ts';
import { type Lab, makeLab } from './sim/lab.ts';

export { SimDisk as TestDisk } from './sim/disk.ts';
export type TestMapper = Lab;

export function makeTestMapper(
  seed: number,
  clonesMax: number,
  options: { readonly clock?: Clock } = {},
): Lab {
  return makeLab({ seed, clonesMax, arena: new Arena(16 << 20), ...options });
}
