// A mapped device of the daemon as a disk of this command: exported for as long as the command uses it, under a name
// that says whose it is. A file is one as well.

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
import { removeLeftExports, withCommands } from './left-behind.ts';
import { told, WatchedDisk } from './watched-disk.ts';

const BUFFER_BYTES = 32 * MIB;
/** How long I/O may go on behind an interruption. */
const ABORT_MS = 1000;

export interface OpenedDisk {
  readonly disk: Disk;
  close(): Promise<void>;
}

/**
 * Opens a mapped device. `isAlone`: nobody else has its sectors meanwhile, through whatever device.
 * Throws DmError.
 */
export async function openDaemonDisk(
  device: string,
  options: {
    readonly as: string;
    readonly isReadOnly: boolean;
    /** As ExportOptions has it. */
    readonly isExclusive?: boolean;
    readonly isAlone?: boolean;
    /** Aborted: what is not done in a moment fails, such as I/O of a device that is suspended. */
    readonly signal?: AbortSignal;
  },
): Promise<OpenedDisk> {
  const { as: name, isReadOnly, isExclusive = false, isAlone = false, signal } = options;
  if (isAlone) await removeLeftExports();
  let blockBytes = 0;
  try {
    const status = await call('createExport', { name, device, isReadOnly, isExclusive, isAlone });
    // Who has it alone may lay out what is for its blocks; for others any part of one will do.
    if (isAlone) ({ blockBytes } = status);
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    throw new DmError(error.status, withCommands(error.message), { cause: error });
  }
  let removed: Promise<void> | undefined;
  let timer: NodeJS.Timeout | undefined;
  const cut = (): void => {
    timer = setTimeout(() => {
      removed ??= call('removeExport', name, { force: true });
      removed.catch(() => undefined);
    }, ABORT_MS);
  };
  const removeExport = async (): Promise<void> => {
    signal?.removeEventListener('abort', cut);
    clearTimeout(timer);
    removed ??= call('removeExport', name, { force: true });
    await removed;
  };
  if (signal?.aborted === true) cut();
  signal?.addEventListener('abort', cut);
  try {
    const socket = encodeURIComponent(commandsSocketPath());
    const uri = `nbd+unix:///${encodeURIComponent(name)}?socket=${socket}&reconnect=0`;
    const opened = await openDisk(uri, isReadOnly, {
      name: `device ${device}`,
      mapped: device,
      blockBytes,
    });
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
  options: {
    readonly name?: string | undefined;
    readonly mapped?: string;
    readonly blockBytes?: number;
  },
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
