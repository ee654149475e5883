// Verity volumes: makes the hash tree of a data device, checks a data device against one, reads and writes the
// superblock. Memory is a few blocks, whatever the size.

import { errorText, invalid } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { VERITY_MAGIC, VERITY_SALT_BYTES_MAX, VeritySuper } from '../../format/verity.ts';
import { findHash, isSameDigest, type TreeFormat, VerityTree } from '../../targets/verity/tree.ts';
import { tooShort, type VolumeIo } from './volume-io.ts';

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
export async function readSuper(from: VolumeIo, offsetBytes: number): Promise<VolumeSuper> {
  const raw = new Uint8Array(SUPER_BYTES);
  const where = `verity superblock at byte ${offsetBytes}`;
  if ((await from.read(raw, offsetBytes)) < SUPER_BYTES) {
    throw invalid(`${from.path}: no ${where}: the file ends before it`);
  }
  return decodeSuper(raw, `${from.path}: ${where}`, offsetBytes);
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
 * Writes the tree over `data` to `hash`, durable when this resolves, with the root digest. A
 * superblock comes last: a volume that is only half made has none. Throws DmError, having written
 * nothing, when there is no room.
 */
export async function formatVolume(
  data: VolumeIo,
  hash: VolumeIo,
  format: TreeFormat,
  superblock: { readonly uuid: string; readonly offsetBytes: number } | null,
  onProgress: OnProgress,
): Promise<Uint8Array> {
  const tree = new VerityTree(format);
  const superEnd = superblock === null ? 0 : superblock.offsetBytes + SUPER_BYTES;
  const end = Math.max(superEnd, tree.levels === 0 ? 0 : tree.end * format.hashBlockBytes);
  if (end > (hash.limitBytes ?? end)) throw tooShort(hash, end);
  const root = await buildLevels(tree, data, hash, new Steps(totalBlocks(tree), onProgress));
  await hash.sync();
  if (superblock !== null) {
    await hash.write(encodeSuper({ format, uuid: superblock.uuid }), superblock.offsetBytes);
    await hash.sync();
  }
  return root;
}

async function buildLevels(
  tree: VerityTree,
  data: VolumeIo,
  hash: VolumeIo,
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
        const next = below.next() ?? (await below.fill());
        if (next === null) break;
        block.set(tree.digest([next]), i * tree.slotBytes);
        await progress.step();
      }
      await hash.write(block, (start + index) * hashBlockBytes);
    }
    below = new BlockReader(hash, start * hashBlockBytes, hashBlockBytes, blocks);
  }
  return tree.digest([(await below.fill()) ?? new Uint8Array(0)]);
}

/** A place where a volume is not what its root says. */
export interface Corruption {
  /** -1 is the data; else the level of the tree. */
  readonly level: number;
  readonly block: number;
}

/** Checks all of a volume against its root; every corruption found, up to `max` of them. */
export async function verifyVolume(
  data: VolumeIo,
  hash: VolumeIo,
  format: TreeFormat,
  root: Uint8Array,
  onProgress: OnProgress,
  max = 100,
): Promise<Corruption[]> {
  const tree = new VerityTree(format);
  const found: Corruption[] = [];
  const progress = new Steps(totalBlocks(tree), onProgress);
  for (let level = tree.levels - 1; level >= -1; level--) {
    const isData = level === -1;
    const blockBytes = isData ? format.dataBlockBytes : format.hashBlockBytes;
    const blocks = isData ? format.dataBlocks : (tree.levelBlocks[level] as number);
    const start = isData ? 0 : (tree.levelStart[level] as number);
    const reader = new BlockReader(isData ? data : hash, start * blockBytes, blockBytes, blocks);
    const parents = readerOfLevel(tree, hash, level + 1);
    let parent: Uint8Array | null = null;
    for (let index = 0; index < blocks && found.length < max; index++) {
      if (parents !== null && index % tree.digestsPerBlock === 0) {
        parent = parents.next() ?? (await parents.fill());
      }
      const expected = parent === null ? root : tree.digestIn(parent, index);
      const block = reader.next() ?? (await reader.fill()) ?? new Uint8Array(0);
      if (!isSameDigest(tree.digest([block]), expected)) found.push({ level, block: index });
      await progress.step();
    }
  }
  return found;
}

/** Null behind the last level. */
function readerOfLevel(tree: VerityTree, hash: VolumeIo, level: number): BlockReader | null {
  if (level >= tree.levels) return null;
  const { hashBlockBytes } = tree.format;
  const at = (tree.levelStart[level] as number) * hashBlockBytes;
  return new BlockReader(hash, at, hashBlockBytes, tree.levelBlocks[level] as number);
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

/** Reads blocks one behind the other. What is given is good until the next call. */
class BlockReader {
  readonly #from: VolumeIo;
  readonly #blockBytes: number;
  readonly #end: number;
  readonly #chunk: Uint8Array;
  #at: number;
  #chunkAt = 0;
  #chunkLen = 0;

  constructor(from: VolumeIo, at: number, blockBytes: number, blocks: number) {
    this.#from = from;
    this.#at = at;
    this.#blockBytes = blockBytes;
    this.#end = at + blocks * blockBytes;
    this.#chunk = new Uint8Array(Math.max(CHUNK_BYTES, blockBytes));
  }

  /** The next block, if it has been read; null: `fill` may have one. */
  next(): Uint8Array | null {
    if (this.#at >= this.#chunkAt + this.#chunkLen) return null;
    const from = this.#at - this.#chunkAt;
    this.#at += this.#blockBytes;
    return this.#chunk.subarray(from, from + this.#blockBytes);
  }

  /** Reads on, and gives the next block; null behind the last. Throws DmError when the device ends before it. */
  async fill(): Promise<Uint8Array | null> {
    if (this.#at >= this.#end) return null;
    const len = Math.min(this.#chunk.length, this.#end - this.#at);
    const got = await this.#from.read(this.#chunk.subarray(0, len), this.#at);
    if (got < this.#blockBytes) {
      throw invalid(`${this.#from.path}: ends at byte ${this.#at + got}, expected ${this.#end}`);
    }
    this.#chunkAt = this.#at;
    this.#chunkLen = Math.floor(got / this.#blockBytes) * this.#blockBytes;
    return this.next();
  }
}
