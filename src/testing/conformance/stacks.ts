// Random stacks. Each target has a recipe: how to put it over devices that are already there, so that the
// whole is a plain disk again.

import type { Prng } from '../../base/prng.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import type { DiskSpec, StackDevice, StackSpec } from './stack-subject.ts';

/** Something a table can name, and how much of it there is. */
export interface Part {
  readonly name: string;
  readonly lenSectors: number;
}

/** What recipes build with. */
export interface Workbench {
  readonly rng: Prng;
  /** Every offset and length is a multiple of it, sectors. */
  readonly blockSectors: number;
  /** A device or disk to stand on, nobody else's. */
  below(): Part;
  /** A whole disk. */
  disk(lenSectors: number): Part;
  /** A disk for what a target keeps beside the data: no part of what a flush has to reach. */
  diskAside(lenSectors: number): Part;
  /** Adds a device with this table. */
  device(table: string, lenSectors: number, messages?: readonly string[]): Part;
  /** Disks of zeroes are not zeroes seen through it. */
  scrambles(): void;
  /** An error may leave what is built in a worse mode. */
  degrades(): void;
}

export type Recipe = (bench: Workbench) => Part;

/** By table word. Targets that are no disks (`error`, `zero`) have none. */
export const RECIPES: Readonly<Record<string, Recipe>> = {
  linear(bench) {
    const { rng, blockSectors } = bench;
    const pieces: { name: string; start: number; len: number }[] = [];
    for (let n = rng.between(1, 2); n > 0; n--) {
      const part = bench.below();
      const blocks = Math.floor(part.lenSectors / blockSectors);
      const cut = rng.chance(0.6) && blocks > 1 ? rng.between(1, blocks - 1) : blocks;
      pieces.push({ name: part.name, start: 0, len: cut * blockSectors });
      const rest = blocks - cut;
      if (rest > 0) {
        pieces.push({ name: part.name, start: cut * blockSectors, len: rest * blockSectors });
      }
    }
    pieces.sort(() => rng.unit() - 0.5);
    let at = 0;
    const lines = pieces.map(({ name, start, len }) => {
      const line = `${at} ${len} linear ${name} ${start}`;
      at += len;
      return line;
    });
    return bench.device(lines.join('\n'), at);
  },
  striped(bench) {
    const { rng, blockSectors } = bench;
    const legs = Array.from({ length: rng.between(1, 3) }, () => bench.below());
    const shortest = Math.min(...legs.map((l) => l.lenSectors));
    const chunks = [1, 2, 3, 8, 16].map((n) => n * blockSectors).filter((n) => n <= shortest);
    const chunk = rng.pick(chunks);
    const each = Math.floor(shortest / chunk) * chunk;
    const words = legs.map((leg) => {
      const room = Math.floor((leg.lenSectors - each) / blockSectors);
      return `${leg.name} ${rng.between(0, room) * blockSectors}`;
    });
    const len = each * legs.length;
    const line = `${len} striped ${legs.length} ${chunk} ${words.join(' ')}`;
    if (rng.chance(0.6)) return bench.device(`0 ${line}`, len);
    // Not at the start of its table: boundaries count from the target, not from the device.
    const first = bench.below();
    const ahead = rng.between(1, Math.floor(first.lenSectors / blockSectors)) * blockSectors;
    const table = `0 ${ahead} linear ${first.name} 0\n${ahead} ${line}`;
    return bench.device(table, ahead + len);
  },
  delay(bench) {
    const { rng } = bench;
    const { name, lenSectors } = bench.below();
    const ms = (): number => rng.pick([0, 1, 5, 40]);
    const classes = rng.between(1, 3);
    const words = Array.from({ length: classes }, () => `${name} 0 ${ms()}`);
    return bench.device(`0 ${lenSectors} delay ${words.join(' ')}`, lenSectors);
  },
  flakey(bench) {
    const { name, lenSectors } = bench.below();
    return bench.device(`0 ${lenSectors} flakey ${name} 0 1000000 0`, lenSectors);
  },
  insitu_comp(bench) {
    const { rng } = bench;
    // Blocks of 4096 bytes, which whatever stands above has to know.
    if (bench.blockSectors < 8) return (RECIPES['linear'] as Recipe)(bench);
    const regions = rng.between(1, 3);
    // Records, homes and a spill area of four regions; see layoutFor.
    // A commit that fails is the failure of all who waited for it.
    bench.degrades();
    // Below a device that is suspended it goes on to commit and to discard.
    const disk = bench.diskAside(256 + regions * 256 + 1024 + rng.between(1, 20) * 8);
    const mode = rng.pick(['writethrough', 'writeback 1', 'writeback 30']);
    const len = rng.between(1, regions * 32) * 8;
    return bench.device(`0 ${len} insitu_comp ${disk.name} ${mode}`, len);
  },
  dust(bench) {
    const { blockSectors } = bench;
    const { name, lenSectors } = bench.below();
    const table = `0 ${lenSectors} dust ${name} 0 ${blockSectors * 512}`;
    return bench.device(table, lenSectors);
  },
  'log-writes'(bench) {
    const { name, lenSectors } = bench.below();
    // Sometimes one that runs full.
    const log = bench.diskAside(bench.rng.pick([1 << 9, 1 << 12]));
    return bench.device(`0 ${lenSectors} log-writes ${name} ${log.name}`, lenSectors);
  },
  crypt(bench) {
    const { rng, blockSectors } = bench;
    const { name, lenSectors } = bench.below();
    bench.scrambles();
    const [cipher, keyBytes] = rng.pick(CRYPT_CIPHERS);
    const key = Array.from({ length: keyBytes * 2 }, () => rng.below(16).toString(16)).join('');
    const options = CRYPT_OPTIONS.filter(() => rng.chance(0.2));
    // A disk may tear at 512 bytes, and in CBC what is behind the tear depends on what is before it.
    const max = cipher.includes('xts') ? blockSectors * 512 : 512;
    const sizes = [512, 1024, 2048, 4096].filter((bytes) => bytes <= max);
    const sectorBytes = rng.pick(sizes);
    if (sectorBytes > 512) options.push(`sector_size:${sectorBytes}`);
    const line = `crypt ${cipher} ${key} ${rng.pick([0, 8, 2 ** 33])} ${name} 0`;
    const table = `0 ${lenSectors} ${line} ${options.length} ${options.join(' ')}`;
    return bench.device(table.trim(), lenSectors);
  },
  thin,
  snapshot,
  'snapshot-origin'(bench) {
    const { name, lenSectors } = bench.below();
    return bench.device(`0 ${lenSectors} snapshot-origin ${name}`, lenSectors);
  },
  'snapshot-merge'(bench) {
    const { name, lenSectors } = bench.below();
    const chunk = 8 * bench.rng.pick([1, 2, 4]);
    const cow = bench.diskAside(chunk * 3);
    const table = `0 ${lenSectors} snapshot-merge ${name} ${cow.name} P ${chunk}`;
    return bench.device(table, lenSectors);
  },
};

const CRYPT_CIPHERS = [
  ['aes-xts-plain64', 64],
  ['aes-cbc-essiv:sha256', 32],
  ['aes:2-cbc-plain', 32],
] as const;
const CRYPT_OPTIONS = [
  'same_cpu_crypt',
  'submit_from_crypt_cpus',
  'no_read_workqueue',
  'no_write_workqueue',
  'high_priority',
  'iv_large_sectors',
];

/** A pool with one thin device in it, which is what is used. */
function thin(bench: Workbench): Part {
  const { rng } = bench;
  bench.degrades();
  const block = 128;
  const below = rng.chance(0.5) ? bench.below() : null;
  const isEnough = below !== null && below.lenSectors >= block;
  const data = isEnough ? below : bench.disk(block * rng.between(3, 14));
  const metadata = bench.diskAside(8 * rng.pick([64, 256]));
  const poolSectors = Math.floor(data.lenSectors / block) * block;
  const words = `${block} 0${rng.chance(0.4) ? ' 1 no_discard_passdown' : ''}`;
  const table = `0 ${poolSectors} thin-pool ${metadata.name} ${data.name} ${words}`;
  const made = bench.device(table, poolSectors, ['create_thin 7']);
  // Never more than the pool has, so that a full one does not change what a disk promises.
  return bench.device(`0 ${poolSectors} thin ${made.name} 7`, poolSectors);
}

/** A snapshot of a disk that nobody changes: all that is written is on its cow device. */
function snapshot(bench: Workbench): Part {
  const { rng, blockSectors } = bench;
  // A chunk that cannot be kept makes it invalid, for good.
  bench.degrades();
  const len = rng.between(1, 400 / blockSectors) * blockSectors;
  const chunk = blockSectors * rng.pick([1, 2, 8, 16]);
  const chunks = Math.ceil(len / chunk);
  // The header, an area before every `chunk * 32` chunks, and the next one when the last is full.
  const cow = bench.disk((chunks + 2 + Math.ceil(chunks / (chunk * 32))) * chunk);
  const origin = bench.diskAside(len);
  const table = `0 ${len} snapshot ${origin.name} ${cow.name} ${rng.pick(['P', 'PO'])} ${chunk}`;
  return bench.device(`${table}${rng.pick(['', ' 1 discard_zeroes_cow'])}`, len);
}

/** Targets without a recipe, and why. */
export const NO_DISKS: Readonly<Record<string, string>> = {
  error: 'fails everything',
  zero: 'keeps nothing',
  'thin-pool': 'is what thin is made of',
  verity: 'is read-only',
};

export interface DrawStackOptions {
  /** Table words to draw from; all with a recipe if not given. */
  readonly targets?: readonly string[];
  /** Most layers over a disk. */
  readonly layersMax?: number;
  /** The topmost device is made of this target. */
  readonly topTarget?: string;
}

export function drawStack(rng: Prng, options: DrawStackOptions = {}): StackSpec {
  const targets = options.targets ?? Object.keys(RECIPES);
  const disks: DiskSpec[] = [];
  const devices: StackDevice[] = [];
  let degrades = false;
  let isScrambled = false;
  const drawn = rng.pick([1, 1, 1, 8]);
  const blockSectors = options.topTarget === 'insitu_comp' ? 8 : drawn;
  const limits = drawLimits(rng, blockSectors);
  const addDisk = (lenSectors: number, isAside = false): Part => {
    const disk = {
      name: `test:d${disks.length}`,
      lenSectors,
      limits: rng.chance(0.5) ? limits : { logicalBlockBytes: blockSectors * 512 },
      isAside,
    };
    disks.push(disk);
    return disk;
  };
  const build = (layers: number, recipe: Recipe): Part =>
    recipe({
      rng,
      blockSectors,
      below: () => {
        const isDisk = layers <= 1 || disks.length > 8;
        return isDisk ? addDisk(rng.between(8, 48) * 8) : build(layers - 1, pick());
      },
      disk: addDisk,
      diskAside: (lenSectors) => addDisk(lenSectors, true),
      device: (table, lenSectors, messages = []) => {
        const name = `m${devices.length}`;
        devices.push({ name, table, messages });
        return { name, lenSectors };
      },
      degrades: () => void (degrades = true),
      scrambles: () => void (isScrambled = true),
    });
  const pick = (): Recipe => RECIPES[rng.pick(targets)] as Recipe;
  const first = options.topTarget === undefined ? pick() : (RECIPES[options.topTarget] as Recipe);
  const top = build(rng.between(1, options.layersMax ?? 4), first);
  return { ...used(disks, devices, top.name), top: top.name, degrades, isScrambled };
}

/** Without what a recipe has asked for and not used. */
function used(
  disks: readonly DiskSpec[],
  devices: readonly StackDevice[],
  top: string,
): Pick<StackSpec, 'disks' | 'devices'> {
  const words = new Set([top, ...devices.flatMap((d) => d.table.split(/\s+/))]);
  const kept = devices.filter((d) => words.has(d.name));
  if (kept.length < devices.length) return used(disks, kept, top);
  return { disks: disks.filter((d) => words.has(d.name)), devices };
}

function drawLimits(rng: Prng, blockSectors: number): Partial<QueueLimits> {
  return {
    logicalBlockBytes: blockSectors * 512,
    ...(rng.chance(0.5) ? { maxIoSectors: rng.between(1, 6) * 8 } : {}),
    ...(rng.chance(0.5) ? { maxDiscardSectors: rng.pick([0, 8, 64]) } : {}),
    ...(rng.chance(0.3) ? { maxWriteZeroesSectors: rng.pick([0, 8, 64]) } : {}),
  };
}
