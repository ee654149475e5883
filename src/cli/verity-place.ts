// Data and tree of a verity volume, opened where they are: in files, on block devices, on mapped devices of the daemon
// or on NBD exports, as a whole or from a byte on.

import { closeAll } from '../base/close-all.ts';
import { type VolumeIo, VolumePart } from '../tools/verity/volume-io.ts';
import { bytesAt, isSamePlace, type Place, placeOf } from './place.ts';
import { LOOK, type OpenedPlace, openPlaceIo, type PlaceMode, withEnd } from './place-io.ts';
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
  const given = regionOf(flags);
  const { hashOffsetIn: at } = flags;
  if (at !== undefined) checkSectors('--hash-offset-in', at);
  const dataSpot = await spotOf(data, given);
  const place = await placeOf(hash);
  const isOnePlace = isSamePlace(dataSpot.place, place);
  const unsaid = isOnePlace ? dataSpot.region : WHOLE;
  const own = { option: '--hash-offset-in', offsetBytes: at ?? 0, lenBytes: undefined };
  const region = at === undefined ? unsaid : await withEnd(hash, place, own);
  return { data: dataSpot, hash: { image: hash, place, region }, isOnePlace };
}

/** Where a part of what a command names is. Throws DmError. */
export async function spotOf(image: string, given: Region): Promise<Spot> {
  const place = await placeOf(image);
  return { image, place, region: await withEnd(image, place, given) };
}

/** Whether the tree is in the very part that has the data. */
export function isOneSpot({ data, hash, isOnePlace }: VolumeSpots): boolean {
  return isOnePlace && isSameRegion(data.region, hash.region);
}

/** How many bytes a spot has. Throws DmError. */
export async function bytesOf({ image, place, region }: Spot): Promise<number> {
  return bytesIn(region, image, await bytesAt(place));
}

/** Opens a spot to look at it. Throws DmError. */
export async function openSpot(spot: Spot, kind: 'data' | 'hash'): Promise<OpenedPlace> {
  const whole = await openWhole(spot, kind, LOOK);
  try {
    return { ...whole, io: partOf(whole.io, spot) };
  } catch (error) {
    await whole.close();
    throw error;
  }
}

export interface OpenedVolume {
  readonly data: VolumeIo;
  readonly hash: VolumeIo;
  close(): Promise<void>;
  /** Takes a tree's file away again that was made here. */
  unmake(): void;
}

/** Opens data and tree, the latter for writing if the tree is to be made: nobody else has them then. Throws DmError. */
export async function openSpots(spots: VolumeSpots, isMaking: boolean): Promise<OpenedVolume> {
  const { data, hash, isOnePlace } = spots;
  const hashMode = { isReadOnly: !isMaking, isLocked: isMaking };
  const under = await openWhole(hash, 'hash', hashMode);
  let over: OpenedPlace | undefined;
  const close = async (): Promise<void> => {
    await closeAll([async () => await over?.close(), async () => await under.close()]);
  };
  try {
    if (!isOnePlace) over = await openWhole(data, 'data', { isReadOnly: true, isLocked: isMaking });
    return {
      data: partOf(over?.io ?? under.io, data),
      hash: partOf(under.io, hash),
      close,
      unmake: () => under.unmake(),
    };
  } catch (error) {
    under.unmake();
    await close();
    throw error;
  }
}

function partOf(io: VolumeIo, { image, region }: Spot): VolumeIo {
  if (isWhole(region)) return io;
  bytesIn(region, image, io.sizeBytes);
  return new VolumePart(io, nameOfRegion(image, region), region.offsetBytes, region.lenBytes);
}

async function openWhole(
  { image, place }: Spot,
  kind: 'data' | 'hash',
  mode: PlaceMode,
): Promise<OpenedPlace> {
  return await openPlaceIo(image, place, `verity-${kind}`, mode);
}
