// The answer to a block status request: for each context that the client has selected a chunk with (length, flags)
// pairs, header and all, one behind the other.

import { DmError } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { ChangesSince } from '../../dm/lineage.ts';
import type { Export } from '../../exports/export.ts';
import { AllocationFlag, CHANGED_FLAG, CmdFlag } from '../../format/nbd.ts';
import type { MetaContext } from './negotiated.ts';
import type { Request } from './request.ts';
import { BLOCK_STATUS_HEADER_BYTES, putBlockStatusChunk } from './wire.ts';

const DESCRIPTOR_BYTES = 8;
/** Length of a full answer of one context; the answer is shorter while memory is. */
export const BLOCK_STATUS_BYTES_MAX = 16 * 1024;
/** A descriptor's length has 32 bits; the last whole 64 KiB below keeps lengths tidy. */
const DESCRIPTOR_LEN_MAX = 0xffff0000;

/** A run of sectors with the flags of one context. */
interface Flagged {
  readonly lenSectors: number;
  readonly flags: number;
}

type Teller = (sector: number, lenSectors: number, max: number) => Promise<readonly Flagged[]>;

/** Where a chunk goes: `roomBytes` at `at`, header included. */
interface Room {
  readonly view: DataView;
  readonly at: number;
  readonly roomBytes: number;
}

export class BlockStatus {
  readonly #contexts: readonly { readonly id: number; readonly tell: Teller }[];

  /** What changes are told since is looked up now, and stays the same whatever gets the name later. */
  constructor(exported: Export, contexts: readonly MetaContext[]) {
    this.#contexts = contexts.map(({ id, base }) => {
      if (base === undefined) return { id, tell: allocationOf(exported) };
      return { id, tell: changesOf(base, exported.changesSince(base)) };
    });
  }

  get isSelected(): boolean {
    return this.#contexts.length > 0;
  }

  /**
   * Writes all chunks; their bytes, or a negative errno. Each covers the range or its beginning,
   * at least one descriptor, never more than was asked.
   */
  async put(request: Request, { view, at, roomBytes }: Room): Promise<number> {
    // A multiple of 4, as the fields in it.
    const share = Math.floor(roomBytes / this.#contexts.length / 4) * 4;
    let bytes = 0;
    try {
      for (const [i, { id, tell }] of this.#contexts.entries()) {
        const isLast = i === this.#contexts.length - 1;
        const room = { view, at: at + bytes, roomBytes: share };
        const descriptors = await putDescriptors(request, tell, {
          ...room,
          at: room.at + BLOCK_STATUS_HEADER_BYTES,
          roomBytes: share - BLOCK_STATUS_HEADER_BYTES,
        });
        if (descriptors === 0) return -Status.Io;
        putBlockStatusChunk(view, room.at, isLast, request, id, descriptors);
        bytes += BLOCK_STATUS_HEADER_BYTES + descriptors;
      }
    } catch (error) {
      return -(error instanceof DmError ? error.status : statusOfError(error));
    }
    return bytes;
  }
}

function allocationOf({ device }: Export): Teller {
  return async (sector, lenSectors, max) =>
    (await device.extents(sector, lenSectors, max)).map((extent) => ({
      lenSectors: extent.lenSectors,
      flags: (extent.isHole ? AllocationFlag.Hole : 0) | (extent.isZero ? AllocationFlag.Zero : 0),
    }));
}

function changesOf(base: string, since: ChangesSince | undefined): Teller {
  return async (sector, lenSectors, max) => {
    if (since === undefined) throw new DmError(Status.NoDevice, `no changes since ${base}`);
    return (await since(sector, lenSectors, max)).map((extent) => ({
      lenSectors: extent.lenSectors,
      flags: extent.isChanged ? CHANGED_FLAG : 0,
    }));
  };
}

async function putDescriptors(request: Request, tell: Teller, room: Room): Promise<number> {
  const { offBytes, lenBytes } = request;
  const { view, at, roomBytes } = room;
  const first = Math.floor(offBytes / SECTOR_BYTES);
  const end = Math.ceil((offBytes + lenBytes) / SECTOR_BYTES);
  const isOne = (request.flags & CmdFlag.ReqOne) !== 0;
  const max = isOne ? 1 : Math.floor(roomBytes / DESCRIPTOR_BYTES);
  let left = lenBytes;
  let skip = offBytes - first * SECTOR_BYTES;
  let bytes = 0;
  let lastFlags = -1;
  for (const { lenSectors, flags } of await tell(first, end - first, max)) {
    const len = Math.min(lenSectors * SECTOR_BYTES - skip, left);
    skip = 0;
    const previous = bytes === 0 ? 0 : view.getUint32(at + bytes - DESCRIPTOR_BYTES);
    if (flags === lastFlags && previous + len <= DESCRIPTOR_LEN_MAX) {
      view.setUint32(at + bytes - DESCRIPTOR_BYTES, previous + len);
    } else {
      if (bytes === max * DESCRIPTOR_BYTES) break;
      view.setUint32(at + bytes, Math.min(len, DESCRIPTOR_LEN_MAX));
      view.setUint32(at + bytes + 4, flags);
      bytes += DESCRIPTOR_BYTES;
      lastFlags = flags;
      if (len > DESCRIPTOR_LEN_MAX) break;
    }
    left -= len;
    if (left <= 0) break;
  }
  return bytes;
}
