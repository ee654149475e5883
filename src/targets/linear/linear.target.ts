// linear: a range of sectors of another device.

import { invalid } from '../../base/errors.ts';
import type { Bio } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import {
  type DeviceRange,
  MapResult,
  type Target,
  type TargetHost,
  type TargetType,
} from '../../dm/target.ts';

class Linear implements Target {
  readonly #device: BlockDevice;
  readonly #startSector: number;
  readonly #ranges: readonly DeviceRange[];

  constructor(device: BlockDevice, startSector: number, lenSectors: number) {
    this.#device = device;
    this.#startSector = startSector;
    this.#ranges = [{ device, startSector, lenSectors }];
  }

  map(bio: Bio): MapResult {
    bio.device = this.#device;
    bio.sector += this.#startSector;
    return MapResult.Remapped;
  }

  status(kind: 'info' | 'table'): string {
    return kind === 'info' ? '' : `${deviceWord(this.#device)} ${this.#startSector}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#device.extents(this.#startSector + sector, lenSectors, maxExtents);
  }
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  if (args.length !== 2) {
    throw invalid(`Invalid argument count: ${args.length}, expected <device> <start sector>`);
  }
  const [reference, start] = args as [string, string];
  const startSector = parseSectors(start, 'Invalid device sector');
  const { lenSectors } = host;
  const device = await host.openDevice(reference, { startSector, lenSectors });
  return new Linear(device, startSector, lenSectors);
}

export default { name: 'linear', version: [1, 4, 0], create } satisfies TargetType;
