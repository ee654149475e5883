// Opening, locking and sizing files and block-device nodes for the file backend.

import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  type Stats,
  statfsSync,
  statSync,
} from 'node:fs';
import type { Clock } from '../../base/clock.ts';
import { DmError, invalid } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { createDurably } from '../../io/durable-file.ts';
import { lockData } from '../../io/data-lock.ts';
import type { IoFile } from '../../io/engine.ts';
import { heldBy } from '../../io/lock-holder.ts';
import { BLKGETSIZE64, BLKPBSZGET, BLKSSZGET, errno, ioctlPtr, statx } from '../../io/posix.ts';

/** How long to wait for a lock, and how often to look. */
const LOCK_WAIT_MS = 500;
const LOCK_LOOK_MS = 10;
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
const PAGE_BYTES = 4096;
const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;

export interface FileOptions {
  readonly path: string;
  readonly isReadOnly: boolean;
  readonly isDirect: boolean;
  /** Make the file if it is not there; `sizeBytes` is its size then. */
  readonly create: boolean;
  /** Grow the file to this, bytes; never shrinks it. */
  readonly sizeBytes: number | undefined;
  readonly lock: boolean;
}

export interface OpenedFile extends IoFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly isBlockDevice: boolean;
  /** A block device's number, for what sysfs knows of it. */
  readonly rdev: number;
  readonly logicalBlockBytes: number;
  readonly physicalBlockBytes: number;
  /** Buffers of direct I/O start on a multiple of this. */
  readonly memAlignBytes: number;
}

/** Makes the file if it is not there and should be, so that it outlasts a crash. Throws DmError. */
export async function createMissing(options: FileOptions): Promise<void> {
  const { path, isReadOnly, create, sizeBytes } = options;
  if (!create || tryStat(path) !== undefined) return;
  if (sizeBytes === undefined) {
    throw invalid(`device ${path}: create=1 needs a size for the new file (size=SIZE)`);
  }
  if (isReadOnly) return;
  try {
    await createDurably(path, sizeBytes);
  } catch (cause) {
    const status = cause instanceof DmError ? cause.status : statusOfError(cause);
    // Somebody else has made the file meanwhile.
    if (status === Status.Exists) return;
    const text = `device ${path}: cannot make it with ${sizeBytes} bytes: ${errnoText(status)}`;
    throw new DmError(status, text, { cause });
  }
}

/** Throws DmError. */
export function openFile(options: FileOptions): OpenedFile {
  const { path } = options;
  const found = tryStat(path);
  if (found?.isDirectory()) throw isDirectory(path);
  const fd = openFd(options, found);
  try {
    const stat = fstatSync(fd);
    if (stat.isDirectory()) throw isDirectory(path);
    if (!stat.isFile() && !stat.isBlockDevice()) {
      throw invalid(`device ${path}: neither a regular file nor a block device`);
    }
    if (options.lock) lockFile(fd, options);
    // Its size is the size after the lock: the previous owner may have been growing it.
    return stat.isFile() ? regularFile(fd, options) : blockDevice(fd, stat, options);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/**
 * Opens a file that may still be locked by a process that is gone: after SIGKILL the kernel takes
 * its ring, and the files in it, apart behind its back. Who comes right away would be refused.
 * Throws DmError.
 */
export async function openUnlocked(options: FileOptions, clock: Clock): Promise<OpenedFile> {
  const until = clock.nowMs() + LOCK_WAIT_MS;
  for (;;) {
    try {
      return openFile(options);
    } catch (error) {
      const isLocked = error instanceof DmError && error.status === Status.Busy;
      if (!isLocked) throw error;
      if (clock.nowMs() >= until) throw busy(options, heldBy(options.path));
    }
    await new Promise<void>((done) => void clock.after(LOCK_LOOK_MS, done));
  }
}

function tryStat(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    const status = statusOfError(error);
    const text = `device ${path}: cannot open: ${errnoText(status)}`;
    throw new DmError(status, text, { cause: error });
  }
}

function isDirectory(path: string): DmError {
  return new DmError(
    Status.IsDirectory,
    `device ${path}: is a directory, expected a file or a block device`,
  );
}

function openFd(options: FileOptions, found: Stats | undefined): number {
  const { path, isReadOnly, isDirect } = options;
  if (isDirect && typeof constants.O_DIRECT !== 'number') {
    throw new DmError(Status.NotSupported, `device ${path}: direct=1: this system has no O_DIRECT`);
  }
  // A block device opened exclusively is not mounted or otherwise in use, and stays so.
  const isExclusive = !isReadOnly && options.lock && found?.isBlockDevice() === true;
  const flags =
    (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) |
    (isExclusive ? constants.O_EXCL : 0) |
    (isDirect ? constants.O_DIRECT : 0);
  try {
    return openSync(path, flags);
  } catch (error) {
    const status = statusOfError(error);
    if (status === Status.Busy) throw busy(options);
    const hint =
      isDirect && status === Status.Invalid ? ': the file system there refuses direct=1' : '';
    const text = `device ${path}: cannot open: ${errnoText(status)}${hint}`;
    throw new DmError(status, text, { cause: error });
  }
}

function busy(options: FileOptions, who = ''): DmError {
  const text = `device ${options.path}: Device or resource busy: it is open elsewhere${who}`;
  return new DmError(Status.Busy, text);
}

/** Writers exclude everybody, readers exclude writers. */
function lockFile(fd: number, options: FileOptions): void {
  const e = lockData(fd, options.isReadOnly);
  if (e === Status.Ok) return;
  if (e === Status.Again) throw busy(options);
  throw new DmError(
    e,
    `device ${options.path}: cannot lock: ${errnoText(e)} (file:PATH?lock=0 goes without)`,
  );
}

function regularFile(fd: number, options: FileOptions): OpenedFile {
  const { path, isDirect } = options;
  let sizeBytes = fstatSync(fd).size;
  if (options.sizeBytes !== undefined && options.sizeBytes > sizeBytes) {
    if (options.isReadOnly) {
      throw invalid(
        `device ${path}: has ${sizeBytes} bytes, size=${options.sizeBytes} wanted, read-only`,
      );
    }
    grow(fd, path, options.sizeBytes);
    sizeBytes = options.sizeBytes;
  }
  const align = isDirect ? directAlign(fd, path) : null;
  const logicalBlockBytes = align?.blockBytes ?? SECTOR_BYTES;
  if (sizeBytes < logicalBlockBytes) {
    throw invalid(
      `device ${path}: has ${sizeBytes} bytes, need at least one block of ` +
        `${logicalBlockBytes} (file:PATH?size=SIZE grows it)`,
    );
  }
  return {
    fd,
    path,
    sizeBytes,
    isDirect,
    isMemory: !isDirect && isMemoryFs(path),
    isBlockDevice: false,
    rdev: 0,
    logicalBlockBytes,
    physicalBlockBytes: Math.max(PAGE_BYTES, logicalBlockBytes),
    memAlignBytes: align?.memBytes ?? 1,
  };
}

function grow(fd: number, path: string, sizeBytes: number): void {
  try {
    ftruncateSync(fd, sizeBytes);
  } catch (error) {
    const status = statusOfError(error);
    const text = `device ${path}: cannot grow to ${sizeBytes} bytes: ${errnoText(status)}`;
    throw new DmError(status, text, { cause: error });
  }
}

function isMemoryFs(path: string): boolean {
  const { type } = statfsSync(path);
  return type === TMPFS_MAGIC || type === RAMFS_MAGIC;
}

interface DirectAlign {
  readonly blockBytes: number;
  readonly memBytes: number;
}

/**
 * What direct I/O to this file needs: asked of the kernel (6.1 and newer), else one page, which all
 * take.
 */
function directAlign(fd: number, path: string): DirectAlign {
  const out = new Uint32Array(64);
  const isKnown =
    statx(fd, '', AT_EMPTY_PATH, STATX_DIOALIGN, out) === 0 &&
    ((out[0] as number) & STATX_DIOALIGN) !== 0;
  if (!isKnown) return { blockBytes: PAGE_BYTES, memBytes: PAGE_BYTES };
  const memBytes = out[38] as number;
  const offsetBytes = out[39] as number;
  if (offsetBytes === 0) {
    throw new DmError(
      Status.NotSupported,
      `device ${path}: direct=1: its file system does no direct I/O on this file`,
    );
  }
  return { blockBytes: Math.max(SECTOR_BYTES, offsetBytes), memBytes: Math.max(1, memBytes) };
}

function blockDevice(fd: number, stat: Stats, options: FileOptions): OpenedFile {
  const { path, isDirect } = options;
  const ask = (request: number, what: string): Uint32Array => {
    const out = new Uint32Array(2);
    if (ioctlPtr(fd, request, new Uint8Array(out.buffer)) === 0) return out;
    const e = errno();
    throw new DmError(e, `device ${path}: cannot read its ${what}: ${errnoText(e)}`);
  };
  const [low = 0, high = 0] = ask(BLKGETSIZE64, 'size');
  const [logicalBlockBytes = 0] = ask(BLKSSZGET, 'logical block size');
  const [physicalBlockBytes = 0] = ask(BLKPBSZGET, 'physical block size');
  const sizeBytes = high * 4294967296 + low;
  if (sizeBytes < logicalBlockBytes) throw invalid(`device ${path}: has ${sizeBytes} bytes`);
  if (options.sizeBytes !== undefined && options.sizeBytes > sizeBytes) {
    throw invalid(
      `device ${path}: has ${sizeBytes} bytes, size=${options.sizeBytes} wanted: ` +
        'a block device does not grow',
    );
  }
  return {
    fd,
    path,
    sizeBytes,
    isDirect,
    isMemory: false,
    isBlockDevice: true,
    rdev: stat.rdev,
    logicalBlockBytes,
    physicalBlockBytes,
    memAlignBytes: isDirect ? Math.min(PAGE_BYTES, directAlign(fd, path).memBytes) : 1,
  };
}
