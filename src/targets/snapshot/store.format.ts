// The kernel's persistent exception store: what is in chunk 0 of a cow device, and in its areas.
//
//   header | area 0 | data chunks, one for each exception of the area | area 1 | data chunks | ...
//
// An area is a chunk of exceptions. The first one whose new chunk is 0 ends the list.

import { struct, u32, u64 } from '../../format/struct.ts';

/** "SnAp" */
export const MAGIC = 0x70416e53;
export const VERSION = 1;
export const HEADER_CHUNKS = 1;
export const EXCEPTION_BYTES = 16;

export const StoreHeader = struct('exception store header', 16, {
  magic: u32(0), // 0x70416e53; 0: a new store
  valid: u32(4), // 0: the snapshot is invalid, for good
  version: u32(8), // 1
  chunkSectors: u32(12),
});

export const StoreException = struct('exception', EXCEPTION_BYTES, {
  oldChunk: u64(0), // of the origin
  newChunk: u64(8), // of the cow device; 0 ends the list
});

/** Whether the exception at `base` is the end of the list, whatever its old chunk. */
export function endsList(view: DataView, base: number): boolean {
  return view.getUint32(base + 8, true) === 0 && view.getUint32(base + 12, true) === 0;
}

/** Whether both chunks are below 2^53. */
export function isSafe(view: DataView, base: number): boolean {
  return view.getUint32(base + 4, true) < 0x200000 && view.getUint32(base + 12, true) < 0x200000;
}

export interface StoreGeometry {
  readonly chunkSectors: number;
  /** How many exceptions an area has. */
  readonly perArea: number;
}

export function geometryOf(chunkSectors: number): StoreGeometry {
  return { chunkSectors, perArea: (chunkSectors * 512) / EXCEPTION_BYTES };
}

/** The chunk that area `area` is in. */
export function areaChunk({ perArea }: StoreGeometry, area: number): number {
  return HEADER_CHUNKS + area * (perArea + 1);
}

/** Whether a chunk holds data, or could: it is neither the header nor an area. */
export function isDataChunk({ perArea }: StoreGeometry, chunk: number): boolean {
  return chunk >= HEADER_CHUNKS && (chunk - HEADER_CHUNKS) % (perArea + 1) !== 0;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
