// What a table's words for devices mean, and how they stand in a table that is printed.
//
// A word is a mapped device (`NAME`, `/dev/mapper/NAME`, `dm-N`, `/dev/dm-N`, `MAJOR:MINOR`) or something a
// backend opens: a path, or a URI. Paths are made absolute when a table is loaded, so that a table which
// is printed or saved means the same from everywhere. So a bare word in such a table can only be a mapped
// device.

import { resolve } from 'node:path';
import type { BlockDevice } from '../bio/device.ts';
import { MappedDevice } from './mapped-device.ts';
import { escapeArg } from './table-text.ts';

const SCHEME = /^[a-z][a-z0-9+.-]*:/i;
/** Options of NBD URIs whose values are paths. */
const PATH_OPTIONS = /([?&](?:socket|tls-certificates|tls-psk-file)=)([^&]*)/g;

/** A word that names a mapped device, and otherwise a file of the current folder. */
export function isBareWord(reference: string): boolean {
  return !reference.includes('/') && !SCHEME.test(reference);
}

/** Behind `device NAME: `, where a table names a mapped device that there is not. */
export const NO_SUCH_MAPPED = 'no such mapped device';

/** The name or the number of a mapped device; undefined for what a backend opens. */
export function mappedWord(
  reference: string,
):
  | { readonly name: string; readonly minor: string | undefined; readonly isSure: boolean }
  | undefined {
  const isPath = reference.startsWith('/dev/mapper/');
  const name = isPath ? reference.slice('/dev/mapper/'.length) : reference;
  const minor = /^(?:(?:\/dev\/)?dm-|\d+:)(\d+)$/.exec(reference)?.[1];
  if (!isPath && minor === undefined && !isBareWord(reference)) return undefined;
  return { name, minor, isSure: isPath || minor !== undefined };
}

/** A backend's reference, with absolute paths. */
export function absoluteReference(reference: string): string {
  const scheme = SCHEME.exec(reference)?.[0].toLowerCase();
  if (scheme === undefined) return resolve(reference);
  if (scheme === 'file:') return absoluteFile(reference);
  if (!scheme.startsWith('nbd')) return reference;
  return reference.replaceAll(PATH_OPTIONS, (_all, option: string, path: string) => {
    const isRelative = path !== '' && !path.startsWith('/') && !/^%2f/i.test(path);
    return isRelative ? `${option}${resolveEncoded(path)}` : `${option}${path}`;
  });
}

function absoluteFile(reference: string): string {
  const rest = reference.slice('file:'.length);
  const question = rest.indexOf('?');
  const path = question === -1 ? rest : rest.slice(0, question);
  if (path === '' || path.startsWith('/') || /^%2f/i.test(path)) return reference;
  return `file:${resolveEncoded(path)}${question === -1 ? '' : rest.slice(question)}`;
}

/** Behind the current folder; what the folder's name has of a URI's own characters is encoded. */
function resolveEncoded(path: string): string {
  return resolve(process.cwd().replaceAll(/[%?&#+]/g, encodeURIComponent), path);
}

/** How a table line names a device: a word that means this device from everywhere. */
export function deviceWord(device: BlockDevice): string {
  const word = mappedWord(device.name);
  const isUnclear = device instanceof MappedDevice && (word === undefined || word.isSure);
  return escapeArg(isUnclear ? `/dev/mapper/${device.name}` : device.name);
}
