// Where headers are: a file, a block device, or in tests a disk that loses power. Bytes throughout.
//
// Who writes has the data alone (data-lock.ts, and on block devices O_EXCL as well), and from the first write on the
// header by flock, as cryptsetup does for LUKS2 in files: not while a passphrase is typed or a key derived, because
// cryptsetup waits for that lock without a word. If the header is no longer what it was when the file was opened,
// nothing is written. Who only reads takes no lock: a LUKS2 copy that is being written fails its checksum and the
// other one is taken, and a device that is open stays readable.

import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  ftruncateSync,
  openSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { DmError, failedCall, invalid } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { syncFolderOf } from '../../io/durable-file.ts';
import { lockData } from '../../io/data-lock.ts';
import { fileSizeBytes } from '../../io/file-size.ts';
import { flockHolder, heldBy } from '../../io/lock-holder.ts';
import { errno, flock, LOCK_EX, LOCK_NB } from '../../io/posix.ts';
import { damaged } from './luks-error.ts';

const sync = promisify(fsync);
/** The binary part of a LUKS2 header, and all of a LUKS1 header without its keys. */
const BEGIN_BYTES = 4096;
/** cryptsetup derives a key under this lock. */
const LOCK_WAIT_MS = 10_000;
/** Behind this long, whoever waits is told for whom. */
const SILENT_MS = 1000;
const LOOK_AGAIN_MS = 20;
/** Nobody wakes whoever waits for this. */
const NEVER = new Int32Array(new SharedArrayBuffer(4));

export interface LuksIo {
  /** For messages. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Fills `into`. Throws DmError at the end of the device, and when it cannot be read. */
  read(at: number, into: Uint8Array): void;
  write(at: number, data: Uint8Array): void;
  /** Fills `into` with what the device itself has, whatever is known of it from before. Throws as `read`. */
  readBack(at: number, into: Uint8Array): Promise<void>;
  /** Everything written before is durable when this resolves. */
  flush(): Promise<void>;
}

export interface LuksFileOptions {
  readonly isReadOnly: boolean;
  /**
   * Write without having it alone: somebody else keeps others out, and uses the data behind the
   * header only.
   */
  readonly isShared?: boolean;
  /** Where the header begins that is to be written, if not at the begin of the file. */
  readonly headerAt?: number;
  /** Hears, once, whom a write waits for. */
  readonly onWait?: ((who: string) => void) | undefined;
}

export class LuksFile implements LuksIo {
  readonly path: string;
  readonly isBlockDevice: boolean;
  readonly #fd: number;
  #sizeBytes: number;
  /** Made here, and its name not synced yet. */
  #isNew = false;
  /** How the header began when the file was opened; undefined once it is locked. */
  #was: Uint8Array | undefined;
  readonly #headerAt: number;
  readonly #onWait: LuksFileOptions['onWait'];

  private constructor(
    path: string,
    fd: number,
    isBlockDevice: boolean,
    options: Pick<LuksFileOptions, 'headerAt' | 'onWait'> = {},
  ) {
    this.path = path;
    this.#headerAt = options.headerAt ?? 0;
    this.#onWait = options.onWait;
    this.#fd = fd;
    this.isBlockDevice = isBlockDevice;
    this.#sizeBytes = fileSizeBytes(path, fd);
  }

  /** Throws DmError. */
  static open(path: string, options: LuksFileOptions): LuksFile {
    const isLocked = !options.isReadOnly && options.isShared !== true;
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) throw new DmError(Status.NoEntry, `${path}: no such file`);
    if (!found.isFile() && !found.isBlockDevice()) {
      throw invalid(`${path}: need a file or a block device`);
    }
    const isExclusive = isLocked && found.isBlockDevice();
    const mode = options.isReadOnly ? constants.O_RDONLY : constants.O_RDWR;
    const fd = opened(path, mode | (isExclusive ? constants.O_EXCL : 0));
    try {
      if (isLocked) lockAlone(path, fd);
      const file = new LuksFile(path, fd, found.isBlockDevice(), options);
      if (!options.isReadOnly) file.#was = file.#begin();
      return file;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** A new file of zeroes, for its owner only. Throws DmError if there is one. */
  static create(path: string, sizeBytes: number): LuksFile {
    const fd = opened(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      lockAlone(path, fd);
      lockHeader(path, fd);
      const file = new LuksFile(path, fd, false);
      file.lengthen(sizeBytes);
      file.#isNew = true;
      return file;
    } catch (error) {
      closeSync(fd);
      rmSync(path, { force: true });
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Makes a regular file at least so long. */
  lengthen(sizeBytes: number): void {
    if (this.isBlockDevice || this.#sizeBytes >= sizeBytes) return;
    this.#call('lengthen', () => ftruncateSync(this.#fd, sizeBytes));
    this.#sizeBytes = sizeBytes;
  }

  read(at: number, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const n = this.#call('read', () =>
        readSync(this.#fd, into, done, into.length - done, at + done),
      );
      if (n === 0) throw endsEarly(this.path, at + into.length, this.#sizeBytes);
      done += n;
    }
  }

  async readBack(at: number, into: Uint8Array): Promise<void> {
    this.read(at, into);
    await Promise.resolve();
  }

  write(at: number, data: Uint8Array): void {
    if (this.#was !== undefined) this.#lock(this.#was);
    for (let done = 0; done < data.length; ) {
      const n = this.#call('write', () =>
        writeSync(this.#fd, data, done, data.length - done, at + done),
      );
      done += n;
    }
  }

  /** The begin of the header: every change of LUKS2 changes it, and every change of which keys there are. */
  #begin(): Uint8Array {
    const begin = new Uint8Array(BEGIN_BYTES);
    const got = this.#call('read', () => readSync(this.#fd, begin, 0, BEGIN_BYTES, this.#headerAt));
    return begin.subarray(0, got);
  }

  #lock(was: Uint8Array): void {
    lockHeader(this.path, this.#fd, this.#onWait);
    if (Buffer.compare(was, this.#begin()) !== 0) {
      const text = `${this.path}: another program has changed the header meanwhile; try again`;
      throw new DmError(Status.Busy, text);
    }
    if (!this.#isThere()) {
      const text = `${this.path}: has been deleted or replaced meanwhile; nothing is changed`;
      throw new DmError(Status.NoEntry, text);
    }
    this.#was = undefined;
  }

  /** Whether the name still is that of the file. */
  #isThere(): boolean {
    const mine = fstatSync(this.#fd);
    const named = statSync(this.path, { throwIfNoEntry: false });
    return named !== undefined && named.ino === mine.ino && named.dev === mine.dev;
  }

  async flush(): Promise<void> {
    try {
      await sync(this.#fd);
      // Its name as well, or a crash takes the backup that was reported as made.
      if (this.#isNew) await syncFolderOf(this.path);
      this.#isNew = false;
    } catch (error) {
      throw failedCall(this.path, 'flush', error);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #call<T>(what: string, call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw failedCall(this.path, what, error);
    }
  }
}

export function endsEarly(path: string, needBytes: number, sizeBytes: number): DmError {
  return damaged(`${path}: ends at byte ${sizeBytes}, the header needs ${needBytes}`);
}

function opened(path: string, flags: number, mode = 0o600): number {
  try {
    return openSync(path, flags, mode);
  } catch (error) {
    const status = statusOfError(error);
    if (status === Status.Busy) throw busy(path);
    throw failedCall(path, 'open', error);
  }
}

function lockAlone(path: string, fd: number): void {
  const status = lockData(fd, false);
  if (status === Status.Ok) return;
  if (status === Status.Again) throw busy(path);
  throw new DmError(status, `${path}: cannot lock: ${errnoText(status)}`);
}

/** Other programs have this lock for seconds only; whoever has it longer is named. */
function lockHeader(path: string, fd: number, onWait?: (who: string) => void): void {
  const from = performance.now();
  let isTold = onWait === undefined;
  while (flock(fd, LOCK_EX | LOCK_NB) !== 0) {
    const status = errno();
    if (status !== Status.Again) {
      throw new DmError(status, `${path}: cannot lock: ${errnoText(status)}`);
    }
    const waitedMs = performance.now() - from;
    const who = (): string => flockHolder(fd) ?? 'another program';
    if (waitedMs > LOCK_WAIT_MS) {
      throw new DmError(Status.Busy, `${path}: ${who()} has its header locked; try again`);
    }
    if (!isTold && waitedMs > SILENT_MS) {
      isTold = true;
      onWait?.(who());
    }
    Atomics.wait(NEVER, 0, 0, LOOK_AGAIN_MS);
  }
}

function busy(path: string): DmError {
  return new DmError(Status.Busy, `${path}: is in use${heldBy(path)}; close what uses it first`);
}
