// The header of a volume for a command of `lamina luks`: open, locked if it is to be changed, closed in the end.
//
// A volume that the daemon has open may still get and lose keys, as cryptsetup's do. The daemon holds the lock
// on the image then, and only uses the data; who changes the header excludes others by a lock of its own.

import { closeSync, openSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import { flock, LOCK_EX, LOCK_NB } from '../io/posix.ts';
import { LuksFile } from '../tools/luks/luks-io.ts';
import type { LuksVolume } from '../tools/luks/luks-volume.ts';
import { openLuks } from '../tools/luks/open-luks.ts';
import { makeFolders } from '../io/make-folders.ts';
import { type OpenedIo, openRemote, partOf, rangeOf } from './luks-place.ts';
import { isFrom, openVolumes } from './luks-users.ts';
import { isSamePlace, type Place, placeOf } from './place.ts';
import { withEnd } from './place-io.ts';
import { call } from './daemon-call.ts';
import { removeLeftExports } from './daemon-disk.ts';
import { type HeaderFlags, headerRegion } from './luks-options.ts';
import { tell } from './output.ts';
import { type Region, WHOLE } from './region.ts';

type Volume = ReturnType<typeof openLuks>;

/**
 * Opens the header of IMAGE; notes go to stderr. Closed when `use` has ended. `isAlone`: not even
 * while the daemon has the volume open.
 */
export async function withVolume<T>(
  image: string,
  flags: HeaderFlags,
  options: { readonly isReadOnly: boolean; readonly isAlone?: boolean },
  use: (volume: Volume) => Promise<T>,
): Promise<T> {
  const path = flags.header ?? image;
  // Who only looks need not be told that a header is meant for another device.
  const isDetached = flags.header !== undefined || options.isReadOnly;
  const opened = await openPlace(path, { ...options, region: headerRegion(flags) });
  let result: T;
  try {
    const volume = await opened.read(() => openLuks(opened.io, { isDetached }));
    await opened.fetch(volume.headerBytes);
    for (const note of volume.notes) tell(`note: ${note}\n`);
    result = await use(volume);
  } catch (error) {
    await opened.close().catch(() => {});
    throw error;
  }
  await opened.close();
  return result;
}

export interface PlaceOptions {
  readonly isReadOnly: boolean;
  readonly isAlone?: boolean;
  /** The part that has the header; all of it if not given. */
  readonly region?: Region;
}

/** Opens what has the header, or is to get one, locked if it is to be written. Throws DmError. */
export async function openPlace(path: string, options: PlaceOptions): Promise<OpenedIo> {
  const place = await placeOf(path);
  const region = await withEnd(path, place, options.region ?? WHOLE);
  const opened = await openWhole(path, place, { isAlone: false, ...options, region });
  try {
    return partOf(opened, path, region);
  } catch (error) {
    await opened.close().catch(() => {});
    throw error;
  }
}

async function openWhole(
  path: string,
  place: Place,
  options: Required<PlaceOptions>,
): Promise<OpenedIo> {
  const { isReadOnly } = options;
  if (place.kind !== 'file') return await openShared(path, place, options);
  const { file, release } = isReadOnly
    ? { file: LuksFile.open(path, { isReadOnly }), release: () => {} }
    : await openLocked(path, options);
  return {
    io: file,
    read: async (look) => await Promise.resolve(look()),
    fetch: async () => await Promise.resolve(),
    close: async () => {
      file.close();
      release();
      await Promise.resolve();
    },
  };
}

/** A mapped device may be in use by its volume, which leaves the header alone; by nobody else. */
async function openShared(
  path: string,
  place: Exclude<Place, { kind: 'file' }>,
  options: Required<PlaceOptions>,
): Promise<OpenedIo> {
  const { isReadOnly, isAlone, region } = options;
  if (isReadOnly) return await openRemote(path, place, { isReadOnly, isAlone: false });
  const release = lockHeaders(path);
  try {
    const isOpen = !isAlone && place.kind === 'mapped' && (await isOpenVolume(path, place, region));
    const opened = await openRemote(path, place, { isReadOnly, isAlone: !isOpen });
    const close = async (): Promise<void> => {
      try {
        await opened.close();
      } finally {
        release();
      }
    };
    return { ...opened, close };
  } catch (error) {
    release();
    throw error;
  }
}

/** Whether the volume on a mapped device is open, and nobody but volumes uses the device. */
async function isOpenVolume(
  path: string,
  place: Place & { readonly kind: 'mapped' },
  region: Region,
): Promise<boolean> {
  await removeLeftExports();
  const { openCount } = await call('info', place.name);
  // Opened volumes, in whatever partition of it: they leave headers alone.
  const volumes = (await openVolumes()).filter(({ stretches }) =>
    stretches.some((its) => isSamePlace(its.place, place)),
  );
  if (openCount === 0 || volumes.length !== openCount) return false;
  const opened = await openRemote(path, place, { isReadOnly: true, isAlone: false });
  try {
    const part = partOf(opened, path, region);
    const volume = await part.read(() => openLuks(part.io, { isDetached: true }));
    return volumes.some((open) => isFrom(open, place, dataAt(volume, region)));
  } catch (error) {
    if (error instanceof DmError) return false;
    throw error;
  } finally {
    await opened.close();
  }
}

function dataAt(volume: LuksVolume, region: Region): number {
  return region.offsetBytes + (volume.segments()[0]?.offsetBytes ?? 0);
}

interface Locked {
  readonly file: LuksFile;
  readonly release: () => void;
}

async function openLocked(path: string, options: Required<PlaceOptions>): Promise<Locked> {
  const { isAlone, region } = options;
  const header = { isReadOnly: false, headerAt: region.offsetBytes };
  try {
    return { file: LuksFile.open(path, header), release: () => {} };
  } catch (error) {
    const isBusy = error instanceof DmError && error.status === Status.Busy;
    if (!isBusy || isAlone || !(await isOpenInDaemon(path, region))) throw error;
  }
  const release = lockHeaders(path);
  try {
    return { file: LuksFile.open(path, { ...header, isShared: true }), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Whether the daemon has this volume open, and from this very file. */
async function isOpenInDaemon(path: string, region: Region): Promise<boolean> {
  const file = LuksFile.open(path, { isReadOnly: true });
  try {
    const at = dataAt(openLuks(rangeOf(file, path, region)), region);
    return (await openVolumes()).some((open) => isFrom(open, { kind: 'file', path }, at));
  } catch (error) {
    // No daemon, or no volume: then it is somebody else who has it.
    if (error instanceof DmError) return false;
    throw error;
  } finally {
    file.close();
  }
}

/** One change at a time of headers that are open in this user's daemon. */
function lockHeaders(path: string): () => void {
  const lockPath = join(dirname(controlSocketPath()), 'luks-headers.lock');
  makeFolders(dirname(lockPath));
  const fd = openSync(lockPath, 'a', 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) === 0) return () => closeSync(fd);
  closeSync(fd);
  throw new DmError(Status.Busy, `${path}: another command changes a header; try again`);
}
