// The header of a volume for a command of `lamina luks`: open, locked if it is to be changed, closed in the end.
//
// A volume that the daemon has open may still get and lose keys, as cryptsetup's do. The daemon holds the lock
// on the image then, and only uses the data. Who changes a header waits for others who do (luks-turn.ts).

import { closeAll } from '../base/close-all.ts';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { LuksFile } from '../tools/luks/luks-io.ts';
import type { LuksVolume } from '../tools/luks/luks-volume.ts';
import { openLuks } from '../tools/luks/open-luks.ts';
import { type OpenedIo, openRemote, partOf, rangeOf } from './luks-place.ts';
import { takeTurn } from './luks-turn.ts';
import { isFrom, openVolumes } from './luks-users.ts';
import { isSamePlace, type Place, placeOf, usersOf } from './place.ts';
import { withEnd } from './place-io.ts';
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
    // A server may take one client at a time, and that is the daemon as soon as the volume is open.
    if (options.isReadOnly) await opened.disconnect();
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
  const endTurn = options.isReadOnly ? (): void => {} : await takeTurn(path, place);
  let opened: OpenedIo | undefined;
  try {
    const whole = await openWhole(path, place, { isAlone: false, ...options, region });
    opened = whole;
    const close = async (): Promise<void> => {
      await closeAll([async () => await whole.close(), endTurn]);
    };
    return { ...partOf(whole, path, region), close };
  } catch (error) {
    await opened?.close().catch(() => {});
    endTurn();
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
  const file = isReadOnly ? LuksFile.open(path, { isReadOnly }) : await openLocked(path, options);
  return {
    io: file,
    read: async (look) => await Promise.resolve(look()),
    fetch: async () => await Promise.resolve(),
    disconnect: async () => await Promise.resolve(),
    close: async () => {
      file.close();
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
  const mayBeOpen = !isReadOnly && !isAlone && place.kind === 'mapped';
  const isOpen = mayBeOpen && (await isOpenVolume(path, place, region));
  return await openRemote(path, place, { isReadOnly, isAlone: !isReadOnly && !isOpen });
}

/** Whether the volume on a mapped device is open, and nobody but volumes uses the device. */
async function isOpenVolume(
  path: string,
  place: Place & { readonly kind: 'mapped' },
  region: Region,
): Promise<boolean> {
  const users = await usersOf(place.name);
  // Opened volumes, in whatever partition of it: they leave headers alone.
  const volumes = (await openVolumes()).filter(({ stretches }) =>
    stretches.some((its) => isSamePlace(its.place, place)),
  );
  if (users === 0 || volumes.length !== users) return false;
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

async function openLocked(path: string, options: Required<PlaceOptions>): Promise<LuksFile> {
  const { isAlone, region } = options;
  const header = {
    isReadOnly: false,
    headerAt: region.offsetBytes,
    onWait: (who: string): void => {
      tell(`lamina: ${path}: waiting for ${who}, which has its header locked\n`);
    },
  };
  try {
    return LuksFile.open(path, header);
  } catch (error) {
    const isBusy = error instanceof DmError && error.status === Status.Busy;
    if (!isBusy || isAlone || !(await isOpenInDaemon(path, region))) throw error;
  }
  return LuksFile.open(path, { ...header, isShared: true });
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
