// dust: blocks that cannot be read until they are written again, as on a disk with bad sectors.
//
// Blocks are counted from the start of the device below, as in the kernel, not from the target's start.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { isPowerOfTwo, SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import {
  type DeviceRange,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';

const WRITE_FAILURES_MAX = 255;

class Dust implements Target {
  readonly traits: TargetTraits;
  readonly #device: BlockDevice;
  readonly #startSector: number;
  readonly #blockBytes: number;
  readonly #blockSectors: number;
  readonly #ranges: readonly DeviceRange[];
  /** Bad blocks, and how many writes each still fails before one cures it. */
  readonly #bad = new Map<number, number>();
  #failsReads = false;
  #isQuiet = false;

  constructor(device: BlockDevice, startSector: number, blockBytes: number, lenSectors: number) {
    this.#device = device;
    this.#startSector = startSector;
    this.#blockBytes = blockBytes;
    this.#blockSectors = blockBytes / SECTOR_BYTES;
    this.#ranges = [{ device, startSector, lenSectors }];
    this.traits = { boundarySectors: this.#blockSectors };
  }

  map(bio: Bio): MapResult {
    bio.device = this.#device;
    bio.sector += this.#startSector;
    if (!this.#failsReads || this.#bad.size === 0) return MapResult.Remapped;
    // A read or write is within one block unless the target starts inside one; a discard is anywhere.
    const first = Math.floor(bio.sector / this.#blockSectors);
    const last = Math.floor((bio.sector + bio.lenSectors - 1) / this.#blockSectors);
    let result: MapResult = MapResult.Remapped;
    for (let block = first; block <= last; block++) {
      if (this.#touch(block, bio.op === Op.Read)) result = MapResult.Kill;
    }
    return result;
  }

  status(kind: 'info' | 'table'): string {
    const device = deviceWord(this.#device);
    if (kind === 'table') return `${device} ${this.#startSector} ${this.#blockBytes}`;
    const mode = this.#failsReads ? 'fail_read_on_bad_block' : 'bypass';
    return `${device} ${mode} ${this.#isQuiet ? 'quiet' : 'verbose'}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#device.extents(this.#startSector + sector, lenSectors, maxExtents);
  }

  async message(argv: readonly string[]): Promise<string> {
    const verb = (argv[0] ?? '').toLowerCase();
    return await Promise.resolve(
      BLOCK_VERBS.has(verb) ? this.#blockMessage(verb, argv) : this.#plainMessage(verb, argv),
    );
  }

  /** True when the I/O fails. A write cures the block, sooner or later. */
  #touch(block: number, isRead: boolean): boolean {
    const failures = this.#bad.get(block);
    if (failures === undefined) return false;
    if (isRead) return true;
    if (failures > 0) this.#bad.set(block, failures - 1);
    else this.#bad.delete(block);
    return failures > 0;
  }

  #plainMessage(verb: string, argv: readonly string[]): string {
    if (argv.length !== 1) throw unrecognised(argv);
    switch (verb) {
      case 'enable':
        this.#failsReads = true;
        return '';
      case 'disable':
        this.#failsReads = false;
        return '';
      case 'quiet':
        this.#isQuiet = !this.#isQuiet;
        return '';
      case 'countbadblocks':
        return `countbadblocks: ${this.#bad.size} badblock(s) found`;
      case 'listbadblocks':
        return [...this.#bad.keys()].sort((a, b) => a - b).join('\n');
      case 'clearbadblocks': {
        const had = this.#bad.size > 0;
        this.#bad.clear();
        return `clearbadblocks: ${had ? 'badblocks cleared' : 'no badblocks found'}`;
      }
      default:
        throw unrecognised(argv);
    }
  }

  #blockMessage(verb: string, argv: readonly string[]): string {
    const [, blockText, failText] = argv;
    if (blockText === undefined) throw invalid(`${verb} requires an additional argument: a block`);
    if (argv.length > (verb === 'addbadblock' ? 3 : 2)) throw unrecognised(argv);
    const blocks = Math.floor(this.#device.lenSectors / this.#blockSectors);
    const block = Number(blockText);
    if (!/^\d+$/.test(blockText) || block > blocks) {
      throw invalid(`selected block value out of range: '${blockText}', expected 0..${blocks}`);
    }
    const isBad = this.#bad.has(block);
    if (verb === 'queryblock') {
      return `queryblock: block ${block} ${isBad ? 'found' : 'not found'} in badblocklist`;
    }
    if (verb === 'removebadblock') {
      if (!isBad) throw invalid(`removebadblock: block ${block} not found in badblocklist`);
      this.#bad.delete(block);
      return '';
    }
    const failures = failText === undefined ? 0 : Number(failText);
    if (failText !== undefined && (!/^\d+$/.test(failText) || failures > WRITE_FAILURES_MAX)) {
      throw invalid(
        `selected write fail count out of range: '${failText}', expected 0..${WRITE_FAILURES_MAX}`,
      );
    }
    if (isBad) {
      throw new DmError(Status.Invalid, `addbadblock: block ${block} already in badblocklist`);
    }
    this.#bad.set(block, failures);
    return '';
  }
}

const BLOCK_VERBS: ReadonlySet<string> = new Set(['addbadblock', 'removebadblock', 'queryblock']);

function unrecognised(argv: readonly string[]): DmError {
  return invalid(
    `unrecognized message '${argv.join(' ')}' received: expected addbadblock <block> ` +
      `[<write failures>], removebadblock <block>, queryblock <block>, countbadblocks, ` +
      `listbadblocks, clearbadblocks, enable, disable or quiet`,
  );
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  if (args.length !== 3) {
    throw invalid(
      `Invalid argument count: ${args.length}, expected <device> <start sector> <block bytes>`,
    );
  }
  const [reference, start, block] = args as [string, string, string];
  const blockBytes = Number(block);
  if (!/^\d+$/.test(block) || blockBytes === 0 || blockBytes > 0xffffffff) {
    throw invalid(`Invalid block size parameter: '${block}': expected bytes, such as 512`);
  }
  if (blockBytes < SECTOR_BYTES) {
    throw invalid(`Block size must be at least ${SECTOR_BYTES}: found ${blockBytes}`);
  }
  if (!isPowerOfTwo(blockBytes)) {
    throw invalid(`Block size must be a power of 2: found ${blockBytes}`);
  }
  const startSector = parseSectors(start, 'Invalid device offset sector');
  const device = await host.openDevice(reference, { startSector, lenSectors: host.lenSectors });
  return new Dust(device, startSector, blockBytes, host.lenSectors);
}

export default { name: 'dust', version: [1, 0, 0], create } satisfies TargetType;
