// zero: reads as zeroes, drops what is written.

import { invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import { endBio } from '../../bio/submit.ts';
import { type DeviceRange, MapResult, type Target, type TargetHost } from '../../dm/target.ts';
import type { TargetType } from '../../dm/target.ts';
import type { Arena } from '../../io/arena.ts';

class Zero implements Target {
  readonly #arena: Arena;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  map(bio: Bio): MapResult {
    if (bio.op === Op.Read) this.#fill(bio);
    endBio(bio, Status.Ok);
    return MapResult.Submitted;
  }

  status(): string {
    return '';
  }

  devices(): readonly DeviceRange[] {
    return [];
  }

  extents(_sector: number, lenSectors: number): Promise<Extent[]> {
    return Promise.resolve([{ lenSectors, isHole: true, isZero: true }]);
  }

  #fill(bio: Bio): void {
    const { u8 } = this.#arena;
    const { mems, lens } = bio.vec;
    let left = bio.lenBytes;
    let skip = bio.segmentDone;
    for (let i = bio.segment; left > 0; i++) {
      const from = (mems[i] as number) + skip;
      const len = Math.min((lens[i] as number) - skip, left);
      u8.fill(0, from, from + len);
      left -= len;
      skip = 0;
    }
  }
}

function create(args: readonly string[], host: TargetHost): Promise<Target> {
  if (args.length !== 0) {
    throw invalid(`No arguments required: found '${args.join(' ')}'`);
  }
  return Promise.resolve(new Zero(host.engine.arena));
}

export default { name: 'zero', version: [1, 1, 0], create } satisfies TargetType;
