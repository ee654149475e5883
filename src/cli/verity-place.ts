// Data and tree of a verity volume, opened where they are: in files, on block devices, on mapped devices of the daemon
// or on NBD exports, as a whole or from a byte on.

import { existsSync } from 'node:fs';
import { closeAll } from '../base/close-all.ts';
import { createDurably } from '../io/durable-file.ts';
import { VolumeDisk, VolumeFile, type VolumeIo, VolumePart } from '../tools/verity/volume-io.ts';
import { call } from './daemon-call.ts';
import { openDaemonDisk, openReferenceDisk, ownName } from './daemon-disk.ts';
import { bytesAt, isSamePlace, type Place, placeOf, refuseUsed } from './place.ts';
import {
  bytesIn,
  checkSectors,
  isSameRegion,
  isWhole,
  nameOfRegion,
  type Region,
  regionOf,
  WHOLE,
} from './region.ts';
import type { VerityFlags } from './verity-options.ts';

/** A part of what a command names. */
export interface Spot {
  readonly image: string;
  readonly place: Place;
  readonly region: Region;
}

export interface VolumeSpots {
  readonly data: Spot;
  readonly hash: Spot;
  /** Both are in one file or on one device. */
  readonly isOnePlace: boolean;
}

/** Where data and tree are. Throws DmError. */
export async function spotsOf(
  data: string,
  hash: string,
  flags: VerityFlags,
): Promise<VolumeSpots> {
  const region = regionOf(flags);
  const { hashOffsetIn: at } = flags;
  if (at !== undefined) checkSectors('--hash-offset-in', at);
  const [dataPlace, hashPlace] = [await placeOf(data), await placeOf(hash)];
  const isOnePlace = isSamePlace(dataPlace, hashPlace);
  const unsaid = isOnePlace ? region : WHOLE;
  const given = { option: '--hash-offset-in', offsetBytes: at ?? 0, lenBytes: undefined };
  return {
    data: { image: data, place: dataPlace, region },
    hash: { image: hash, place: hashPlace, region: at === undefined ? unsaid : given },
    isOnePlace,
  };
}

/** Whether the tree is in the very part that has the data. */
export function isOneSpot({ data, hash, isOnePlace }: VolumeSpots): boolean {
  return isOnePlace && isSameRegion(data.region, hash.region);
}

/** How many bytes a spot has. Throws DmError. */
export async function bytesOf({ image, place, region }: Spot): Promise<number> {
  return bytesIn(region, image, await bytesAt(place));
}

export interface OpenedIo {
  readonly io: VolumeIo;
  close(): Promise<void>;
}

/** Opens a spot to look at it. Throws DmError. */
export async function openSpot(spot: Spot, kind: 'data' | 'hash'): Promise<OpenedIo> {
  const whole = await openWhole(spot, kind, { isReadOnly: true, isLocked: false });
  try {
    return { io: partOf(whole.io, spot), close: async () => await whole.close() };
  } catch (error) {
    await whole.close();
    throw error;
  }
}

export interface OpenedVolume {
  readonly data: VolumeIo;
  readonly hash: VolumeIo;
  close(): Promise<void>;
}

/** Opens data and tree, the latter for writing if the tree is to be made: nobody else has them then. Throws DmError. */
export async function openSpots(spots: VolumeSpots, isMaking: boolean): Promise<OpenedVolume> {
  const { data, hash, isOnePlace } = spots;
  const hashMode = { isReadOnly: !isMaking, isLocked: isMaking };
  const under = await openWhole(hash, 'hash', hashMode);
  let over: OpenedIo | undefined;
  const close = async (): Promise<void> => {
    await closeAll([async () => await over?.close(), async () => await under.close()]);
  };
  try {
    if (!isOnePlace) over = await openWhole(data, 'data', { isReadOnly: true, isLocked: isMaking });
    return {
      data: partOf(over?.io ?? under.io, data),
      hash: partOf(under.io, hash),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function partOf(io: VolumeIo, { image, region }: Spot): VolumeIo {
  if (isWhole(region)) return io;
  bytesIn(region, image, io.sizeBytes);
  return new VolumePart(io, nameOfRegion(image, region), region.offsetBytes, region.lenBytes);
}

interface Mode {
  readonly isReadOnly: boolean;
  readonly isLocked: boolean;
}

async function openWhole(spot: Spot, kind: 'data' | 'hash', mode: Mode): Promise<OpenedIo> {
  const { image, place } = spot;
  const { isReadOnly } = mode;
  if (place.kind === 'file') {
    if (!isReadOnly && !existsSync(place.path)) await createDurably(place.path, 0);
    const file = new VolumeFile(place.path, mode);
    return {
      io: file,
      close: async () => {
        file.close();
        await Promise.resolve();
      },
    };
  }
  if (place.kind === 'mapped' && mode.isLocked) await refuseChanging(image, place.name, isReadOnly);
  const opened =
    place.kind === 'mapped'
      ? await openDaemonDisk(place.name, { as: ownName(`verity-${kind}`), isReadOnly })
      : await openReferenceDisk(place.uri, isReadOnly);
  return { io: new VolumeDisk(image, opened.disk), close: async () => await opened.close() };
}

/** What is only read may be in use as long as nobody can write to it. */
async function refuseChanging(image: string, name: string, isReadOnly: boolean): Promise<void> {
  if (isReadOnly && (await call('info', name)).isReadOnly) return;
  await refuseUsed(image, name);
}
