// Opening and sizing files and block-device nodes for the file backend.

import { closeSync, constants, fstatSync, ftruncateSync, openSync, statfsSync } from 'node:fs';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { Status, statusName, statusOfError } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { IoFile } from '../io/engine.ts';
import {
  BLKGETSIZE64,
  BLKPBSZGET,
  BLKSSZGET,
  errno,
  flock,
  ioctlPtr,
  LOCK_EX,
  LOCK_NB,
} from '../io/posix.ts';

const LOCK_SH = 1;
const TMPFS_MAGIC = 0x01021994;
const RAMFS_MAGIC = 0x858458f6;
const PAGE_BYTES = 4096;

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
  readonly sizeBytes: number;
  readonly isBlockDevice: boolean;
  readonly logicalBlockBytes: number;
  readonly physicalBlockBytes: number;
}

export function openFile(options: FileOptions): OpenedFile {
  const { path } = options;
  const fd = openFd(options);
  try {
    if (options.lock) lockFile(fd, options);
    const stat = fstatSync(fd);
    if (stat.isDirectory()) throw new DmError(Status.Invalid, `device ${path}: is a directory`);
    if (stat.isBlockDevice()) return blockDevice(fd, options);
    if (!stat.isFile()) {
      throw invalid(`device ${path}: neither a regular file nor a block device`);
    }
    return regularFile(fd, stat.size, options);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function openFd(options: FileOptions): number {
  const { path, isReadOnly, isDirect, create } = options;
  const flags =
    (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) |
    (create && !isReadOnly ? constants.O_CREAT : 0) |
    (isDirect ? constants.O_DIRECT : 0);
  try {
    return openSync(path, flags, 0o600);
  } catch (error) {
    const status = statusOfError(error);
    const hint = isDirect && status === Status.Invalid ? ' (O_DIRECT is refused there)' : '';
    const code = (error as { code?: string }).code;
    const what = code === 'ENOENT' ? 'No such file or directory' : errorText(error);
    throw new DmError(status, `device ${path}: cannot open: ${what}${hint}`, { cause: error });
  }
}

/** Writers exclude everybody, readers exclude writers. */
function lockFile(fd: number, options: FileOptions): void {
  if (flock(fd, (options.isReadOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) === 0) return;
  const e = errno();
  if (e !== Status.Again) {
    throw new DmError(e, `device ${options.path}: cannot lock: ${statusName(e)}`);
  }
  throw new DmError(
    Status.Busy,
    `device ${options.path}: Device or resource busy: another process has it open (lock=0 overrides)`,
  );
}

function regularFile(fd: number, foundBytes: number, options: FileOptions): OpenedFile {
  let sizeBytes = foundBytes;
  if (options.sizeBytes !== undefined && options.sizeBytes > sizeBytes) {
    if (options.isReadOnly) {
      throw invalid(
        `device ${options.path}: has ${sizeBytes} bytes, size=${options.sizeBytes} wanted, read-only`,
      );
    }
    grow(fd, options.path, options.sizeBytes);
    sizeBytes = options.sizeBytes;
  }
  if (sizeBytes < SECTOR_BYTES) {
    throw invalid(
      `device ${options.path}: ${sizeBytes} bytes: need at least one sector (size=SIZE grows it)`,
    );
  }
  const block = options.isDirect ? PAGE_BYTES : SECTOR_BYTES;
  return {
    fd,
    sizeBytes,
    isDirect: options.isDirect,
    isMemory: !options.isDirect && isMemoryFs(options.path),
    isBlockDevice: false,
    logicalBlockBytes: block,
    physicalBlockBytes: PAGE_BYTES,
  };
}

function grow(fd: number, path: string, sizeBytes: number): void {
  try {
    ftruncateSync(fd, sizeBytes);
  } catch (error) {
    throw new DmError(
      statusOfError(error),
      `device ${path}: cannot grow to ${sizeBytes} bytes: ${errorText(error)}`,
    );
  }
}

function isMemoryFs(path: string): boolean {
  const { type } = statfsSync(path);
  return type === TMPFS_MAGIC || type === RAMFS_MAGIC;
}

function blockDevice(fd: number, options: FileOptions): OpenedFile {
  const ioctl = (request: number, bytes: number): number => {
    const out = new Uint8Array(8);
    if (ioctlPtr(fd, request, out) < 0) {
      throw new DmError(errno(), `device ${options.path}: ioctl: ${statusName(errno())}`);
    }
    const view = new DataView(out.buffer);
    return bytes === 8 ? Number(view.getBigUint64(0, true)) : view.getUint32(0, true);
  };
  return {
    fd,
    sizeBytes: ioctl(BLKGETSIZE64, 8),
    isDirect: options.isDirect,
    isMemory: false,
    isBlockDevice: true,
    logicalBlockBytes: ioctl(BLKSSZGET, 4),
    physicalBlockBytes: ioctl(BLKPBSZGET, 4),
  };
}
