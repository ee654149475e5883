// Where backup streams are: files, and standard input and output.

import {
  accessSync,
  close,
  constants,
  existsSync,
  fstatSync,
  fsync,
  ftruncateSync,
  open,
  read,
  renameSync,
  statSync,
  unlinkSync,
  write,
} from 'node:fs';
import { promisify } from 'node:util';
import { DmError, failedCall } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import {
  BACKUP_HEADER_BYTES,
  BACKUP_MAGIC,
  BackupHeader,
  crcOf,
  END_BYTES,
  RECORD_HEAD_BYTES,
  RecordHead,
  RecordKind,
} from '../../format/backup.ts';
import { lockData } from '../../io/data-lock.ts';
import { behindLinks, syncFolderOf } from '../../io/durable-file.ts';
import { heldBy } from '../../io/lock-holder.ts';
import type { Source } from './stream-reader.ts';

const openFd = promisify(open);
const closeFd = promisify(close);
const syncFd = promisify(fsync);
const readFd = promisify(read);
const writeFd = promisify(write);

const STDIN_FD = 0;
const STDOUT_FD = 1;
const AGAIN_MS = 5;

/** A stream that is read: a file, or `-` for standard input. */
export class StreamFile {
  readonly name: string;
  /** Undefined: a pipe. */
  readonly sizeBytes: number | undefined;
  readonly #fd: number;

  private constructor(name: string, fd: number, sizeBytes: number | undefined) {
    this.name = name;
    this.#fd = fd;
    this.sizeBytes = sizeBytes;
  }

  /** Throws DmError. Of a file it is checked that its end is there. */
  static async open(path: string): Promise<StreamFile> {
    if (path === '-') return new StreamFile('-', STDIN_FD, undefined);
    const fd = await named(path, 'open', async () => await openFd(path, 'r'));
    const found = fstatSync(fd);
    return new StreamFile(path, fd, found.isFile() ? found.size : undefined);
  }

  /** Whether the stream is read from the file that has this name. */
  isAt(path: string): boolean {
    const named = statSync(path, { bigint: true, throwIfNoEntry: false });
    if (named === undefined) return false;
    const own = fstatSync(this.#fd, { bigint: true });
    return own.dev === named.dev && own.ino === named.ino;
  }

  readonly source: Source = async (into) => {
    let done = 0;
    while (done < into.length) {
      const n = await this.#some(into, done);
      if (n === 0) break;
      done += n;
    }
    return done;
  };

  /** The stream of a file once more, from its begin. */
  again(): Source {
    let at = 0;
    return async (into) => {
      let done = 0;
      while (done < into.length) {
        const left = into.length - done;
        const { bytesRead } = await named(
          this.name,
          'read',
          async () => await readFd(this.#fd, into, done, left, at),
        );
        if (bytesRead === 0) break;
        done += bytesRead;
        at += bytesRead;
      }
      return done;
    };
  }

  /** Refuses a file that does not end as a backup does: one that is cut off. Throws DmError. */
  async checkEnd(): Promise<void> {
    const { sizeBytes } = this;
    if (sizeBytes === undefined) return;
    const end = new Uint8Array(END_BYTES);
    const at = sizeBytes - END_BYTES;
    const found = at < 0 ? { bytesRead: 0 } : await readFd(this.#fd, end, 0, END_BYTES, at);
    const view = new DataView(end.buffer);
    const isEnd =
      found.bytesRead === END_BYTES &&
      RecordHead.crc.get(view, 0) ===
        crcOf(end.subarray(0, RECORD_HEAD_BYTES), RecordHead.crc.offset) &&
      RecordHead.kind.get(view, 0) === RecordKind.End &&
      RecordHead.offset.get(view, 0) === at;
    if (isEnd) return;
    throw new DmError(Status.BadMessage, `${this.name}: ${await this.#faultOfEnd(sizeBytes)}`);
  }

  /** Goes from head to head for what is wrong with the end: it may be too early, or not the file's. */
  async #faultOfEnd(sizeBytes: number): Promise<string> {
    const head = new Uint8Array(RECORD_HEAD_BYTES);
    const view = new DataView(head.buffer);
    let at = BACKUP_HEADER_BYTES;
    while (at + RECORD_HEAD_BYTES <= sizeBytes) {
      await readFd(this.#fd, head, 0, RECORD_HEAD_BYTES, at);
      if (RecordHead.crc.get(view, 0) !== crcOf(head, RecordHead.crc.offset)) {
        return `byte ${at}: a record with a wrong checksum, and no end as a backup has it`;
      }
      const kind = RecordHead.kind.get(view, 0);
      if (kind === RecordKind.End) {
        const end = at + END_BYTES;
        if (end < sizeBytes) return await this.#textOfMore(end, sizeBytes);
        break;
      }
      at += RECORD_HEAD_BYTES + (kind === RecordKind.Data ? RecordHead.length.get(view, 0) : 0);
    }
    return `does not end as a backup does: it is cut off at byte ${sizeBytes}`;
  }

  async #textOfMore(end: number, sizeBytes: number): Promise<string> {
    const next = Buffer.alloc(BackupHeader.magic.sizeBytes);
    await readFd(this.#fd, next, 0, next.length, end);
    const isNext = BackupHeader.magic.get(new DataView(next.buffer, next.byteOffset), 0);
    const more = `the backup ends at byte ${end}, and ${sizeBytes - end} bytes more are behind it`;
    if (isNext !== BACKUP_MAGIC) return `${more}; 'truncate -s ${end}' takes them away`;
    return `${more}, another backup: each needs a file of its own`;
  }

  async close(): Promise<void> {
    if (this.#fd !== STDIN_FD) await closeFd(this.#fd);
  }

  async #some(into: Uint8Array, done: number): Promise<number> {
    for (;;) {
      try {
        const { bytesRead } = await readFd(this.#fd, into, done, into.length - done, null);
        return bytesRead;
      } catch (error) {
        if (statusOfError(error) !== Status.Again)
          throw failedCall(this.name === '-' ? 'standard input' : this.name, 'read', error);
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }
}

/** A stream that is written. A file has its name only when all of it is there and durable. */
export class StreamSink {
  readonly #path: string;
  readonly #fd: number;
  readonly #overwrites: boolean;
  /** The file that is to be overwritten, locked so that nobody begins to use it; undefined: there is none. */
  #old: number | undefined;
  #isFinished = false;

  private constructor(path: string, fd: number, overwrites = false, old?: number) {
    this.#path = path;
    this.#fd = fd;
    this.#overwrites = overwrites;
    this.#old = old;
  }

  /** Throws DmError. */
  static async open(to: string, options: { readonly overwrites: boolean }): Promise<StreamSink> {
    if (to === '-') return new StreamSink('-', STDOUT_FD);
    const path = behindLinks(to);
    const found = statSync(path, { throwIfNoEntry: false });
    if (found !== undefined && !found.isFile()) {
      throw new DmError(Status.Invalid, `${path}: need a file, or - for standard output`);
    }
    if (found !== undefined && !options.overwrites) {
      throw exists(path);
    }
    const old = found && (await named(path, 'open', async () => await lockOld(path)));
    try {
      const fd = await named(partial(path), 'make', async () => await openPartial(path));
      const sink = new StreamSink(path, fd, options.overwrites, old);
      // Another backup may have ended meanwhile.
      if (options.overwrites || !existsSync(path)) return sink;
      await sink.abandon();
    } catch (error) {
      if (old !== undefined) await closeFd(old);
      throw error;
    }
    throw exists(path);
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      try {
        done += (await writeFd(this.#fd, bytes, done, bytes.length - done, null)).bytesWritten;
      } catch (error) {
        if (statusOfError(error) !== Status.Again)
          throw failedCall(this.#path === '-' ? 'standard output' : this.#path, 'write', error);
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }

  async finish(): Promise<void> {
    if (this.#fd === STDOUT_FD) return;
    const path = this.#path;
    await named(path, 'write', async () => {
      await syncFd(this.#fd);
      if (this.#old === undefined && existsSync(path)) {
        if (!this.#overwrites) throw exists(path);
        this.#old = await lockOld(path);
      }
      renameSync(partial(path), path);
      this.#isFinished = true;
      await closeFd(this.#fd);
      await this.#letOldGo();
      await syncFolderOf(path);
    });
  }

  /** Leaves nothing but what is finished. */
  async abandon(): Promise<void> {
    if (this.#fd === STDOUT_FD || this.#isFinished) return;
    unlinkSync(partial(this.#path));
    await closeFd(this.#fd).catch(() => undefined);
    await this.#letOldGo();
  }

  async #letOldGo(): Promise<void> {
    const old = this.#old;
    this.#old = undefined;
    if (old !== undefined) await closeFd(old);
  }
}

/** Refuses a file that somebody uses, such as the daemon for a pool. Throws DmError. */
async function lockOld(path: string): Promise<number> {
  const isReadOnly = !isWritable(path);
  const fd = await openFd(path, isReadOnly ? 'r' : 'r+');
  const status = lockData(fd, isReadOnly);
  if (status === Status.Ok) return fd;
  await closeFd(fd);
  if (status !== Status.Again) {
    throw new DmError(status, `${path}: cannot lock: ${errnoText(status)}`);
  }
  const text = `${path}: Device or resource busy: it is open elsewhere${heldBy(path)}`;
  throw new DmError(Status.Busy, text);
}

function isWritable(path: string): boolean {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** An empty file that nobody else writes; what a backup that was killed has left is lost. */
async function openPartial(path: string): Promise<number> {
  const name = partial(path);
  for (;;) {
    const fd = await openFd(name, constants.O_RDWR | constants.O_CREAT, 0o600);
    const status = lockData(fd, false);
    // Whoever had the lock may have given the file its other name, or removed it.
    const isThere =
      status === Status.Ok && statSync(name, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino;
    if (isThere) {
      ftruncateSync(fd, 0);
      return fd;
    }
    await closeFd(fd);
    if (status === Status.Again) {
      throw new DmError(Status.Busy, `${name}: another backup writes it`);
    }
    if (status !== Status.Ok)
      throw new DmError(status, `${name}: cannot lock: ${errnoText(status)}`);
  }
}

function exists(path: string): DmError {
  return new DmError(Status.Exists, `${path}: exists; --force overwrites it`);
}

function partial(path: string): string {
  return `${path}.partial`;
}

async function named<T>(path: string, what: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw failedCall(path, what, error);
  }
}
