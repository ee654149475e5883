// IMAGE of `lamina serve`: a file, a block device or a backend URI as one linear device over all of it.
//
// IMAGE never means a mapped device. A table word without a slash might, and so might `/dev/mapper/NAME` or
// `/dev/dm-N`; the line made here therefore holds an absolute path, or a `file:` reference where even that
// would be read as something else.

import { existsSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { hasControl } from '../base/names.ts';
import { isBackendScheme } from '../backends/open.ts';
import type { Plane } from '../daemon/plane.ts';
import { escapeArg, type ConciseDevice } from '../dm/table-text.ts';
import { WrongCall } from './errors.ts';

/** A device's name has at most 127 bytes; what stands behind the dots is of no use in a shorter one. */
const NAME_BYTES_MAX = 100;
const NAME_IF_NONE = 'image';

/** The device that serves IMAGE, named like the file. `note` hears what an operator should know of the size. */
export async function imageDevice(
  plane: Plane,
  image: string,
  options: { readonly isReadOnly: boolean; readonly note: (text: string) => void },
): Promise<ConciseDevice> {
  const { isReadOnly, note } = options;
  const reference = imageReference(image);
  const { lenSectors, sizeNote } = await plane.measure(reference, { readOnly: isReadOnly });
  if (sizeNote !== undefined) note(sizeNote);
  const table = `0 ${lenSectors} linear ${escapeArg(reference)} 0`;
  return { name: nameOfImage(image), uuid: '', minor: undefined, isReadOnly, table };
}

/** What a table line calls IMAGE so that it can mean nothing else. Throws DmError. */
export function imageReference(image: string): string {
  if (image === '')
    throw new WrongCall('IMAGE is empty: expected a file, a block device or a backend URI');
  if (isUri(image)) return image;
  const path = resolve(image);
  const isAmbiguous = path.startsWith('/dev/mapper/') || /^\/dev\/dm-\d+$/.test(path);
  return isAmbiguous || hasControl(path) ? `file:${encodeURI(path).replaceAll('?', '%3F')}` : path;
}

/** The file's name, cut and cleaned to what a device may be called. */
export function nameOfImage(image: string): string {
  const path = isUri(image) ? decoded(image.replace(/^[^:]*:/, '').replace(/\?.*$/s, '')) : image;
  const clean = Array.from(basename(path), (c) => (hasControl(c) ? '_' : c)).join('');
  let name = '';
  for (const c of clean.trim()) {
    if (Buffer.byteLength(name + c) > NAME_BYTES_MAX) break;
    name += c;
  }
  name = name.trim();
  return name === '' || name === '.' || name === '..' ? NAME_IF_NONE : name;
}

/** A file that is there is that file, whatever its name looks like, unless a backend has the scheme. */
function isUri(image: string): boolean {
  const scheme = /^([a-z][a-z0-9+-]*):/.exec(image)?.[1];
  if (scheme === undefined) return false;
  return isBackendScheme(scheme) || !existsSync(image);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
