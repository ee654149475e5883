// Reads a backup stream and trusts nothing of it: every record is checked before it is given out, its place among
// the others too, and the whole at the end. What is wrong is a DmError that names the stream and the byte.

import { createHash } from 'node:crypto';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import {
  BACKUP_HEADER_BYTES,
  BACKUP_MAGIC,
  BACKUP_VERSION,
  BackupFlag,
  BackupHeader,
  crcOf,
  DIGEST_BYTES,
  END_BYTES,
  RECORD_DATA_BYTES_MAX,
  RECORD_HEAD_BYTES,
  RecordHead,
  RecordKind,
} from '../../format/backup.ts';
import type { BackupInfo } from './stream-writer.ts';

/** Fills `into` from where the last call ended; answers fewer bytes only at the end. */
export type Source = (into: Uint8Array) => Promise<number>;

/** Bytes [offset, offset + length) of the volume. */
export interface BackupRecord {
  readonly offset: number;
  readonly length: number;
  /** Undefined: zeros. Valid until the next record is asked for. */
  readonly data: Uint8Array | undefined;
}

export class BackupReader {
  readonly info: BackupInfo;
  readonly #name: string;
  readonly #source: Source;
  readonly #hash = createHash('sha256');
  readonly #buffer = new Uint8Array(RECORD_DATA_BYTES_MAX);
  #at = BACKUP_HEADER_BYTES;
  /** Where the last record ended in the volume. */
  #covered = 0;
  #dataBytes = 0;

  private constructor(name: string, source: Source, info: BackupInfo, header: Uint8Array) {
    this.#name = name;
    this.#source = source;
    this.info = info;
    this.#hash.update(header);
  }

  /** Reads the header. `name` is what errors call the stream. Throws DmError. */
  static async open(name: string, source: Source): Promise<BackupReader> {
    const header = new Uint8Array(BACKUP_HEADER_BYTES);
    const found = await source(header);
    return new BackupReader(name, source, decodeHeader(name, header.subarray(0, found)), header);
  }

  /** Bytes of the stream that have been read. */
  get streamBytes(): number {
    return this.#at;
  }

  get dataBytes(): number {
    return this.#dataBytes;
  }

  /** All records, in order. Ends when the whole was as it should be. Throws DmError. */
  async *records(): AsyncGenerator<BackupRecord> {
    const head = new Uint8Array(RECORD_HEAD_BYTES);
    const view = new DataView(head.buffer);
    for (;;) {
      const at = this.#at;
      await this.#fill(head);
      if (RecordHead.crc.get(view, 0) !== crcOf(head, RecordHead.crc.offset)) {
        throw this.#wrong(at, 'a record with a wrong checksum');
      }
      const { kind, offset, length, dataCrc } = this.#decode(view, at);
      if (kind === RecordKind.End) {
        await this.#checkEnd(at, offset, length);
        return;
      }
      this.#checkPlace(at, { kind, offset, length });
      if (kind === RecordKind.Zero) yield { offset, length, data: undefined };
      else {
        const data = this.#buffer.subarray(0, length);
        await this.#fill(data);
        if (crcOf(data) !== dataCrc) {
          throw this.#wrong(at, `the data for byte ${offset} of the volume has a wrong checksum`);
        }
        this.#dataBytes += length;
        yield { offset, length, data };
      }
    }
  }

  #decode(view: DataView, at: number): ReturnType<typeof RecordHead.$decode> {
    try {
      return RecordHead.$decode(view, 0);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw this.#wrong(at, error.message);
    }
  }

  #checkPlace(
    at: number,
    record: { readonly kind: number; readonly offset: number; readonly length: number },
  ): void {
    const { kind, offset, length } = record;
    const { sizeBytes } = this.info;
    if (kind !== RecordKind.Data && kind !== RecordKind.Zero) {
      throw this.#wrong(at, `a record of the unknown kind ${kind}`);
    }
    const max = kind === RecordKind.Data ? RECORD_DATA_BYTES_MAX : sizeBytes;
    if (length === 0 || length > max || length % 512 !== 0 || offset % 512 !== 0) {
      throw this.#wrong(at, `a record of ${length} bytes for byte ${offset}`);
    }
    if (offset < this.#covered || offset + length > sizeBytes) {
      const where = `expected ${this.#covered} or above, within ${sizeBytes}`;
      throw this.#wrong(at, `a record for bytes ${offset} to ${offset + length}, ${where}`);
    }
    this.#checkGap(at, offset);
    this.#covered = offset + length;
  }

  /** Only an increment may leave something out, and only what the base has. */
  #checkGap(at: number, offset: number): void {
    const optional = Math.min(this.info.base?.sizeBytes ?? 0, offset);
    if (Math.max(this.#covered, optional) === offset) return;
    throw this.#wrong(at, `nothing for bytes ${this.#covered} to ${offset} of the volume`);
  }

  async #checkEnd(at: number, streamBytes: number, dataBytes: number): Promise<void> {
    const digest = this.#hash.copy().digest();
    const found = new Uint8Array(DIGEST_BYTES);
    await this.#fill(found);
    if (streamBytes !== at || dataBytes !== this.#dataBytes) {
      throw this.#wrong(at, `the end is that of ${streamBytes} bytes with ${dataBytes} of data`);
    }
    this.#checkGap(at, this.info.sizeBytes);
    if (!digest.equals(found)) throw this.#wrong(at, 'the digest of the whole is wrong');
    if ((await this.#source(new Uint8Array(1))) > 0) {
      throw this.#wrong(this.#at, 'the backup ends here, but there is more behind its end');
    }
  }

  async #fill(into: Uint8Array): Promise<void> {
    const found = await this.#source(into);
    if (found < into.length) throw this.#wrong(this.#at + found, 'the stream is cut off');
    this.#hash.update(into);
    this.#at += into.length;
  }

  #wrong(at: number, text: string): DmError {
    return new DmError(Status.BadMessage, `${this.#name}: byte ${at}: ${text}`);
  }
}

function decodeHeader(name: string, bytes: Uint8Array): BackupInfo {
  const wrong = (text: string): DmError => new DmError(Status.BadMessage, `${name}: ${text}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const magicBytes = BackupHeader.magic.sizeBytes;
  if (bytes.length < magicBytes || BackupHeader.magic.get(view, 0) !== BACKUP_MAGIC) {
    if (bytes.length === BACKUP_HEADER_BYTES) {
      throw wrong('is not a lamina backup: it does not begin with LAMINABK');
    }
    throw wrong(`is not a lamina backup: ${fewBytes(bytes.length)}`);
  }
  if (bytes.length < BACKUP_HEADER_BYTES) {
    throw wrong(`is cut off inside the header: ${fewBytes(bytes.length)}`);
  }
  const version = BackupHeader.version.get(view, 0);
  if (version !== BACKUP_VERSION) {
    throw wrong(`is a backup of version ${version}; this lamina knows version ${BACKUP_VERSION}`);
  }
  if (BackupHeader.crc.get(view, 0) !== crcOf(bytes, BackupHeader.crc.offset)) {
    throw wrong('the header has a wrong checksum');
  }
  const found = BackupHeader.$decode(view, 0);
  if ((found.flags & ~BackupFlag.Increment) !== 0) {
    throw wrong(`the header has unknown flags ${found.flags}`);
  }
  const isIncrement = (found.flags & BackupFlag.Increment) !== 0;
  const { volume, sizeBytes, blockBytes, madeAtMs, state, baseState, baseSizeBytes } = found;
  const base = isIncrement ? { state: baseState, sizeBytes: baseSizeBytes } : undefined;
  return { volume, sizeBytes, blockBytes, madeAtMs, state, base };
}

function fewBytes(found: number): string {
  return `${found} bytes found, at least ${BACKUP_HEADER_BYTES + END_BYTES} expected`;
}
