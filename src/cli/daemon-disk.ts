// A mapped device of the daemon as a disk of this command: exported for as long as the command uses it, under a name
// that says whose it is. A file is one as well.
//
// A command that was killed leaves its export behind, and perhaps a snapshot. They are known by their names, which
// have the process in them, and the next command takes them away.

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { closeAll } from '../base/close-all.ts';
import { DmError } from '../base/errors.ts';
import { MIB } from '../base/units.ts';
import { openBackend } from '../backends/open.ts';
import type { Disk } from '../bio/disk.ts';
import { commandsSocketPath } from '../daemon/paths.ts';
import { Arena } from '../io/arena.ts';
import { NodeEngine } from '../io/node-engine.ts';
import { call } from './daemon-call.ts';
import { told, WatchedDisk } from './watched-disk.ts';

const BUFFER_BYTES = 32 * MIB;

export interface OpenedDisk {
  readonly disk: Disk;
  close(): Promise<void>;
}

/** What a command has something in the daemon for. One command may have one of each. */
export type Purpose =
  | 'backup'
  | 'restore'
  | 'luks'
  | 'verity-data'
  | 'verity-hash'
  | 'partitions'
  | 'compress'
  | 'compress-to';

/** A name for what this process makes in the daemon and takes away again. */
export function ownName(what: Purpose): string {
  return `lamina-${what}-${process.pid}-${startOf(process.pid)}`;
}

const OWN_NAME =
  /^lamina-(?:backup|restore|luks|verity-data|verity-hash|partitions|compress|compress-to)-(\d+)-(\d+)$/;

/** Whether a name is that of a process which is gone. */
export function isLeftBehind(name: string): boolean {
  const [, pid, start] = OWN_NAME.exec(name) ?? [];
  return pid !== undefined && String(startOf(Number(pid))) !== start;
}

/** Whether a name is that of an export by which a command looks at a header, and at nothing else. */
export function isOfLooker(name: string): boolean {
  return /^lamina-(?:luks|partitions)-/.test(name) && !isLeftBehind(name);
}

/** Takes away the exports that commands which were killed have left. */
export async function removeLeftExports(): Promise<void> {
  for (const { name } of await call('listExports')) {
    if (isLeftBehind(name)) await call('removeExport', name, { force: true });
  }
}

/** When a process began, in ticks since the boot; 0: there is none. */
function startOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // Behind the command's name, which may have blanks and brackets; field 22 of all.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  } catch {
    return 0;
  }
}

/** Opens a mapped device. Throws DmError. */
export async function openDaemonDisk(
  device: string,
  options: {
    readonly as: string;
    readonly isReadOnly: boolean;
    /** As ExportOptions has it. */
    readonly isExclusive?: boolean;
  },
): Promise<OpenedDisk> {
  const { as: name, isReadOnly, isExclusive = false } = options;
  await call('createExport', { name, device, isReadOnly, isExclusive });
  const removeExport = async (): Promise<void> => {
    await call('removeExport', name, { force: true });
  };
  try {
    const socket = encodeURIComponent(commandsSocketPath());
    const uri = `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}&reconnect=0`;
    const opened = await openDisk(uri, isReadOnly, { name: `device ${device}`, mapped: device });
    return {
      disk: opened.disk,
      close: async () => {
        await closeAll([async () => await named(device, uri, opened), removeExport]);
      },
    };
  } catch (error) {
    await removeExport();
    throw error;
  }
}

/** The address that a device has for this command alone is nothing to tell of. */
async function named(device: string, uri: string, opened: OpenedDisk): Promise<void> {
  try {
    await opened.close();
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    const text = error.message.replace(`device ${uri}`, `device ${device}`);
    throw new DmError(error.status, text, { cause: error });
  }
}

/** Opens a file or a block device. Throws DmError. */
export async function openFileDisk(path: string): Promise<OpenedDisk> {
  return await openReferenceDisk(resolve(path), false);
}

/** Opens what a table could name, but for mapped devices. `name` is what errors call it. Throws DmError. */
export async function openReferenceDisk(
  reference: string,
  readOnly: boolean,
  name?: string,
): Promise<OpenedDisk> {
  return await openDisk(reference, readOnly, { name });
}

async function openDisk(
  reference: string,
  readOnly: boolean,
  options: { readonly name?: string | undefined; readonly mapped?: string },
): Promise<OpenedDisk> {
  const engine = new NodeEngine(new Arena(BUFFER_BYTES));
  try {
    const { name = reference } = options;
    const opening = openBackend(reference, { readOnly }, engine);
    const device = await told(name, opening, () => '');
    const disk = new WatchedDisk(device, engine.arena, options);
    return {
      disk,
      close: async () => {
        await closeAll([async () => await disk.close(), () => engine.close()]);
      },
    };
  } catch (error) {
    engine.close();
    throw error;
  }
}
