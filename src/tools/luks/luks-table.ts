// The dm table of an opened volume: one line a segment, for the crypt target.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { escapeArg } from '../../dm/table-text.ts';
import type { LuksSegment, LuksVolume } from './luks-volume.ts';

export interface LuksTableOptions {
  /** Hex, or what shall stand in its place. */
  readonly key: string;
  /** A device as a table names it. */
  readonly device: string;
  /** How much of that device there is for the volume, header and data. */
  readonly deviceBytes: number;
  /** Where the volume begins on the device, in whole sectors; at its begin if not given. */
  readonly offsetBytes?: number | undefined;
  /** Besides those that the header asks for. */
  readonly flags?: readonly string[];
  /** The mapped device's size; all there is if not given. */
  readonly lenSectors?: number | undefined;
}

/** The order in which dm-crypt prints its options. */
const FLAG_ORDER = [
  'allow_discards',
  'same_cpu_crypt',
  'submit_from_crypt_cpus',
  'no_read_workqueue',
  'no_write_workqueue',
];

/** Throws DmError when a segment has no room on the device, or cannot be mapped. */
export function luksTable(volume: LuksVolume, options: LuksTableOptions): string {
  const { key, device, deviceBytes, offsetBytes = 0, lenSectors } = options;
  const name = escapeArg(device);
  const lines: string[] = [];
  let start = 0;
  const wanted = new Set([...volume.flags, ...(options.flags ?? [])]);
  const flags = FLAG_ORDER.filter((flag) => wanted.has(flag));
  for (const segment of volume.segments()) {
    const rest = lenSectors === undefined ? undefined : lenSectors - start;
    if (rest === 0) break;
    const sectors = sectorsOf(segment, { deviceBytes, device, rest });
    const at = (offsetBytes + segment.offsetBytes) / SECTOR_BYTES;
    if (segment.type === 'linear') lines.push(`${start} ${sectors} linear ${name} ${at}`);
    else {
      const { cipher, ivOffset, sectorBytes } = segment;
      const all = sectorBytes === SECTOR_BYTES ? flags : [...flags, `sector_size:${sectorBytes}`];
      const extra = all.length === 0 ? '' : ` ${all.length} ${all.join(' ')}`;
      lines.push(`${start} ${sectors} crypt ${cipher} ${key} ${ivOffset} ${name} ${at}${extra}`);
    }
    start += sectors;
  }
  if (lenSectors !== undefined && start < lenSectors) {
    throw invalid(`${device}: size of ${lenSectors} sectors: the volume has ${start}`);
  }
  return lines.join('\n');
}

function sectorsOf(
  segment: LuksSegment,
  where: {
    readonly deviceBytes: number;
    readonly device: string;
    readonly rest: number | undefined;
  },
): number {
  const { deviceBytes, device, rest } = where;
  const { offsetBytes, sizeBytes, sectorBytes } = segment;
  const thereBytes = deviceBytes - offsetBytes;
  const bytes = sizeBytes ?? thereBytes - (thereBytes % sectorBytes);
  if (bytes < sectorBytes || bytes > thereBytes) {
    throw new DmError(
      Status.NoSpace,
      `${device}: has ${deviceBytes} bytes, the data is ${sizeBytes ?? 'at least a sector'} at ` +
        `${offsetBytes}`,
    );
  }
  const sectors = Math.min(bytes / SECTOR_BYTES, rest ?? Number.POSITIVE_INFINITY);
  if ((sectors * SECTOR_BYTES) % sectorBytes === 0) return sectors;
  throw invalid(
    `${device}: size of ${sectors} sectors: need whole sectors of ${sectorBytes} bytes`,
  );
}

/** How the UUIDs of opened volumes begin. */
export const LUKS_UUID_PREFIX = 'CRYPT-LUKS';

/** The UUID that cryptsetup gives mapped devices. */
export function luksDeviceUuid(volume: LuksVolume, name: string): string {
  return `${LUKS_UUID_PREFIX}${volume.version}-${volume.uuid.replaceAll('-', '')}-${name}`;
}
