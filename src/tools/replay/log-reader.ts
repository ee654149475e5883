// Reads a log of dm-log-writes from a file or a block device, entry by entry: memory does not grow with
// the log. Nothing in it is believed: every field is checked before it is used, and an error names the
// field, what was found, what was expected, and the entry.

import { closeSync, openSync, readSync } from 'node:fs';
import { DmError, errorText } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { isPowerOfTwo, KIB, MIB } from '../../base/units.ts';
import {
  decodeLogHeader,
  decodeLogSuper,
  LOG_BLOCK_BYTES_MAX,
  LOG_BLOCK_BYTES_MIN,
  LOG_ENTRY_BYTES,
  LOG_FLAGS_ALL,
  LOG_MAGIC,
  LOG_SUPER_BYTES,
  LOG_VERSION,
  LogFlag,
} from '../../format/log-writes.ts';
import { fileSizeBytes } from '../../io/file-size.ts';

/** A log that cannot be read as one. */
export class LogError extends DmError {
  constructor(path: string, what: string) {
    super(Status.Invalid, `${path}: ${what}`);
  }
}

export interface LogEntry {
  /** Counted from 0. */
  readonly index: number;
  /** On the logged device, bytes. */
  readonly offBytes: number;
  readonly lenBytes: number;
  /** Bits of LogFlag. */
  readonly flags: number;
  /** A mark's text. */
  readonly mark: string | undefined;
  /** Where the entry's header is in the log, bytes. */
  readonly logOffBytes: number;
  /** Where its data is in the log, bytes. */
  readonly dataOffBytes: number;
  /** Bytes of data in the log: `lenBytes`, or 0 for what has none. */
  readonly dataBytes: number;
}

/** Where reading may start: an entry that has been read before, or the log's first. */
export interface LogPosition {
  readonly index: number;
  readonly logOffBytes: number;
}

/** Data is read in pieces of at most this, bytes. */
const PIECE_BYTES = MIB;
/** Headers are small and often close together. */
const HEADER_READ_BYTES = 64 * KIB;

export class LogReader {
  readonly path: string;
  /** Unit of the log, and block size of the logged device, bytes. */
  readonly blockBytes: number;
  /** What the super counts. */
  readonly entryCount: number;
  readonly sizeBytes: number;
  readonly #fd: number;
  readonly #headers = Buffer.alloc(HEADER_READ_BYTES);
  #headersAt = 0;
  #headersLen = 0;

  private constructor(path: string, fd: number, log: Super) {
    this.path = path;
    this.#fd = fd;
    this.blockBytes = log.blockBytes;
    this.entryCount = log.entries;
    this.sizeBytes = log.sizeBytes;
  }

  /** Throws LogError for what is no log, DmError for what cannot be opened. */
  static open(path: string): LogReader {
    const fd = openFile(path);
    try {
      return new LogReader(path, fd, readSuper(path, fd));
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Entries in order, from the first or from `start` on. Throws LogError at one that makes no sense. */
  *entries(start?: LogPosition): Generator<LogEntry, void, undefined> {
    let at = start?.logOffBytes ?? this.blockBytes;
    for (let index = start?.index ?? 0; index < this.entryCount; index++) {
      const entry = this.#entryAt(index, at);
      at = entry.dataOffBytes + entry.dataBytes;
      yield entry;
    }
  }

  /** The data of an entry, in pieces of at most 1 MiB; a piece is valid until the next one. */
  *data(entry: LogEntry): Generator<Buffer, void, undefined> {
    const buffer = Buffer.alloc(Math.min(PIECE_BYTES, entry.dataBytes));
    for (let done = 0; done < entry.dataBytes; ) {
      const len = Math.min(buffer.length, entry.dataBytes - done);
      if (readFull(this.#fd, buffer, len, entry.dataOffBytes + done) < len) {
        throw new LogError(
          this.path,
          `entry ${entry.index}: data: the log ended while it was read`,
        );
      }
      yield buffer.subarray(0, len);
      done += len;
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #entryAt(index: number, at: number): LogEntry {
    const { blockBytes } = this;
    if (at + blockBytes > this.sizeBytes) {
      throw new LogError(
        this.path,
        `entry ${index}: header at byte ${at}: the log has ${this.sizeBytes} bytes, and its super ` +
          `counts ${this.entryCount} entries`,
      );
    }
    const header = this.#header(at);
    const raw = decodeLogHeader(viewOf(header), 0);
    const flags = Number(raw.flags);
    if (raw.flags > LOG_FLAGS_ALL) {
      throw this.#bad(index, 'flags', `0x${raw.flags.toString(16)}`, 'bits 0x1f only');
    }
    const isMark = (flags & LogFlag.Mark) !== 0;
    const textMax = blockBytes - LOG_ENTRY_BYTES;
    if (raw.textBytes > (isMark ? textMax : 0)) {
      const expected = isMark ? `at most ${textMax}` : '0 (it is no mark)';
      throw this.#bad(index, 'data_len', String(raw.textBytes), expected);
    }
    const offBytes = Number(raw.block) * blockBytes;
    const lenBytes = Number(raw.blocks) * blockBytes;
    if (!Number.isSafeInteger(offBytes + lenBytes)) {
      const found = `${raw.block} and ${raw.blocks}`;
      throw this.#bad(index, 'sector and nr_sectors', found, 'an end below 2^53 bytes');
    }
    const hasData = (flags & (LogFlag.Discard | LogFlag.Mark)) === 0;
    const dataBytes = hasData ? lenBytes : 0;
    const room = this.sizeBytes - at - blockBytes;
    if (dataBytes > room) {
      const expected = `at most ${Math.floor(room / blockBytes)}, which is where the log ends`;
      throw this.#bad(index, 'nr_sectors', String(raw.blocks), expected);
    }
    const textEnd = LOG_ENTRY_BYTES + Number(raw.textBytes);
    return {
      index,
      offBytes,
      lenBytes,
      flags,
      mark: isMark ? header.toString('utf8', LOG_ENTRY_BYTES, textEnd) : undefined,
      logOffBytes: at,
      dataOffBytes: at + blockBytes,
      dataBytes,
    };
  }

  /** The header block at byte `at`; valid until the next one. */
  #header(at: number): Buffer {
    const { blockBytes } = this;
    if (at < this.#headersAt || at + blockBytes > this.#headersAt + this.#headersLen) {
      this.#headersLen = readFull(this.#fd, this.#headers, HEADER_READ_BYTES, at);
      this.#headersAt = at;
    }
    const from = at - this.#headersAt;
    return this.#headers.subarray(from, from + blockBytes);
  }

  #bad(index: number, field: string, found: string, expected: string): LogError {
    return new LogError(
      this.path,
      `entry ${index}: ${field}: found ${found}, expected ${expected}`,
    );
  }
}

/** Opens a log of dm-log-writes. Throws LogError for what is no log, DmError for what cannot be opened. */
export function openLog(path: string): LogReader {
  return LogReader.open(path);
}

interface Super {
  readonly blockBytes: number;
  readonly entries: number;
  readonly sizeBytes: number;
}

function openFile(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: ${errorText(error)}`, { cause: error });
  }
}

function readSuper(path: string, fd: number): Super {
  const sizeBytes = fileSizeBytes(path, fd);
  const bytes = Buffer.alloc(LOG_SUPER_BYTES);
  if (readFull(fd, bytes, LOG_SUPER_BYTES, 0) < LOG_SUPER_BYTES) {
    throw new LogError(
      path,
      `super: found ${sizeBytes} bytes, expected ${LOG_SUPER_BYTES} or more`,
    );
  }
  const { magic, version, entries, blockBytes } = decodeLogSuper(viewOf(bytes), 0);
  const bad = (field: string, found: string, expected: string): LogError =>
    new LogError(path, `super: ${field}: found ${found}, expected ${expected}`);
  if (magic !== LOG_MAGIC) {
    throw bad('magic', `0x${magic.toString(16)}`, `0x${LOG_MAGIC.toString(16)} (no log is here)`);
  }
  if (version !== LOG_VERSION) throw bad('version', String(version), String(LOG_VERSION));
  const isInRange = blockBytes >= LOG_BLOCK_BYTES_MIN && blockBytes <= LOG_BLOCK_BYTES_MAX;
  if (!isPowerOfTwo(blockBytes) || !isInRange) {
    const range = `${LOG_BLOCK_BYTES_MIN}..${LOG_BLOCK_BYTES_MAX}`;
    throw bad('sectorsize', String(blockBytes), `a power of two in ${range}`);
  }
  const room = Math.max(0, Math.floor(sizeBytes / blockBytes) - 1);
  if (entries > room) {
    const expected = `at most ${room}, one a block of this log of ${sizeBytes} bytes`;
    throw bad('nr_entries', String(entries), expected);
  }
  return { blockBytes, entries: Number(entries), sizeBytes };
}

/** Reads up to `len` bytes at `at`; fewer only at the end of the file. */
function readFull(fd: number, into: Buffer, len: number, at: number): number {
  let done = 0;
  while (done < len) {
    const n = readSync(fd, into, done, len - done, at + done);
    if (n === 0) break;
    done += n;
  }
  return done;
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
