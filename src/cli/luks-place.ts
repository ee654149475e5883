// The header of a LUKS volume on what is no file, a mapped device of the daemon or an NBD export, and in a part of any
// place.

import { closeAll } from '../base/close-all.ts';
import type { LuksIo } from '../tools/luks/luks-io.ts';
import { LUKS2_PLACES_END_BYTES } from '../tools/luks/luks2.format.ts';
import { LuksPart } from '../tools/luks/luks-part.ts';
import { StagedIo } from '../tools/luks/staged-io.ts';
import { openDaemonDisk, openReferenceDisk } from './daemon-disk.ts';
import { ownName } from './left-behind.ts';
import { type Place, refuseUsed } from './place.ts';
import { bytesIn, isWhole, nameOfRegion, type Region } from './region.ts';

export interface OpenedIo {
  readonly io: LuksIo;
  /** Calls what only reads, as often as it takes to have fetched what it wants. */
  read<T>(use: () => T): Promise<T>;
  /**
   * Fetches what will be read: so many bytes, from the begin or from a byte on, and all places
   * where a header may be.
   */
  fetch(lenBytes: number, at?: number): Promise<void>;
  /**
   * Leaves a server, or a mapped device, to others: only what was fetched can be read from then
   * on. Throws DmError.
   */
  disconnect(): Promise<void>;
  /** Throws DmError when something that was written is not durable. */
  close(): Promise<void>;
}

/** Opens what is no file. `isAlone`: nobody else may use it meanwhile. Throws DmError. */
export async function openRemote(
  image: string,
  place: Exclude<Place, { kind: 'file' }>,
  options: { readonly isReadOnly: boolean; readonly isAlone: boolean },
): Promise<OpenedIo> {
  const { isReadOnly, isAlone } = options;
  if (place.kind === 'mapped' && isAlone) await refuseUsed(image, place.name);
  const opened =
    place.kind === 'mapped'
      ? await openDaemonDisk(place.name, { as: ownName('luks'), isReadOnly })
      : await openReferenceDisk(place.uri, isReadOnly);
  const io = new StagedIo(image, opened.disk);
  let isConnected = true;
  const disconnect = async (): Promise<void> => {
    if (!isConnected) return;
    isConnected = false;
    await opened.close();
  };
  return {
    io,
    read: async (use) => await io.staged(use),
    fetch: async (lenBytes, at = 0) => {
      await io.fetch(at, Math.max(lenBytes, LUKS2_PLACES_END_BYTES));
    },
    disconnect,
    close: async () => {
      await closeAll([async () => await io.finish(), disconnect]);
    },
  };
}

/** The part of a place. Throws DmError where that is beyond its end. */
export function partOf(opened: OpenedIo, image: string, region: Region): OpenedIo {
  if (isWhole(region)) return opened;
  return {
    ...opened,
    io: rangeOf(opened.io, image, region),
    fetch: async (lenBytes, at = 0) => await opened.fetch(lenBytes, region.offsetBytes + at),
  };
}

export function rangeOf(io: LuksIo, image: string, region: Region): LuksIo {
  if (isWhole(region)) return io;
  const lenBytes = bytesIn(region, image, io.sizeBytes);
  return new LuksPart(io, nameOfRegion(image, region), { ...region, lenBytes });
}
