// lamina verity open and close: a volume as a mapped device of the daemon.
//
// The target reads its data from the begin of a device. Where the volume begins further on, a linear device that
// begins there comes between: NAME-data, and for a tree elsewhere NAME-hash. They go when NAME is closed.

import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { escapeArg } from '../dm/table-text.ts';
import { type TreeFormat, VerityTree } from '../targets/verity/tree.ts';
import { call } from './daemon-call.ts';
import { type JsonFlag, printDone } from './output.ts';
import { referenceOf } from './place.ts';
import { nameOfRegion } from './region.ts';
import { formatOf, rootOf, type VerityFlags } from './verity-options.ts';
import { bytesOf, isOneSpot, openSpot, type Spot, spotsOf } from './verity-place.ts';

/** Of the linear devices between; the prefix is cryptsetup's for devices that it makes below its own. */
const PART_UUID = 'CRYPT-SUBDEV-verity';

/** A device that is missing, or that nobody knows. */
const NOT_THERE: ReadonlySet<Status> = new Set([Status.NoDevice, Status.NoDeviceOrAddress]);

type PartKind = 'data' | 'hash';

export async function openVerity(
  data: string,
  name: string,
  hash: string,
  word: string | undefined,
  flags: VerityFlags,
): Promise<void> {
  if (await isThere(name)) {
    throw new DmError(Status.Exists, `device ${name}: name already exists`);
  }
  const spots = await spotsOf(data, hash, flags);
  const dataBytes = await bytesOf(spots.data);
  const opened = await openSpot(spots.hash, 'hash');
  let volume: TreeFormat;
  try {
    volume = await formatOf(data, dataBytes, opened.io, flags);
  } finally {
    await opened.close();
  }
  const root = rootOf(word, flags, new VerityTree(volume));
  const needBytes = volume.dataBlocks * volume.dataBlockBytes;
  if (needBytes > dataBytes) {
    const where = nameOfRegion(data, spots.data.region);
    throw invalid(`${where}: has ${dataBytes} bytes, the volume is of ${needBytes}`);
  }
  const made: string[] = [];
  try {
    const dataWord = await deviceOf(spots.data, name, 'data', made);
    const hashWord = isOneSpot(spots) ? dataWord : await deviceOf(spots.hash, name, 'hash', made);
    const table = tableOf(volume, root, [dataWord, hashWord], flags.option ?? []);
    await call('create', { name, table, isReadOnly: true });
  } catch (error) {
    for (const part of made) await call('remove', part);
    throw error;
  }
  printDone(flags, { name, root: Buffer.from(root).toString('hex') });
}

function tableOf(
  volume: TreeFormat,
  root: Uint8Array,
  devices: readonly [string, string],
  options: readonly string[],
): string {
  const { dataBlocks, dataBlockBytes, hashBlockBytes, hashStart } = volume;
  const places = devices.map(escapeArg).join(' ');
  const sizes = `${dataBlockBytes} ${hashBlockBytes} ${dataBlocks} ${hashStart}`;
  const digests = `${volume.algorithm} ${Buffer.from(root).toString('hex')} ${saltWord(volume)}`;
  const more = options.length === 0 ? '' : ` ${options.length} ${options.join(' ')}`;
  const sectors = (dataBlocks * dataBlockBytes) / SECTOR_BYTES;
  return `0 ${sectors} verity ${volume.hashType} ${places} ${sizes} ${digests}${more}`;
}

export function saltWord({ salt }: TreeFormat): string {
  return salt.length === 0 ? '-' : Buffer.from(salt).toString('hex');
}

/** What the target's line calls a spot; the device between is made, and named in `made`, if there has to be one. */
async function deviceOf(spot: Spot, name: string, kind: PartKind, made: string[]): Promise<string> {
  const reference = referenceOf(spot.place);
  const { offsetBytes } = spot.region;
  if (offsetBytes === 0) return reference;
  const part = `${name}-${kind}`;
  const uuid = partUuid(name, kind);
  await removeUnused(part, uuid);
  const sectors = Math.floor((await bytesOf(spot)) / SECTOR_BYTES);
  const table = `0 ${sectors} linear ${escapeArg(reference)} ${offsetBytes / SECTOR_BYTES}`;
  await call('create', { name: part, uuid, table, isReadOnly: true });
  made.push(part);
  return part;
}

function partUuid(name: string, kind: PartKind): string {
  return `${PART_UUID}-${kind}-${name}`;
}

/** One that a command which was killed has left. */
async function removeUnused(part: string, uuid: string): Promise<void> {
  const there = (await call('list')).find((device) => device.name === part);
  if (there?.uuid !== uuid) return;
  if (there.openCount === 0) {
    await call('remove', part);
    return;
  }
  throw new DmError(
    Status.Busy,
    `device ${part}: is left of a volume that was open, and in use; close what uses it first`,
  );
}

/** Whether the daemon knows the name, also of a device that is missing. */
async function isThere(name: string): Promise<boolean> {
  try {
    await call('info', name);
    return true;
  } catch (error) {
    if (error instanceof DmError && error.status === Status.NoDeviceOrAddress) return false;
    if (error instanceof DmError && error.status === Status.NoDevice) return true;
    throw error;
  }
}

export async function closeVerity(name: string, flags: JsonFlag): Promise<void> {
  const parts = await partsOf(name);
  // What stopped in between, or was removed by hand, has left only those.
  const isLeft = parts.length > 0 && !(await isThere(name));
  if (!isLeft) {
    const [line, ...more] = await call('table', name);
    if (line?.type !== 'verity' || more.length > 0) {
      throw invalid(`device ${name}: is no verity: its table is '${line?.type ?? 'empty'}'`);
    }
    await call('remove', name);
  }
  for (const part of parts) await call('remove', part);
  printDone(flags, { closed: name });
}

/** The devices between, also where NAME itself is missing or gone. */
async function partsOf(name: string): Promise<string[]> {
  const uuids = new Set([partUuid(name, 'data'), partUuid(name, 'hash')]);
  const below = new Set<string>();
  try {
    for (const dep of await call('deps', name)) if (dep.isMapped) below.add(dep.name);
  } catch (error) {
    if (!(error instanceof DmError) || !NOT_THERE.has(error.status)) throw error;
  }
  return (await call('list'))
    .filter(({ name: part, uuid }) => {
      return uuids.has(uuid) || (below.has(part) && uuid.startsWith(PART_UUID));
    })
    .map(({ name: part }) => part);
}
