// What an IMAGE means to a command that works on volumes: a file or a block device, a mapped device of the daemon, or an
// NBD export.
//
// A bare word is a mapped device if the daemon has one of that name, as in a table, else a file; where both are
// there it is refused, because what is not meant could be lost. `./word` is always the file, `/dev/mapper/word` the
// mapped device.

import { closeSync, existsSync, openSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status, statusOfError } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { absoluteReference, mappedWord } from '../dm/references.ts';
import { fileSizeBytes } from '../io/file-size.ts';
import { call } from './daemon-call.ts';
import { openReferenceDisk } from './daemon-disk.ts';
import { isOfLooker, removeLeftExports, withCommands } from './left-behind.ts';

export type Place =
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'mapped'; readonly name: string }
  | { readonly kind: 'remote'; readonly uri: string };

const MAPPER = '/dev/mapper/';
const NBD_URI = /^nbds?(?:\+\w+)?:\/\//;

/** Throws DmError when a bare word is both a file and a mapped device. */
export async function placeOf(image: string): Promise<Place> {
  if (NBD_URI.test(image)) return { kind: 'remote', uri: image };
  if (image.startsWith(MAPPER) && !existsSync(image)) {
    return { kind: 'mapped', name: image.slice(MAPPER.length) };
  }
  if (image.includes('/') || !(await isMapped(image))) return { kind: 'file', path: image };
  if (!existsSync(image)) return { kind: 'mapped', name: image };
  throw invalid(
    `${image}: is a file here and a mapped device: say ./${image} or ${MAPPER}${image}`,
  );
}

async function isMapped(name: string): Promise<boolean> {
  try {
    return (await call('list')).some((device) => device.name === name);
  } catch (error) {
    // No daemon, no mapped devices.
    if (error instanceof DmError) return false;
    throw error;
  }
}

/** What a word of a table is that the daemon prints: there a bare word is a mapped device. */
export function placeOfWord(word: string): Place {
  if (NBD_URI.test(word)) return { kind: 'remote', uri: word };
  const mapped = mappedWord(word);
  return mapped === undefined
    ? { kind: 'file', path: word }
    : { kind: 'mapped', name: mapped.name };
}

/** As a table names it, also for a daemon in another folder. Throws DmError where no table can. */
export function referenceOf(place: Place): string {
  if (place.kind === 'file') {
    const path = resolve(place.path);
    if (!path.includes('\n')) return path;
    throw invalid(`${path}: has a new line in its name, which no table can have: rename it`);
  }
  return place.kind === 'mapped' ? place.name : absoluteReference(place.uri);
}

/** Whether two places are one, as far as that can be seen from here: a mapped device may be on a file. */
export function isSamePlace(a: Place, b: Place): boolean {
  if (a.kind !== 'file' || b.kind !== 'file') {
    return a.kind === b.kind && referenceOf(a) === referenceOf(b);
  }
  const [one, other] = [a, b].map(({ path }) => statSync(path, { throwIfNoEntry: false }));
  if (one === undefined || other === undefined) return resolve(a.path) === resolve(b.path);
  if (one.isBlockDevice()) return other.isBlockDevice() && one.rdev === other.rdev;
  return one.ino === other.ino && one.dev === other.dev;
}

/** The size of what is there. Throws DmError. */
export async function bytesAt(place: Place): Promise<number> {
  if (place.kind === 'file') return bytesOfFile(place.path);
  if (place.kind === 'mapped') {
    return (await call('table', place.name)).reduce(
      (bytes, line) => Math.max(bytes, (line.startSector + line.lenSectors) * SECTOR_BYTES),
      0,
    );
  }
  const opened = await openReferenceDisk(place.uri, true);
  try {
    return opened.disk.sizeBytes;
  } finally {
    await opened.close();
  }
}

function bytesOfFile(path: string): number {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) {
    throw new DmError(Status.NoEntry, `${path}: no such file`);
  }
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot open: ${errorText(error)}`);
  }
  try {
    return fileSizeBytes(path, fd);
  } finally {
    closeSync(fd);
  }
}

/** Refuses what is to be written, or must not change, while somebody has it. Throws DmError. */
export async function refuseUsed(image: string, name: string): Promise<void> {
  if ((await usersOf(name)) === 0) return;
  // What a command that was killed had begun there goes on with the device.
  const { state } = await call('info', name);
  const way =
    state === 'SUSPENDED'
      ? `, and suspended: lamina resume ${name} lets it go on`
      : `${await usersText(name)}; close that first`;
  throw new DmError(Status.Busy, `${image}: is in use${way}`);
}

/** ` by ca, export 'web'`: devices, exports and commands that have a mapped device; '' when they have just gone. */
async function usersText(name: string): Promise<string> {
  const lookers = await lookersAt(name);
  const exports = (await call('listExports')).filter((e) => {
    return e.device === name && !lookers.includes(e.name);
  });
  const users: string[] = [];
  for (const { name: other } of await call('list')) {
    const lower = await call('deps', other).catch(() => []);
    if (lower.some((l) => l.isMapped && l.name === name)) users.push(other);
  }
  users.push(...exports.map((e) => `export '${e.name}'`));
  return users.length === 0 ? '' : ` by ${withCommands(users.map(printable).join(', '))}`;
}

/** How many users a mapped device has, but for commands that look at a header of it. */
export async function usersOf(name: string): Promise<number> {
  await removeLeftExports();
  for (let lookers = await lookersAt(name); ; ) {
    const { openCount } = await call('info', name);
    if (openCount === 0) return 0;
    const after = await lookersAt(name);
    // They come and go: both numbers must be of one moment.
    if (after.join() === lookers.join()) return openCount - lookers.length;
    lookers = after;
  }
}

async function lookersAt(name: string): Promise<string[]> {
  return (await call('listExports'))
    .filter((e) => e.device === name && e.isReadOnly && isOfLooker(e.name))
    .map((e) => e.name);
}
