// Sectors and bytes. A sector is 512 bytes, always, whatever a device's logical block size is.

export const SECTOR_BYTES = 512;
export const KIB = 1024;
export const MIB = 1024 * 1024;
export const GIB = 1024 * 1024 * 1024;

export function sectorsToBytes(sectors: number): number {
  return sectors * SECTOR_BYTES;
}

/** Whole sectors in `bytes`; a rest is dropped. Not a shift: byte counts pass 2^31. */
export function bytesToSectors(bytes: number): number {
  return Math.floor(bytes / SECTOR_BYTES);
}

export function isPowerOfTwo(n: number): boolean {
  return Number.isSafeInteger(n) && n > 0 && Number.isInteger(Math.log2(n));
}

const SUFFIX: Readonly<Record<string, number>> = {
  '': 1,
  s: SECTOR_BYTES,
  k: KIB,
  m: MIB,
  g: GIB,
  t: 1024 * GIB,
  p: 1024 * 1024 * GIB,
};

/**
 * `512`, `64k`, `1.5G`, `10GiB`, `2048s` (sectors) to bytes; undefined if it is not a size or not a
 * whole number of bytes below 2^53.
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)([kmgtps]?)(?:i?b)?$/i.exec(text.trim());
  if (match === null) return undefined;
  const bytes = Number(match[1]) * (SUFFIX[(match[2] ?? '').toLowerCase()] ?? 1);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Bytes for people: `1.5 GiB`. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}
