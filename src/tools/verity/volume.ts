// Verity volumes on files and block devices: makes the hash tree of a data file, checks a data file against
// one, reads and writes the superblock. Memory is a few blocks, whatever the size.

import { closeSync, fdatasyncSync, openSync, readSync, writeSync } from 'node:fs';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';
import { VERITY_MAGIC, VERITY_SALT_BYTES_MAX, VeritySuper } from '../../format/verity.ts';
import { findHash, isSameDigest, type TreeFormat, VerityTree } from '../../targets/verity/tree.ts';

/** Told how far it is: blocks of `total`. */
export type OnProgress = (done: number, total: number) => void;

export interface VolumeSuper {
  readonly format: TreeFormat;
  /** With dashes. */
  readonly uuid: string;
}

const SUPER_BYTES = VeritySuper.$sizeBytes;
const CHUNK_BYTES = MIB;
const HASH_BLOCK_BYTES_MAX = 512 * 1024;

/** The first hash block behind a superblock at this byte. */
export function treeStart(hashOffsetBytes: number, hashBlockBytes: number): number {
  return Math.ceil((hashOffsetBytes + SUPER_BYTES) / hashBlockBytes);
}

/** Throws DmError that names the field. */
export function readSuper(path: string, offsetBytes: number): VolumeSuper {
  const file = new VolumeFile(path, 'r');
  try {
    const raw = new Uint8Array(SUPER_BYTES);
    if (file.read(raw, offsetBytes) < SUPER_BYTES) {
      throw invalid(
        `${path}: no verity superblock at byte ${offsetBytes}: the file ends before it`,
      );
    }
    return decodeSuper(raw, `${path}: verity superblock at byte ${offsetBytes}`, offsetBytes);
  } finally {
    file.close();
  }
}

function decodeSuper(raw: Uint8Array, where: string, offsetBytes: number): VolumeSuper {
  const fail = (field: string, found: unknown, expected: string): never => {
    throw invalid(`${where}: ${field}: ${String(found)}, expected ${expected}`);
  };
  const view = new DataView(raw.buffer, raw.byteOffset, raw.length);
  let fields: ReturnType<typeof VeritySuper.$decode>;
  try {
    fields = VeritySuper.$decode(view, 0);
  } catch (error) {
    throw invalid(`${where}: ${errorText(error)}`);
  }
  const magic = Buffer.from(fields.magic).toString('latin1');
  if (magic !== VERITY_MAGIC) fail('magic', JSON.stringify(magic), '"verity"');
  if (fields.version !== 1) fail('version', fields.version, '1');
  const { hashType } = fields;
  if (hashType !== 0 && hashType !== 1) return fail('hash type', hashType, '0 or 1');
  const word = Buffer.from(fields.algorithm).toString('latin1').replace(/\0.*$/s, '');
  for (const [name, value] of [
    ['data block size', fields.dataBlockBytes],
    ['hash block size', fields.hashBlockBytes],
  ] as const) {
    const isPower = (value & (value - 1)) === 0;
    if (value < 512 || value > HASH_BLOCK_BYTES_MAX || !isPower) {
      fail(name, value, 'a power of two from 512');
    }
  }
  if (fields.saltBytes > VERITY_SALT_BYTES_MAX) {
    fail('salt size', fields.saltBytes, `${VERITY_SALT_BYTES_MAX} at most`);
  }
  if (!Number.isSafeInteger(fields.dataBlocks * fields.dataBlockBytes)) {
    fail('data blocks', fields.dataBlocks, 'fewer');
  }
  const format: TreeFormat = {
    hashType,
    algorithm: findHash(word),
    salt: fields.salt.slice(0, fields.saltBytes),
    dataBlockBytes: fields.dataBlockBytes,
    hashBlockBytes: fields.hashBlockBytes,
    dataBlocks: fields.dataBlocks,
    hashStart: treeStart(offsetBytes, fields.hashBlockBytes),
  };
  return { format, uuid: printUuid(fields.uuid) };
}

function padded(bytes: Uint8Array, lenBytes: number): Uint8Array {
  const field = new Uint8Array(lenBytes);
  field.set(bytes);
  return field;
}

export function encodeSuper({ format, uuid }: VolumeSuper): Uint8Array {
  const raw = new Uint8Array(SUPER_BYTES);
  VeritySuper.$encode(new DataView(raw.buffer), 0, {
    magic: Buffer.from(VERITY_MAGIC, 'latin1'),
    version: 1,
    hashType: format.hashType,
    uuid: Buffer.from(uuid.replaceAll('-', ''), 'hex'),
    algorithm: padded(Buffer.from(format.algorithm, 'latin1'), 32),
    dataBlockBytes: format.dataBlockBytes,
    hashBlockBytes: format.hashBlockBytes,
    dataBlocks: format.dataBlocks,
    saltBytes: format.salt.length,
    pad1: new Uint8Array(6),
    salt: padded(format.salt, VERITY_SALT_BYTES_MAX),
    pad2: new Uint8Array(168),
  });
  return raw;
}

function printUuid(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes).toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/**
 * Writes the tree over `data` to `hash`, durable when it returns; the root digest. With `volume` the
 * superblock comes last, at `superOffset`: a volume that is only half made has none.
 */
export async function formatVolume(
  dataPath: string,
  hashPath: string,
  format: TreeFormat,
  superblock: { readonly uuid: string; readonly offsetBytes: number } | null,
  onProgress: OnProgress,
): Promise<Uint8Array> {
  const tree = new VerityTree(format);
  const data = new VolumeFile(dataPath, 'r');
  const hash = new VolumeFile(hashPath, 'r+');
  try {
    const total = totalBlocks(tree);
    const progress = new Steps(total, onProgress);
    const root = await buildLevels(tree, data, hash, progress);
    hash.sync();
    if (superblock !== null) {
      const raw = encodeSuper({ format, uuid: superblock.uuid });
      hash.write(raw, superblock.offsetBytes);
      hash.sync();
    }
    return root;
  } finally {
    data.close();
    hash.close();
  }
}

async function buildLevels(
  tree: VerityTree,
  data: VolumeFile,
  hash: VolumeFile,
  progress: Steps,
): Promise<Uint8Array> {
  const { format } = tree;
  const { hashBlockBytes } = format;
  let below: BlockReader = new BlockReader(data, 0, format.dataBlockBytes, format.dataBlocks);
  for (let level = 0; level < tree.levels; level++) {
    const start = tree.levelStart[level] as number;
    const blocks = tree.levelBlocks[level] as number;
    for (let index = 0; index < blocks; index++) {
      const block = new Uint8Array(hashBlockBytes);
      for (let i = 0; i < tree.digestsPerBlock; i++) {
        const next = below.next();
        if (next === null) break;
        block.set(tree.digest([next]), i * tree.slotBytes);
        await progress.step();
      }
      hash.write(block, (start + index) * hashBlockBytes);
    }
    below = new BlockReader(hash, start * hashBlockBytes, hashBlockBytes, blocks);
  }
  return tree.digest([below.next() ?? new Uint8Array(0)]);
}

/** A place where a volume is not what its root says. */
export interface Corruption {
  /** -1 is the data; else the level of the tree. */
  readonly level: number;
  readonly block: number;
}

/** Checks all of a volume against its root; every corruption found, up to `max` of them. */
export async function verifyVolume(
  dataPath: string,
  hashPath: string,
  format: TreeFormat,
  root: Uint8Array,
  onProgress: OnProgress,
  max = 100,
): Promise<Corruption[]> {
  const tree = new VerityTree(format);
  const data = new VolumeFile(dataPath, 'r');
  const hash = new VolumeFile(hashPath, 'r');
  const found: Corruption[] = [];
  try {
    const progress = new Steps(totalBlocks(tree), onProgress);
    for (let level = tree.levels - 1; level >= -1; level--) {
      const isData = level === -1;
      const blockBytes = isData ? format.dataBlockBytes : format.hashBlockBytes;
      const blocks = isData ? format.dataBlocks : (tree.levelBlocks[level] as number);
      const start = isData ? 0 : (tree.levelStart[level] as number);
      const reader = new BlockReader(isData ? data : hash, start * blockBytes, blockBytes, blocks);
      const parents =
        level + 1 < tree.levels
          ? new BlockReader(
              hash,
              (tree.levelStart[level + 1] as number) * format.hashBlockBytes,
              format.hashBlockBytes,
              tree.levelBlocks[level + 1] as number,
            )
          : null;
      let parent: Uint8Array | null = null;
      for (let index = 0; index < blocks && found.length < max; index++) {
        if (parents !== null && index % tree.digestsPerBlock === 0) parent = parents.next();
        const expected = parent === null ? root : tree.digestIn(parent, index);
        const block = reader.next() ?? new Uint8Array(0);
        if (!isSameDigest(tree.digest([block]), expected)) found.push({ level, block: index });
        await progress.step();
      }
    }
    return found;
  } finally {
    data.close();
    hash.close();
  }
}

function totalBlocks(tree: VerityTree): number {
  return tree.levelBlocks.reduce((sum, blocks) => sum + blocks, tree.format.dataBlocks);
}

/** Counts blocks, and lets the event loop turn now and then. */
class Steps {
  readonly #total: number;
  readonly #onProgress: OnProgress;
  #done = 0;

  constructor(total: number, onProgress: OnProgress) {
    this.#total = total;
    this.#onProgress = onProgress;
  }

  step(): Promise<void> | undefined {
    this.#done++;
    if (this.#done % 4096 !== 0) return undefined;
    this.#onProgress(this.#done, this.#total);
    return new Promise((resolve) => setImmediate(resolve));
  }
}

/** Reads blocks one behind the other. */
class BlockReader {
  readonly #file: VolumeFile;
  readonly #blockBytes: number;
  readonly #end: number;
  readonly #chunk: Uint8Array;
  #at: number;
  #chunkAt = 0;
  #chunkLen = 0;

  constructor(file: VolumeFile, at: number, blockBytes: number, blocks: number) {
    this.#file = file;
    this.#at = at;
    this.#blockBytes = blockBytes;
    this.#end = at + blocks * blockBytes;
    this.#chunk = new Uint8Array(Math.max(CHUNK_BYTES, blockBytes));
  }

  /** Null behind the last; good until the next call. Throws DmError when the file ends before it. */
  next(): Uint8Array | null {
    if (this.#at >= this.#end) return null;
    if (this.#at >= this.#chunkAt + this.#chunkLen) {
      const len = Math.min(this.#chunk.length, this.#end - this.#at);
      const got = this.#file.read(this.#chunk.subarray(0, len), this.#at);
      if (got < this.#blockBytes) {
        throw invalid(`${this.#file.path}: ends at byte ${this.#at + got}, expected ${this.#end}`);
      }
      this.#chunkAt = this.#at;
      this.#chunkLen = Math.floor(got / this.#blockBytes) * this.#blockBytes;
    }
    const from = this.#at - this.#chunkAt;
    this.#at += this.#blockBytes;
    return this.#chunk.subarray(from, from + this.#blockBytes);
  }
}

/** A file by whole reads and writes; errors are DmErrors with its path. */
class VolumeFile {
  readonly path: string;
  readonly #fd: number;

  constructor(path: string, flags: 'r' | 'r+') {
    this.path = path;
    this.#fd = this.#named(() => openSync(path, flags));
  }

  /** Bytes read; less only at the end of the file. */
  read(into: Uint8Array, offsetBytes: number): number {
    return this.#named(() => {
      let got = 0;
      while (got < into.length) {
        const n = readSync(this.#fd, into, got, into.length - got, offsetBytes + got);
        if (n === 0) break;
        got += n;
      }
      return got;
    });
  }

  write(from: Uint8Array, offsetBytes: number): void {
    this.#named(() => {
      for (let put = 0; put < from.length; ) {
        put += writeSync(this.#fd, from, put, from.length - put, offsetBytes + put);
      }
    });
  }

  sync(): void {
    this.#named(() => fdatasyncSync(this.#fd));
  }

  close(): void {
    closeSync(this.#fd);
  }

  #named<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw new DmError(Status.Io, `${this.path}: ${errorText(error)}`);
    }
  }
}
