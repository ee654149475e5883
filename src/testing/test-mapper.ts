// A lab in the short form most tests want.

import type { Clock } from '../base/clock.ts';
import { type Lab, makeLab } from './sim/lab.ts';

export { SimDisk as TestDisk } from './sim/disk.ts';
export type TestMapper = Lab;

export function makeTestMapper(
  seed: number,
  clonesMax: number,
  options: { readonly clock?: Clock } = {},
): Lab {
  return makeLab({ seed, clonesMax, ...options });
}
