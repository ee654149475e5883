// Reading and writing mapped devices of a desk's daemon in tests: each has an export for as long as that takes.

import { join } from 'node:path';
import { type OpenedDisk, openReferenceDisk } from '../cli/daemon-disk.ts';
import type { Desk } from './daemon-desk.ts';

export function exportUri(d: Desk, name: string): string {
  const socket = encodeURIComponent(join(d.path, 'lamina', 'nbd.sock'));
  return `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}`;
}

/** All of a device from `at` on, or so many bytes. */
export async function readExport(
  d: Desk,
  name: string,
  at = 0,
  lenBytes?: number,
): Promise<Buffer> {
  return await withExport(d, name, true, async ({ disk }) => {
    return await disk.read(at, lenBytes ?? disk.sizeBytes - at);
  });
}

export async function writeExport(d: Desk, name: string, data: Uint8Array, at = 0): Promise<void> {
  await withExport(d, name, false, async ({ disk }) => {
    await disk.write(at, data);
    await disk.flush();
  });
}

async function withExport<T>(
  d: Desk,
  name: string,
  isReadOnly: boolean,
  use: (opened: OpenedDisk) => Promise<T>,
): Promise<T> {
  d.ok(['export', 'add', name]);
  try {
    const opened = await openReferenceDisk(`${exportUri(d, name)}&reconnect=0`, isReadOnly);
    try {
      return await use(opened);
    } finally {
      await opened.close();
    }
  } finally {
    d.ok(['export', 'remove', name]);
  }
}
