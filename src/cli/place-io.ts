// A place opened for its bytes: a file or a block device by itself, a mapped device through an export of the daemon
// that lasts as long, an NBD export.

import { existsSync, rmSync } from 'node:fs';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { createDurably } from '../io/durable-file.ts';
import { findPartitions, type Partition } from '../tools/partitions/partitions.ts';
import { VolumeDisk, VolumeFile, type VolumeIo } from '../tools/verity/volume-io.ts';
import { call } from './daemon-call.ts';
import { openDaemonDisk, openReferenceDisk } from './daemon-disk.ts';
import { ownName, type Purpose } from './left-behind.ts';
import { type Place, refuseUsed } from './place.ts';
import { type Region, WHOLE } from './region.ts';

export interface OpenedPlace {
  readonly io: VolumeIo;
  close(): Promise<void>;
  /** Takes the file away again if it was made here: what was to be in it does not come to be. */
  unmake(): void;
}

export interface PlaceMode {
  readonly isReadOnly: boolean;
  /** What is read must not change meanwhile, and nobody else has what is written. */
  readonly isLocked: boolean;
}

export const LOOK: PlaceMode = { isReadOnly: true, isLocked: false };

/** Makes the file if it is to be written and not there. Throws DmError. */
export async function openPlaceIo(
  image: string,
  place: Place,
  purpose: Purpose,
  mode: PlaceMode,
): Promise<OpenedPlace> {
  const { isReadOnly } = mode;
  if (place.kind === 'file') {
    const isMade = !isReadOnly && !existsSync(place.path);
    if (isMade) await createDurably(place.path, 0);
    const file = new VolumeFile(place.path, mode);
    return {
      io: file,
      unmake: () => {
        if (isMade) rmSync(place.path, { force: true });
      },
      close: async () => {
        file.close();
        await Promise.resolve();
      },
    };
  }
  if (place.kind === 'mapped' && mode.isLocked) await refuseChanging(image, place.name, isReadOnly);
  const opened =
    place.kind === 'mapped'
      ? await openDaemonDisk(place.name, { as: ownName(purpose), isReadOnly })
      : await openReferenceDisk(place.uri, isReadOnly);
  return {
    io: new VolumeDisk(image, opened.disk),
    close: async () => await opened.close(),
    unmake: () => {},
  };
}

/** What is only read may be in use as long as nobody can write to it. */
export async function refuseChanging(
  image: string,
  name: string,
  isReadOnly: boolean,
): Promise<void> {
  if (isReadOnly && (await call('info', name)).isReadOnly) return;
  await refuseUsed(image, name);
}

/**
 * Refuses a region that is not a partition's but has bytes of one: it would be written over what is in that. Without a
 * partition table, or where the table is damaged, nothing is known of that. Throws DmError.
 */
export async function refuseInsidePartition(spot: {
  readonly image: string;
  readonly place: Place;
  readonly region: Region;
}): Promise<void> {
  const { image, place, region } = spot;
  const { option, offsetBytes, lenBytes } = region;
  if (offsetBytes === 0) return;
  const hit = (await partitionsOf(image, place)).find((part) => {
    const isApart =
      part.offsetBytes + part.lenBytes <= offsetBytes ||
      (lenBytes !== undefined && part.offsetBytes >= offsetBytes + lenBytes);
    return !isApart && part.offsetBytes !== offsetBytes;
  });
  if (hit === undefined) return;
  const word = hit.offsetBytes < offsetBytes ? 'inside' : 'over';
  const [from, to] = [hit.offsetBytes, hit.offsetBytes + hit.lenBytes];
  throw new DmError(
    Status.Exists,
    `${option} ${offsetBytes}: ${image}: is ${word} a partition of it, which is at bytes ${from} to ${to}: ` +
      '--force writes there',
  );
}

async function partitionsOf(image: string, place: Place): Promise<readonly Partition[]> {
  const opened = await openPlaceIo(image, place, 'partitions', LOOK);
  try {
    return (await findPartitions(opened.io)) ?? [];
  } catch (error) {
    if (error instanceof DmError && error.status === Status.Invalid) return [];
    throw error;
  } finally {
    await opened.close();
  }
}

/**
 * The region with an end. One that is given without ends where the partition does that has its
 * first byte; without a partition table, at the end of the place. Throws DmError where a table does
 * not say it.
 */
export async function withEnd(image: string, place: Place, region: Region): Promise<Region> {
  const { option, offsetBytes, lenBytes } = region;
  if (offsetBytes === 0 || lenBytes !== undefined) return region;
  const opened = await openPlaceIo(image, place, 'partitions', LOOK);
  try {
    // What begins behind the end is refused with other words.
    if (offsetBytes >= opened.io.sizeBytes) return region;
    const partitions = await findPartitions(opened.io);
    if (partitions === undefined) return region;
    const found = partitions.find((part) => {
      return part.offsetBytes <= offsetBytes && offsetBytes < part.offsetBytes + part.lenBytes;
    });
    if (found === undefined) throw invalid('no partition of it has that byte');
    return { ...region, lenBytes: found.offsetBytes + found.lenBytes - offsetBytes };
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    const hint = option === WHOLE.option ? ': give --size-in' : '';
    throw new DmError(error.status, `${option} ${offsetBytes}: ${image}: ${error.message}${hint}`);
  } finally {
    await opened.close();
  }
}
