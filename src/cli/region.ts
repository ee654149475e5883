// The options that say where in IMAGE a volume is: a partition, say, which nothing here has to map first.

import type { Command } from 'commander';
import { invalid } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { WrongCall } from './errors.ts';
import { size } from './option-values.ts';

export interface RegionFlags {
  readonly offsetIn?: number;
  readonly sizeIn?: number;
}

/** Bytes of a place, of whole sectors. */
export interface Region {
  /** The option that `offsetBytes` comes from. */
  readonly option: string;
  readonly offsetBytes: number;
  /** Undefined: up to the end of the place. */
  readonly lenBytes: number | undefined;
}

export const WHOLE: Region = { option: '--offset-in', offsetBytes: 0, lenBytes: undefined };

export function withRegion(command: Command, what = 'IMAGE'): Command {
  return command
    .option('--offset-in <size>', `the volume begins there in ${what}: in bytes, or as 1M`, size)
    .option(
      '--size-in <size>',
      `and has so much of ${what}; up to the end of the partition, or of all, if not given`,
      size,
    );
}

/** Throws WrongCall. */
export function regionOf({ offsetIn = 0, sizeIn }: RegionFlags): Region {
  checkSectors('--offset-in', offsetIn);
  if (sizeIn === 0) throw new WrongCall('--size-in 0: expected a sector or more');
  if (sizeIn !== undefined) checkSectors('--size-in', sizeIn);
  return { option: '--offset-in', offsetBytes: offsetIn, lenBytes: sizeIn };
}

/** Throws WrongCall. */
export function checkSectors(option: string, bytes: number): void {
  if (bytes % SECTOR_BYTES === 0) return;
  throw new WrongCall(`${option} ${bytes}: expected a multiple of ${SECTOR_BYTES}`);
}

export function isWhole({ offsetBytes, lenBytes }: Region): boolean {
  return offsetBytes === 0 && lenBytes === undefined;
}

export function isSameRegion(a: Region, b: Region): boolean {
  return a.offsetBytes === b.offsetBytes && a.lenBytes === b.lenBytes;
}

/** How many bytes the region has in a place of `placeBytes`. Throws DmError where it goes beyond the end. */
export function bytesIn(region: Region, image: string, placeBytes: number): number {
  const { option, offsetBytes, lenBytes } = region;
  if (offsetBytes > 0 && offsetBytes >= placeBytes) {
    throw invalid(`${option} ${offsetBytes}: ${image} ends at byte ${placeBytes}`);
  }
  const thereBytes = placeBytes - offsetBytes;
  if (lenBytes !== undefined && lenBytes > thereBytes) {
    const from = offsetBytes === 0 ? '' : ` from byte ${offsetBytes} on`;
    throw invalid(`--size-in ${lenBytes}: ${image} has ${thereBytes} bytes${from}`);
  }
  return lenBytes ?? thereBytes;
}

/** The region in words, for messages. */
export function nameOfRegion(image: string, { offsetBytes }: Region): string {
  return offsetBytes === 0 ? image : `${image}, from byte ${offsetBytes}`;
}
