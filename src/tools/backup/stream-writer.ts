// Writes a backup stream: what is given in order of offsets, with the checksums that `BackupReader` checks.
// Adjacent zeros become one record.

import { createHash } from 'node:crypto';
import { assert } from '../../base/assert.ts';
import {
  BACKUP_HEADER_BYTES,
  BACKUP_MAGIC,
  BACKUP_VERSION,
  BackupFlag,
  BackupHeader,
  crcOf,
  RECORD_DATA_BYTES_MAX,
  RECORD_HEAD_BYTES,
  RecordHead,
  RecordKind,
} from '../../format/backup.ts';

/** What a backup is of. */
export interface BackupInfo {
  readonly volume: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly madeAtMs: number;
  /** Equal for equal states of one volume, and only for these. */
  readonly state: string;
  /** An increment's: what must be there before the increment is restored. */
  readonly base: { readonly state: string; readonly sizeBytes: number } | undefined;
}

/** Takes bytes in order; resolves when more may come. */
export type Sink = (bytes: Uint8Array) => Promise<void>;

export class BackupWriter {
  readonly #sink: Sink;
  readonly #hash = createHash('sha256');
  #zeroBegin = 0;
  #zeroEnd = 0;
  streamBytes = 0;
  dataBytes = 0;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /** First of all. */
  async header(info: BackupInfo): Promise<void> {
    const head = new Uint8Array(BACKUP_HEADER_BYTES);
    const view = new DataView(head.buffer);
    BackupHeader.$encode(view, 0, {
      magic: BACKUP_MAGIC,
      version: BACKUP_VERSION,
      headerBytes: BACKUP_HEADER_BYTES,
      flags: info.base === undefined ? 0 : BackupFlag.Increment,
      blockBytes: info.blockBytes,
      sizeBytes: info.sizeBytes,
      baseSizeBytes: info.base?.sizeBytes ?? 0,
      madeAtMs: info.madeAtMs,
      state: info.state,
      baseState: info.base?.state ?? '',
      volume: info.volume,
      padding: new Uint8Array(BackupHeader.padding.sizeBytes),
      crc: 0,
    });
    BackupHeader.crc.set(view, 0, crcOf(head, BackupHeader.crc.offset));
    await this.#put(head);
  }

  /** `data` belongs to the writer until this resolves. */
  async data(offset: number, data: Uint8Array): Promise<void> {
    assert(data.length <= RECORD_DATA_BYTES_MAX, `backup: a record of ${data.length} bytes`);
    await this.#endZeros();
    this.dataBytes += data.length;
    await this.#put(head(RecordKind.Data, offset, data.length, crcOf(data)));
    await this.#put(data);
  }

  async zero(offset: number, length: number): Promise<void> {
    if (offset !== this.#zeroEnd) await this.#endZeros();
    if (this.#zeroEnd === this.#zeroBegin) this.#zeroBegin = offset;
    this.#zeroEnd = offset + length;
    return await Promise.resolve();
  }

  /** Last of all. */
  async end(): Promise<void> {
    await this.#endZeros();
    // The digest has the head in it, so the digest's own checksum cannot be there.
    await this.#put(head(RecordKind.End, this.streamBytes, this.dataBytes, 0));
    await this.#put(this.#hash.copy().digest());
  }

  async #endZeros(): Promise<void> {
    const length = this.#zeroEnd - this.#zeroBegin;
    if (length > 0) await this.#put(head(RecordKind.Zero, this.#zeroBegin, length, 0));
    this.#zeroBegin = this.#zeroEnd;
  }

  async #put(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    this.streamBytes += bytes.length;
    await this.#sink(bytes);
  }
}

function head(kind: number, offset: number, length: number, dataCrc: number): Uint8Array {
  const bytes = new Uint8Array(RECORD_HEAD_BYTES);
  const view = new DataView(bytes.buffer);
  RecordHead.$encode(view, 0, { kind, dataCrc, offset, length, padding: 0, crc: 0 });
  RecordHead.crc.set(view, 0, crcOf(bytes, RecordHead.crc.offset));
  return bytes;
}
