// `repairPool` beside Debian's thin_repair on the same damaged metadata, kind by kind: never fewer right mappings,
// never more wrong ones, and what it makes thin_check finds clean.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { DmError } from '../../src/base/errors.ts';
import { Prng } from '../../src/base/prng.ts';
import { getU64, setU64 } from '../../src/format/struct.ts';
import { type BlockKind, sealBlock, verifyBlock } from '../../src/persistent-data/block-kind.ts';
import {
  BTREE_NODE,
  entryCount,
  isLeaf,
  valueBytes,
} from '../../src/persistent-data/btree-node.format.ts';
import {
  BITMAP_ENTRIES,
  bitmapCount,
  SPACE_MAP_BITMAP,
  SPACE_MAP_INDEX,
} from '../../src/persistent-data/space-map.format.ts';
import { THIN_SUPERBLOCK, ThinSuperblock } from '../../src/targets/thin/metadata.format.ts';
import { checkPool } from '../../src/tools/thin/check.ts';
import { MetadataFile } from '../../src/tools/thin/metadata-file.ts';
import { repairPool } from '../../src/tools/thin/repair.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { MetadataDisk } from '../../src/testing/metadata-disk.ts';
import { SEED } from '../../src/testing/seed.ts';
import { ThinHistory } from '../../src/testing/thin-history.ts';

const BLOCK = 4096;
const SIZES = { metadataBlocks: 400, dataBlocks: 6000 };
const TRIALS = 3;
const PATHS = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)];
const ENV = { ...process.env, PATH: PATHS.join(delimiter) };

const absent = ['thin_check', 'thin_dump', 'thin_repair'].filter(
  (tool) => !PATHS.some((folder) => existsSync(join(folder, tool))),
);
const skip = absent.length > 0 && `not installed: ${absent.join(', ')}`;

let folder: ReturnType<typeof makeTestFolder>;
const victims: Victim[] = [];

before(async () => {
  folder = makeTestFolder();
  for (let trial = 0; trial < TRIALS; trial++) victims.push(await victim(SEED + trial));
});
after(() => folder.remove());

interface Victim {
  readonly image: Buffer;
  /** The superblock of some commits before. */
  readonly oldSuperblock: Buffer;
  /** `device thin-block data-block`, and what is known of each device, as of the last commit. */
  readonly mappings: ReadonlySet<string>;
  readonly transactionId: number;
  readonly dataBlocks: number;
}

/** A pool with a large device, snapshots of it, and old trees in blocks that are free again. */
async function victim(seed: number): Promise<Victim> {
  const history = await ThinHistory.start(new Prng(seed), SIZES);
  const { metadata, disk } = history;
  await metadata.createThin(60);
  const large = await metadata.openDevice(60);
  for (let i = 0; i < 1200; i++) {
    await metadata.insert(large, i * 2, await metadata.allocateDataBlock());
    if (i % 400 === 399) await metadata.commit();
  }
  await metadata.createSnap(61, 60);
  await metadata.commit();
  let oldSuperblock = Buffer.from(history.superblock());
  for (let i = 0; i < 8; i++) {
    const block = 2 * history.prng.below(1200);
    await metadata.insert(large, block, await metadata.allocateDataBlock());
    await metadata.createThin(70 + i);
    await metadata.commit();
    if (i === 5) oldSuperblock = Buffer.from(history.superblock());
  }
  metadata.closeDevice(large);
  const { transactionId } = metadata;
  await metadata.setTransactionId(transactionId, transactionId + 3);
  await metadata.commit();
  const image = Buffer.from(disk.image);
  const file = join(folder.path, 'whole');
  writeFileSync(file, image);
  const mappings = mappingsOf(file);
  assert.ok(mappings.size >= 2400);
  const { dataBlocks } = metadata;
  return { image, oldSuperblock, mappings, transactionId: transactionId + 3, dataBlocks };
}

function run(
  command: string,
  ...args: string[]
): { readonly status: number | null; readonly text: string } {
  const options = { encoding: 'utf8' as const, env: ENV, maxBuffer: 2 ** 28 };
  const { status, stdout, stderr } = spawnSync(command, args, options);
  return { status, text: stdout + stderr };
}

function mappingsOf(file: string): Set<string> {
  const found = new Set<string>();
  const { status, text } = run('thin_dump', file);
  if (status !== 0) return found;
  let device = '';
  for (const line of text.split('\n')) {
    const [, id] = /<device dev_id="(\d+)"/.exec(line) ?? [];
    if (id !== undefined) {
      device = id;
      found.add(line.trim().replace(/ mapped_blocks="\d+"/, ''));
    }
    const single = /<single_mapping origin_block="(\d+)" data_block="(\d+)"/.exec(line);
    const range = /<range_mapping origin_begin="(\d+)" data_begin="(\d+)" length="(\d+)"/.exec(
      line,
    );
    const [, begin, data, length = '1'] = single ?? range ?? [];
    if (begin === undefined) continue;
    for (let i = 0; i < Number(length); i++) {
      found.add(`${device} ${Number(begin) + i} ${Number(data) + i}`);
    }
  }
  return found;
}

interface Score {
  readonly right: number;
  readonly wrong: number;
  /** Devices with the details that they had. */
  readonly devices: number;
}

function scoreOf(found: ReadonlySet<string>, { mappings }: Victim): Score {
  const all = [...found];
  const right = all.filter((mapping) => mappings.has(mapping));
  const devices = right.filter((mapping) => mapping.startsWith('<')).length;
  // Details that are made anew are told as a loss; a device that never was is wrong.
  const ids = new Set([...mappings].map(idOf));
  const remade = all.filter((m) => m.startsWith('<') && !mappings.has(m) && ids.has(idOf(m)));
  const wrong = all.length - right.length - remade.length;
  return { right: right.length - devices, wrong, devices };
}

/** Of what is known of a device. */
function idOf(line: string): string | undefined {
  return /^<device dev_id="\d+"/.exec(line)?.[0];
}

function viewOf(image: Buffer, block: number): DataView {
  return new DataView(image.buffer, image.byteOffset + block * BLOCK, BLOCK);
}

function dataOf(image: Buffer, block: number): Buffer {
  return image.subarray(block * BLOCK, (block + 1) * BLOCK);
}

function seal(image: Buffer, kind: BlockKind, block: number): void {
  sealBlock(kind, block, dataOf(image, block), viewOf(image, block));
}

function isKind(image: Buffer, kind: BlockKind, block: number): boolean {
  try {
    verifyBlock(kind, block, dataOf(image, block), viewOf(image, block));
    return true;
  } catch {
    return false;
  }
}

/** Good blocks of a kind, old ones too. */
function blocksOf(
  image: Buffer,
  kind: BlockKind,
  fits: (view: DataView) => boolean = () => true,
): number[] {
  const all = Array.from({ length: image.length / BLOCK }, (_, number) => number);
  return all.filter((n) => isKind(image, kind, n) && fits(viewOf(image, n)));
}

function mappingLeaves(image: Buffer): number[] {
  return blocksOf(image, BTREE_NODE, (v) => isLeaf(v) && valueBytes(v) === 8 && entryCount(v) > 60);
}

function flipBits(image: Buffer, block: number, prng: Prng, count = 1): undefined {
  for (let i = 0; i < count; i++) {
    const at = block * BLOCK + prng.below(BLOCK);
    image[at] = (image[at] ?? 0) ^ (1 << prng.below(8));
  }
}

function rootOf(image: Buffer, field: { readonly offset: number }): number {
  return getU64(viewOf(image, 0), field.offset);
}

function setRoot(image: Buffer, field: { readonly offset: number }, value: number): void {
  setU64(viewOf(image, 0), field.offset, value);
  seal(image, THIN_SUPERBLOCK, 0);
}

/** Damages the image, or answers another one. */
type Damage = (image: Buffer, prng: Prng, victim: Victim) => Buffer | undefined;

const DAMAGES: Record<string, Damage> = {
  'superblock zeroed': (image) => {
    image.fill(0, 0, BLOCK);
    return undefined;
  },
  'superblock with a wrong bit': (image, prng) => flipBits(image, 0, prng),
  'superblock of some commits before': (image, _prng, { oldSuperblock }) => {
    image.set(oldSuperblock, 0);
    return undefined;
  },
  'superblock with the mappings at some other node': (image, prng) => {
    setRoot(image, ThinSuperblock.dataMappingRoot, prng.pick(blocksOf(image, BTREE_NODE)));
    return undefined;
  },
  'superblock with the details at some other block': (image, prng) => {
    setRoot(image, ThinSuperblock.deviceDetailsRoot, prng.below(SIZES.metadataBlocks));
    return undefined;
  },
  'superblock with both roots beyond the end': (image) => {
    setRoot(image, ThinSuperblock.dataMappingRoot, 100_000);
    setRoot(image, ThinSuperblock.deviceDetailsRoot, 100_001);
    return undefined;
  },
  'superblock zeroed, and a leaf torn': (image, prng) => {
    image.fill(0, 0, BLOCK);
    flipBits(image, prng.pick(mappingLeaves(image)), prng);
    return undefined;
  },
  'root of the devices zeroed': (image) => {
    dataOf(image, rootOf(image, ThinSuperblock.dataMappingRoot)).fill(0);
    return undefined;
  },
  'root of the details with wrong bits': (image, prng) =>
    flipBits(image, rootOf(image, ThinSuperblock.deviceDetailsRoot), prng, 5),
  'both roots torn': (image, prng) => {
    for (const field of [ThinSuperblock.dataMappingRoot, ThinSuperblock.deviceDetailsRoot]) {
      flipBits(image, rootOf(image, field), prng);
    }
    return undefined;
  },
  'a node of a tree with a wrong bit': (image, prng) =>
    flipBits(image, prng.pick(blocksOf(image, BTREE_NODE)), prng),
  'a leaf with half of another one': (image, prng) => {
    const leaves = mappingLeaves(image);
    const [to, from] = [prng.pick(leaves), prng.pick(leaves)];
    dataOf(image, to).set(dataOf(image, from).subarray(BLOCK / 2), BLOCK / 2);
    return undefined;
  },
  'two blocks swapped': (image, prng) => {
    const nodes = blocksOf(image, BTREE_NODE);
    const [a, b] = [prng.pick(nodes), prng.pick(nodes)];
    const copy = Buffer.from(dataOf(image, a));
    dataOf(image, a).set(dataOf(image, b));
    dataOf(image, b).set(copy);
    return undefined;
  },
  'a leaf in two places, sealed for both': (image, prng) => {
    const leaves = mappingLeaves(image);
    const [to, from] = [prng.pick(leaves), prng.pick(leaves)];
    dataOf(image, to).set(Buffer.from(dataOf(image, from)));
    seal(image, BTREE_NODE, to);
    return undefined;
  },
  'bitmaps zeroed': (image) => {
    for (const block of blocksOf(image, SPACE_MAP_BITMAP)) dataOf(image, block).fill(0);
    return undefined;
  },
  'index of the metadata space map torn': (image, prng) => {
    for (const block of blocksOf(image, SPACE_MAP_INDEX)) flipBits(image, block, prng);
    return undefined;
  },
  'reference counts that are wrong': (image, prng) => {
    for (const block of blocksOf(image, SPACE_MAP_BITMAP)) {
      const data = dataOf(image, block);
      for (let i = 0; i < 5; i++) data[16 + prng.below(200)] = prng.below(256);
      assert.ok(bitmapCount(data, BITMAP_ENTRIES - 1) >= 0);
      seal(image, SPACE_MAP_BITMAP, block);
    }
    return undefined;
  },
  'cut in the middle of what is used': (image, prng) => {
    const nodes = blocksOf(image, BTREE_NODE);
    return image.subarray(0, BLOCK * prng.between(2, nodes.at(-1) ?? 2));
  },
  'wrong bits anywhere': (image, prng) => {
    const used = (blocksOf(image, BTREE_NODE).at(-1) ?? 0) + 1;
    for (let i = 0; i < 6; i++) flipBits(image, 1 + prng.below(used), prng);
    return undefined;
  },
};

/** The mappings that lamina saves; none if it refuses. */
async function ours(damaged: string, known: Victim, isLost: boolean): Promise<Set<string>> {
  const from = MetadataFile.open(damaged, { isReadOnly: true });
  const { transactionId, dataBlocks } = known;
  const overrides = isLost ? { transactionId, dataBlocks, dataBlockSectors: 128 } : {};
  const disk = new MetadataDisk(SIZES.metadataBlocks);
  try {
    await repairPool(from, disk, overrides);
  } catch (error) {
    assert.ok(error instanceof DmError, String(error));
    return new Set();
  } finally {
    from.close();
  }
  const file = join(folder.path, 'ours');
  writeFileSync(file, disk.image);
  const { status, text } = run('thin_check', file);
  assert.equal(status, 0, text);
  assert.equal((await checkPool(disk)).errorCount, 0);
  return mappingsOf(file);
}

function theirs(damaged: string, known: Victim, isLost: boolean): Set<string> {
  const file = join(folder.path, 'theirs');
  writeFileSync(file, Buffer.alloc(SIZES.metadataBlocks * BLOCK));
  const words = ['--transaction-id', String(known.transactionId), '--data-block-size', '128'];
  const options = isLost ? [...words, '--nr-data-blocks', String(known.dataBlocks)] : [];
  const { status } = run('thin_repair', '-i', damaged, '-o', file, ...options);
  return status === 0 ? mappingsOf(file) : new Set();
}

describe('lamina pool repair beside thin_repair', { skip }, () => {
  assert.ok(Object.keys(DAMAGES).length >= 10);
  for (const [index, [name, damage]] of Object.entries(DAMAGES).entries()) {
    it(`is no worse: ${name}`, async () => {
      const saved = { ours: 0, theirs: 0 };
      for (const [trial, known] of victims.entries()) {
        const seed = SEED + 100 * index + trial;
        const copy = Buffer.from(known.image);
        const image = damage(copy, new Prng(seed), known) ?? copy;
        const isLost = !isKind(image, THIN_SUPERBLOCK, 0);
        const damaged = join(folder.path, 'damaged');
        writeFileSync(damaged, image);
        const a = scoreOf(await ours(damaged, known, isLost), known);
        const b = scoreOf(theirs(damaged, known, isLost), known);
        const text = `seed ${seed}: ours ${JSON.stringify(a)}, thin_repair's ${JSON.stringify(b)}`;
        assert.ok(a.right >= b.right, text);
        assert.ok(a.devices >= b.devices, text);
        if (a.right === b.right) assert.ok(a.wrong <= b.wrong, text);
        saved.ours += a.right;
        saved.theirs += b.right;
      }
      assert.ok(saved.ours >= saved.theirs);
    });
  }
});

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/test/interop/thin-repair.test.js`);
