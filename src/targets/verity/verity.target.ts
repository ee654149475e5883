// verity: a read-only device whose every block is checked against a tree of hashes with a known root.
//
// Reads go down as they are and are checked on their way up: at once where the hash blocks they need are
// cached, otherwise by the target's own queue, which reads what is missing, one hash block at a time.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, forEachSegment, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import { WorkQueue } from '../../bio/work-queue.ts';
import { deviceWord } from '../../dm/references.ts';
import {
  type DeviceRange,
  EndIoResult,
  failMap,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import { HashCache } from './hash-cache.ts';
import { isSameDigest, VerityTree } from './tree.ts';
import { parseVerityLine, type VerityLine } from './table-line.ts';

/** In a frame's word: the data have been checked. */
const CHECKED = 1;
/** Bios that may go on up without a look at the clock: the kernel's limit on its complaints. */
const ERRORS_MAX = 100;

class Verity implements Target {
  readonly traits: TargetTraits = { discardPieces: 0, writeZeroesPieces: 0 };
  readonly #line: VerityLine;
  readonly #tree: VerityTree;
  readonly #data: BlockDevice;
  readonly #hash: BlockDevice;
  readonly #host: TargetHost;
  readonly #cache: HashCache;
  readonly #queue: WorkQueue;
  /** One bit a data block, with check_at_most_once. */
  readonly #seen: Uint8Array | null;
  readonly #zeroDigest: Uint8Array | null;
  #hasFailed = false;
  /** A corrupted block was met under restart_on_corruption or panic_on_corruption. */
  #isDead = false;
  #events = 0;

  constructor(
    line: VerityLine,
    tree: VerityTree,
    data: BlockDevice,
    hash: BlockDevice,
    host: TargetHost,
  ) {
    this.#line = line;
    this.#tree = tree;
    this.#data = data;
    this.#hash = hash;
    this.#host = host;
    this.#queue = new WorkQueue({ name: `verity ${host.deviceName}`, runningMax: 1 });
    const { dataBlocks, dataBlockBytes } = tree.format;
    this.#seen = line.checksAtMostOnce ? new Uint8Array(Math.ceil(dataBlocks / 8)) : null;
    this.#zeroDigest = line.ignoresZeroBlocks
      ? tree.digest([new Uint8Array(dataBlockBytes)])
      : null;
    this.#cache = new HashCache(tree, line.root, hash, host.engine.arena, () => ({
      isFatal: this.#corrupt(),
    }));
  }

  map(bio: Bio): MapResult {
    if (bio.op !== Op.Read) return failMap(bio, Status.Io);
    const perBlock = this.#tree.format.dataBlockBytes / SECTOR_BYTES;
    if (bio.sector % perBlock !== 0 || bio.lenSectors % perBlock !== 0) {
      return failMap(bio, Status.Io);
    }
    if (this.#isDead) return failMap(bio, Status.Io);
    bio.device = this.#data;
    bio.targetWord = 0;
    return MapResult.Remapped;
  }

  endIo(bio: Bio): EndIoResult {
    if (bio.op !== Op.Read || bio.status !== Status.Ok || bio.targetWord === CHECKED) {
      return EndIoResult.Done;
    }
    if (this.#canCheckNow(bio)) {
      this.#check(bio);
      return EndIoResult.Done;
    }
    this.#queue.push(async () => await this.#checkLater(bio));
    return EndIoResult.Incomplete;
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'info') return this.#hasFailed ? 'C' : 'V';
    const { format } = this.#tree;
    const salt = format.salt.length === 0 ? '-' : Buffer.from(format.salt).toString('hex');
    const { options, algorithmWord, root } = this.#line;
    const places = `${deviceWord(this.#data)} ${deviceWord(this.#hash)}`;
    const sizes = `${format.dataBlockBytes} ${format.hashBlockBytes} ${format.dataBlocks}`;
    const digests = `${algorithmWord} ${Buffer.from(root).toString('hex')} ${salt}`;
    const more = options.length === 0 ? '' : ` ${options.length} ${options.join(' ')}`;
    return `${format.hashType} ${places} ${sizes} ${format.hashStart} ${digests}${more}`;
  }

  devices(): readonly DeviceRange[] {
    // As the kernel has it: data only.
    return [{ device: this.#data, startSector: 0, lenSectors: this.#host.lenSectors }];
  }

  limits(stacked: QueueLimits): QueueLimits {
    const { dataBlockBytes } = this.#tree.format;
    return {
      ...stacked,
      logicalBlockBytes: Math.max(stacked.logicalBlockBytes, dataBlockBytes),
      physicalBlockBytes: Math.max(stacked.physicalBlockBytes, dataBlockBytes),
      ioMinBytes: Math.max(stacked.ioMinBytes, dataBlockBytes),
      maxDiscardSectors: 0,
      maxWriteZeroesSectors: 0,
    };
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#data.extents(sector, lenSectors, maxExtents);
  }

  async close(): Promise<void> {
    await this.#queue.drain();
    this.#cache.close();
  }

  /** True when no hash block has to be read. */
  #canCheckNow(bio: Bio): boolean {
    const { dataBlockBytes } = this.#tree.format;
    const first = (bio.sector * SECTOR_BYTES) / dataBlockBytes;
    const last = first + bio.lenBytes / dataBlockBytes - 1;
    // One look a hash block; the cache holds many, so looking puts none of them out.
    for (let block = first; block <= last; ) {
      if (this.#cache.tryDigest(block) === null) return false;
      block = (this.#tree.blockOf(block) + 1) * this.#tree.digestsPerBlock;
    }
    return true;
  }

  async #checkLater(bio: Bio): Promise<void> {
    const { dataBlockBytes } = this.#tree.format;
    const first = (bio.sector * SECTOR_BYTES) / dataBlockBytes;
    const count = bio.lenBytes / dataBlockBytes;
    try {
      const pieces = piecesOf(bio, this.#host.engine.arena.u8, dataBlockBytes);
      for (let i = 0; i < count; i++) {
        const digest = await this.#cache.digest(first + i, bio.ctx);
        if (!this.#checkBlock(first + i, pieces[i] ?? [], digest)) bio.fail(Status.Io);
      }
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      bio.fail(error.status);
    }
    const frame = bio.topFrame;
    if (frame !== null) frame.word = CHECKED;
    endBio(bio, Status.Ok);
  }

  #check(bio: Bio): void {
    const { dataBlockBytes } = this.#tree.format;
    const first = (bio.sector * SECTOR_BYTES) / dataBlockBytes;
    const pieces = piecesOf(bio, this.#host.engine.arena.u8, dataBlockBytes);
    for (const [i, piece] of pieces.entries()) {
      const digest = this.#cache.tryDigest(first + i);
      if (digest === null || !this.#checkBlock(first + i, piece, digest)) bio.fail(Status.Io);
    }
  }

  /** False when the data must not be handed out. */
  #checkBlock(block: number, pieces: readonly Uint8Array[], digest: Uint8Array): boolean {
    const seen = this.#seen;
    const bit = 1 << (block & 7);
    if (seen !== null && ((seen[block >> 3] as number) & bit) !== 0) return true;
    if (this.#zeroDigest !== null && isSameDigest(digest, this.#zeroDigest)) {
      // Whatever is there: it is known what should be.
      for (const piece of pieces) piece.fill(0);
      return true;
    }
    if (!isSameDigest(this.#tree.digest(pieces), digest)) return !this.#corrupt();
    if (seen !== null) seen[block >> 3] = (seen[block >> 3] as number) | bit;
    return true;
  }

  /** A corrupted block was found; true when it must not be used. */
  #corrupt(): boolean {
    this.#hasFailed = true;
    if (this.#events++ < ERRORS_MAX) this.#host.event();
    if (this.#line.onCorruption === 'ignore') return false;
    if (this.#line.onCorruption !== 'error') this.#isDead = true;
    return true;
  }
}

/** The bytes of each block of a bio, in one piece or more. */
function piecesOf(bio: Bio, arenaBytes: Uint8Array, blockBytes: number): Uint8Array[][] {
  const blocks: Uint8Array[][] = [];
  forEachSegment(bio, (mem, len, done) => {
    for (let at = 0; at < len; ) {
      const block = Math.floor((done + at) / blockBytes);
      const take = Math.min(len - at, (block + 1) * blockBytes - done - at);
      (blocks[block] ??= []).push(arenaBytes.subarray(mem + at, mem + at + take));
      at += take;
    }
  });
  return blocks;
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const line = parseVerityLine(args);
  if (!host.isReadOnly) throw invalid('Device must be readonly: create it with --readonly');
  const tree = new VerityTree(line.format);
  if (line.root.length !== tree.digestBytes) {
    throw invalid(
      `Invalid root digest: ${line.root.length} bytes, expected ${tree.digestBytes} for ` +
        line.algorithmWord,
    );
  }
  const { dataBlocks, dataBlockBytes, hashBlockBytes } = line.format;
  const dataSectors = (dataBlocks * dataBlockBytes) / SECTOR_BYTES;
  if (host.lenSectors > dataSectors) {
    throw invalid(
      `Data device is too small: ${dataSectors} sectors are hashed, the target has ${host.lenSectors}`,
    );
  }
  const { lenSectors } = host;
  const data = await host.openDevice(line.dataDevice, { startSector: 0, lenSectors });
  const hash = await host.openDevice(line.hashDevice);
  const neededSectors = (tree.end * hashBlockBytes) / SECTOR_BYTES;
  if (tree.levels > 0 && hash.lenSectors < neededSectors) {
    throw new DmError(
      Status.Overflow,
      `Hash device is too small: ${hash.lenSectors} sectors, the tree ends at ${neededSectors}`,
    );
  }
  return new Verity(line, tree, data, hash, host);
}

export default { name: 'verity', version: [1, 9, 0], create } satisfies TargetType;
