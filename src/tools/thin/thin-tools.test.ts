import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import {
  type BlockKind,
  blockChecksum,
  CorruptBlockError,
  sealBlock,
} from '../../persistent-data/block-kind.ts';
import {
  BTREE_NODE,
  NodeHeader,
  setKeyAt,
  keyAt,
  valueAt,
  isLeaf,
  entryCount,
} from '../../persistent-data/btree-node.format.ts';
import {
  SPACE_MAP_BITMAP,
  SPACE_MAP_INDEX,
  SpaceMapRoot,
  bitmapCount,
  setBitmapCount,
} from '../../persistent-data/space-map.format.ts';
import { MetadataDisk } from '../../testing/metadata-disk.ts';
import { type PoolModel, ThinHistory } from '../../testing/thin-history.ts';
import {
  DeviceDetails,
  SuperblockFlag,
  THIN_SUPERBLOCK,
  ThinSuperblock,
} from '../../targets/thin/metadata.format.ts';
import { ThinMetadata } from '../../targets/thin/metadata.ts';
import { type CheckResult, checkPool, clearNeedsCheck } from './check.ts';
import { type DiffRange, diffTrees } from './diff.ts';
import { dumpPool } from './dump.ts';
import { PoolReader } from './pool-reader.ts';
import { repairPool } from './repair.ts';
import { restorePool } from './restore.ts';
import { readPoolXml, type XmlEvent } from './xml-reader.ts';
import { SEED } from '../../testing/seed.ts';

const SIZES = { metadataBlocks: 512, dataBlocks: 3000 };
const BLOCK = 4096;

async function history(seed: number, steps: number): Promise<ThinHistory> {
  const made = await ThinHistory.start(new Prng(seed), SIZES);
  for (let i = 0; i < steps; i++) {
    await made.step();
    if (i % 7 === 0) await made.commit();
  }
  await made.commit();
  return made;
}

async function textOf(pool: PoolReader, format: 'xml' | 'json' = 'xml'): Promise<string> {
  let text = '';
  for await (const piece of dumpPool(pool, format)) text += piece;
  return text;
}

async function xmlOf(disk: MetadataDisk): Promise<string> {
  return await textOf(await PoolReader.open(disk));
}

function told(result: CheckResult): string {
  return result.findings.map((f) => `${f.severity}: ${f.text}`).join('\n');
}

async function assertClean(disk: MetadataDisk): Promise<CheckResult> {
  const result = await checkPool(disk);
  assert.equal(told(result), '');
  return result;
}

const KINDS = [THIN_SUPERBLOCK, BTREE_NODE, SPACE_MAP_BITMAP, SPACE_MAP_INDEX];

/** What a block's checksum says it is, whatever else is in it. */
function kindOf(disk: MetadataDisk, number: number): BlockKind | undefined {
  const data = disk.image.subarray(number * BLOCK, (number + 1) * BLOCK);
  const csum = blockView(disk, number).getUint32(0, true);
  return KINDS.find((kind) => blockChecksum(data, kind.salt) === csum);
}

function goodBlocks(disk: MetadataDisk): number[] {
  return [...Array(disk.blockCount).keys()].filter((n) => kindOf(disk, n) !== undefined);
}

/** A copy with one block changed and sealed again, as a bug would write it. */
function changed(
  disk: MetadataDisk,
  number: number,
  change: (view: DataView, data: Uint8Array) => void,
): MetadataDisk {
  const copy = new MetadataDisk(disk.blockCount, disk.image);
  const data = copy.image.subarray(number * BLOCK, (number + 1) * BLOCK);
  const view = new DataView(data.buffer, data.byteOffset, BLOCK);
  const kind = kindOf(disk, number);
  assert.ok(kind !== undefined, `block ${number} is of no kind`);
  change(view, data);
  sealBlock(kind, number, data, view);
  return copy;
}

function blockView(disk: MetadataDisk, number: number): DataView {
  return new DataView(disk.image.buffer, disk.image.byteOffset + number * BLOCK, BLOCK);
}

async function numbersOf(disk: MetadataDisk): Promise<{
  details: number;
  top: number;
  device: number;
  bitmap: number;
}> {
  const { superblock } = await PoolReader.open(disk);
  const { fields, metadataMap } = superblock;
  // The first entry of the index block begins with its bitmap's number.
  const index = blockView(disk, metadataMap.bitmapRoot);
  const device = blockView(disk, fields.dataMappingRoot);
  return {
    details: fields.deviceDetailsRoot,
    top: fields.dataMappingRoot,
    device: device.getUint32(valueAt(device, 0), true),
    bitmap: index.getUint32(16, true),
  };
}

/** One device with 100 mappings, and nothing else. */
async function smallPool(): Promise<MetadataDisk> {
  const disk = new MetadataDisk(64);
  const metadata = await ThinMetadata.format(disk, { dataBlockSectors: 128, dataBlocks: 1000 });
  await metadata.createThin(5);
  const device = await metadata.openDevice(5);
  for (let i = 0; i < 100; i++) {
    await metadata.insert(device, i * 2, await metadata.allocateDataBlock());
  }
  await metadata.commit();
  return disk;
}

describe(`thin tools, LAMINA_SEED=${SEED}`, () => {
  it('every commit of random histories is found good, with the right totals', async () => {
    for (let round = 0; round < 4; round++) {
      const { disk, model } = await history(SEED + round, 20 + 60 * round);
      const result = await assertClean(disk);
      const devices = [...model.devices.values()];
      assert.equal(result.devices, devices.length);
      assert.equal(
        result.mappedBlocks,
        devices.reduce((sum, device) => sum + device.blocks.size, 0),
      );
    }
  });

  it('a bit flipped in any block in use is found and named; repair is clean or refuses', async () => {
    const { disk } = await history(SEED + 10, 150);
    const good = await xmlOf(disk);
    const { metadataBlocksUsed } = await checkPool(disk);
    const prng = new Prng(SEED);
    let found = 0;
    let refused = 0;
    let whole = 0;
    for (let number = 0; number < disk.blockCount; number++) {
      const damaged = new MetadataDisk(disk.blockCount, disk.image);
      const at = number * BLOCK + prng.below(BLOCK);
      damaged.image[at] = (damaged.image[at] ?? 0) ^ (1 << prng.below(8));
      const before = damaged.image.slice();
      const result = await checkPool(damaged);
      if (result.isGood) continue;
      found++;
      const names = result.findings.some((f) => f.severity === 'error' && f.block === number);
      assert.ok(names, `block ${number}: ${told(result)}`);
      const out = new MetadataDisk(disk.blockCount);
      try {
        const repaired = await repairPool(damaged, out, { dataBlockSectors: 128 });
        await assertClean(out);
        if (repaired.losses.length === 0) {
          whole++;
          const text = (await xmlOf(out)).replace(/flags="\d+"/, 'flags="0"');
          assert.equal(text, good);
        }
      } catch (error) {
        assert.ok(error instanceof DmError, String(error));
        assert.ok((await checkPool(out)).errorCount > 0, 'what was refused is no pool');
        refused++;
      }
      assert.deepEqual(damaged.image, before, 'repair only reads the damaged metadata');
    }
    assert.equal(found, metadataBlocksUsed);
    assert.ok(whole >= 5, `${whole} repairs without loss`);
    assert.ok(refused <= 3, `${refused} refusals`);
  });

  it('a count that is too low is an error, one too high a leak', async () => {
    const disk = await smallPool();
    const { bitmap, device } = await numbersOf(disk);
    const bump = (count: number): MetadataDisk =>
      changed(disk, bitmap, (_, data) => setBitmapCount(data, device, count));
    const low = await checkPool(bump(0));
    assert.match(told(low), new RegExp(`metadata block ${device}: counted 0, expected 1$`, 'm'));
    assert.equal(low.isGood, false);
    const high = await checkPool(bump(2));
    const leak = new RegExp(`note: .*metadata block ${device}: counted 2, expected 1 \\(a leak\\)`);
    assert.match(told(high), leak);
    assert.equal(high.isGood, true);
  });

  it('a large count that its tree does not have is found', async () => {
    const disk = await smallPool();
    const { bitmap, device } = await numbersOf(disk);
    const bad = changed(disk, bitmap, (_, data) => {
      assert.equal(bitmapCount(data, device), 1);
      setBitmapCount(data, device, 3);
    });
    assert.match(told(await checkPool(bad)), /its tree has no count for metadata block/);
  });

  it('wrong details, keys, values and totals are found, though checksums are right', async () => {
    const disk = await smallPool();
    const { details, device, top } = await numbersOf(disk);
    const findings = async (
      number: number,
      change: (view: DataView, data: Uint8Array) => void,
    ): Promise<string> => told(await checkPool(changed(disk, number, change)));
    const tests: [number, (view: DataView, data: Uint8Array) => void, RegExp][] = [
      [
        details,
        (view) => DeviceDetails.mappedBlocks.set(view, valueAt(view, 0), 99),
        /device 5: its details have 99 mapped blocks, expected 100/,
      ],
      [
        details,
        (view) => DeviceDetails.snapshottedTime.set(view, valueAt(view, 0), 9),
        /device 5: was in a snapshot at time 9, expected at most 0/,
      ],
      [
        details,
        (view) => setKeyAt(view, 0, 6),
        /device 5: has no details\n.*device 6: has details, but no mapping tree/,
      ],
      [top, (view) => setKeyAt(view, 0, 2 ** 24), /key 0 is 16777216, expected at most 16777215/],
      [
        top,
        (view) => view.setUint32(valueAt(view, 0), 1_000_000, true),
        new RegExp(`metadata block ${top}: device 5: refers to block 1000000 as mapping tree`),
      ],
      [
        top,
        (view) => view.setUint32(valueAt(view, 0), details, true),
        new RegExp(`metadata block ${details}: device 5: is used as mapping tree, and also as det`),
      ],
      [device, (view) => setKeyAt(view, 3, keyAt(view, 2)), /key 3 is 4, expected above 4/],
      [
        device,
        (view) => view.setUint32(valueAt(view, 1) + 4, 7, true),
        /thin block 2 is in data block \d+, expected one below 1000/,
      ],
      [
        device,
        (view) => view.setUint8(valueAt(view, 1), 7),
        /thin block 2 was mapped at time 7, expected at most 0/,
      ],
      [device, (view) => NodeHeader.maxEntries.set(view, 0, 200), /expected a multiple of 3/],
      [
        0,
        (view) => {
          const at = ThinSuperblock.dataSpaceMapRoot.offset;
          SpaceMapRoot.nrAllocated.set(view, at, 99);
        },
        /data space map: 99 blocks in use, expected 100/,
      ],
      [0, (view) => ThinSuperblock.dataBlockSize.set(view, 0, 100), /data block size 100: need/],
      [0, (view) => ThinSuperblock.heldRoot.set(view, 0, 7), /metadata block 7: thin superblock/],
    ];
    for (const [number, change, expected] of tests) {
      assert.match(await findings(number, change), expected);
    }
  });

  it('metadata with arbitrary contents under right checksums ends no tool', async () => {
    const outcomes = { good: 0, whole: 0, lossy: 0, refused: 0 };
    const { disk } = await history(SEED + 100, 100);
    for (let round = 0; round < 60; round++) {
      const prng = new Prng(SEED + 100 + round);
      const blocks = goodBlocks(disk);
      let damaged = disk;
      for (let n = prng.between(1, 4); n > 0; n--) {
        const from = prng.pick(blocks);
        const at = prng.below(BLOCK / 8) * 8;
        const isPlaced = prng.chance(0.4);
        damaged = changed(damaged, prng.pick(blocks), (view, data) => {
          if (isPlaced) data.set(disk.image.subarray(from * BLOCK, (from + 1) * BLOCK));
          else view.setBigUint64(at, BigInt(prng.below(2 ** prng.pick([2, 8, 12, 53]))), true);
        });
      }
      const result = await checkPool(damaged);
      if (result.isGood) outcomes.good++;
      const out = new MetadataDisk(disk.blockCount);
      try {
        const { losses } = await repairPool(damaged, out, { dataBlockSectors: 128 });
        outcomes[losses.length > 0 ? 'lossy' : 'whole']++;
        await assertClean(out);
      } catch (error) {
        assert.ok(error instanceof DmError, String(error));
        outcomes.refused++;
      }
      try {
        await xmlOf(damaged);
      } catch (error) {
        assert.ok(error instanceof DmError || error instanceof CorruptBlockError, String(error));
        assert.equal(result.isGood, false);
      }
    }
    assert.ok(outcomes.whole > 0 && outcomes.lossy > 0, JSON.stringify(outcomes));
  });

  it('the needs-check flag is told, and cleared', async () => {
    const disk = await smallPool();
    await (await ThinMetadata.open(disk)).setNeedsCheck();
    assert.equal((await assertClean(disk)).needsCheck, true);
    await clearNeedsCheck(disk);
    assert.equal((await assertClean(disk)).needsCheck, false);
    assert.equal(ThinSuperblock.flags.get(blockView(disk, 0), 0) & SuperblockFlag.NeedsCheck, 0);
  });

  it('restored XML dumps as it was, in pieces of any size, and can be changed', async () => {
    for (let round = 0; round < 4; round++) {
      const prng = new Prng(SEED + 20 + round);
      const made = await history(SEED + 20 + round, 100);
      const xml = await xmlOf(made.disk);
      const disk = new MetadataDisk(SIZES.metadataBlocks);
      const pieces: string[] = [];
      for (let at = 0; at < xml.length; ) {
        const size = prng.between(1, 300);
        pieces.push(xml.slice(at, at + size));
        at += size;
      }
      await restorePool(disk, pieces);
      await assertClean(disk);
      assert.equal(await xmlOf(disk), xml);
      const model = { ...structuredClone(made.model), held: undefined };
      const again = await ThinHistory.continue(disk, prng, model);
      await again.check();
      for (let i = 0; i < 20; i++) await again.step();
      await again.commit();
      await assertClean(disk);
    }
  });

  it('the JSON of a dump has what the XML has', async () => {
    const { disk } = await history(SEED + 30, 60);
    const json = JSON.parse(await textOf(await PoolReader.open(disk), 'json')) as {
      devices: { dev_id: number; mappings: { length: number }[] }[];
    };
    const events: XmlEvent[] = [];
    for await (const event of readPoolXml([await xmlOf(disk)])) events.push(event);
    const count = (kind: string): number => events.filter((e) => e.kind === kind).length;
    assert.equal(json.devices.length, count('device'));
    assert.equal(
      json.devices.reduce((sum, device) => sum + device.mappings.length, 0),
      count('run'),
    );
  });

  it('the difference of two devices is what their mappings say', async () => {
    for (let round = 0; round < 2; round++) {
      const prng = new Prng(SEED + 40 + round);
      const { disk, model } = await history(SEED + 40 + round, 200);
      const pool = await PoolReader.open(disk);
      const devices = await pool.devices();
      for (const a of devices) {
        for (const b of devices) {
          const expected = diffOfModel(model, a.id, b.id);
          const roots = { left: a.root, right: b.root };
          assert.deepEqual(await all(diffTrees(pool, roots, { withSame: true })), expected);
          assert.deepEqual(
            await all(diffTrees(pool, roots)),
            expected.filter(({ kind }) => kind !== 'same'),
          );
          const last = expected.at(-1);
          const blocks = last === undefined ? 1 : last.begin + last.length + 1;
          const begin = prng.below(blocks);
          const end = begin + 1 + prng.below(blocks);
          assert.deepEqual(
            await all(diffTrees(pool, roots, { withSame: true, begin, end })),
            expected.flatMap((range) => cut(range, begin, end)),
          );
        }
      }
    }
  });

  it('the difference to a snapshot reads what was written since, not what is shared', async () => {
    const disk = new MetadataDisk(4096);
    const metadata = await ThinMetadata.format(disk, { dataBlockSectors: 128, dataBlocks: 2e5 });
    await metadata.createThin(0);
    const device = await metadata.openDevice(0);
    for (let i = 0; i < 100_000; i++) {
      await metadata.insert(device, i, await metadata.allocateDataBlock());
    }
    await metadata.createSnap(1, 0);
    for (const block of [7, 50_000, 50_001]) {
      await metadata.insert(device, block, await metadata.allocateDataBlock());
    }
    await metadata.commit();
    const pool = await PoolReader.open(disk);
    const [now, before] = [await pool.device(0), await pool.device(1)];
    const reads = disk.reads;
    assert.deepEqual(await all(diffTrees(pool, { left: before.root, right: now.root })), [
      { kind: 'different', begin: 7, length: 1 },
      { kind: 'different', begin: 50_000, length: 2 },
    ]);
    // Two of some 600 leaves on either side, and the nodes above them.
    assert.ok(disk.reads - reads <= 16, `${disk.reads - reads} blocks read`);
    assert.deepEqual(await all(diffTrees(pool, { left: now.root, right: now.root })), []);
  });

  it('what repair copies is shared as before', async () => {
    const disk = new MetadataDisk(1024);
    const metadata = await ThinMetadata.format(disk, { dataBlockSectors: 128, dataBlocks: 50_000 });
    await metadata.createThin(0);
    const device = await metadata.openDevice(0);
    for (let i = 0; i < 20_000; i++) {
      await metadata.insert(device, i, await metadata.allocateDataBlock());
    }
    for (let id = 1; id < 10; id++) {
      await metadata.createSnap(id, 0);
      await metadata.insert(device, id * 2000, await metadata.allocateDataBlock());
    }
    await metadata.commit();
    const before = await assertClean(disk);
    const out = new MetadataDisk(1024);
    const result = await repairPool(disk, out);
    assert.deepEqual(result.losses, []);
    const after = await assertClean(out);
    assert.equal(after.mappedBlocks, 200_000);
    assert.equal(after.dataBlocksUsed, before.dataBlocksUsed);
    assert.ok(after.metadataBlocksUsed <= before.metadataBlocksUsed, 'no node more than before');
    assert.equal(await xmlOf(out), await xmlOf(disk));
  });

  it('the trees are looked for when those that a sound superblock names do not hold', async () => {
    const whole = await smallPool();
    const metadata = await ThinMetadata.open(whole);
    await metadata.setTransactionId(metadata.transactionId, 41);
    await metadata.commit();
    const xml = await xmlOf(whole);
    const { dataMappingRoot, deviceDetailsRoot } = ThinSuperblock;
    const { fields } = (await PoolReader.open(whole)).superblock;
    const others = [1, 2, 3, fields.dataMappingRoot, fields.deviceDetailsRoot, 100_000];
    for (const field of [dataMappingRoot, deviceDetailsRoot]) {
      for (const other of others) {
        const disk = changed(whole, 0, (view) => field.set(view, 0, other));
        const out = new MetadataDisk(disk.blockCount);
        const { losses } = await repairPool(disk, out);
        assert.deepEqual(losses, [], `${field.offset}: ${other}`);
        await assertClean(out);
        assert.equal(await xmlOf(out), xml);
      }
    }
  });

  it('what a lost superblock took is asked for by the options that give it', async () => {
    const damaged = changed(await smallPool(), 0, (view) => ThinSuperblock.magic.set(view, 0, 0));
    const out = new MetadataDisk(damaged.blockCount);
    await assert.rejects(repairPool(damaged, out), /give it by --data-block-size, in sectors/);
    const { losses } = await repairPool(damaged, out, { dataBlockSectors: 128 });
    assert.match(losses.join('\n'), /size of the data device.*\(--nr-data-blocks\)/);
    assert.match(losses.join('\n'), /the transaction id.*\(--transaction-id\)/);
  });

  it('a lost transaction id is one more than the highest of a device', async () => {
    const disk = new MetadataDisk(64);
    const xml =
      '<superblock uuid="" time="0" transaction="1" flags="0" version="2" data_block_size="128" ' +
      'nr_data_blocks="100">\n' +
      '  <device dev_id="0" mapped_blocks="9" transaction="6" creation_time="0" snap_time="0">\n' +
      '    <range_mapping origin_begin="0" data_begin="0" length="9" time="0"/>\n' +
      '  </device>\n</superblock>\n';
    await restorePool(disk, [xml]);
    disk.image.fill(0, 0, BLOCK);
    const out = new MetadataDisk(64);
    await repairPool(disk, out, { dataBlockSectors: 128, dataBlocks: 100 });
    assert.equal(await xmlOf(out), xml.replace('transaction="1"', 'transaction="7"'));
  });

  it('of a damaged leaf the rest is kept, and the loss is named', async () => {
    const disk = new MetadataDisk(256);
    const metadata = await ThinMetadata.format(disk, { dataBlockSectors: 128, dataBlocks: 5000 });
    await metadata.createThin(3);
    const device = await metadata.openDevice(3);
    for (let i = 0; i < 2000; i++) {
      await metadata.insert(device, i, await metadata.allocateDataBlock());
    }
    await metadata.createSnap(4, 3);
    await metadata.commit();
    const root = blockView(disk, (await PoolReader.open(disk).then((p) => p.device(3))).root);
    assert.ok(!isLeaf(root) && entryCount(root) > 3);
    const child = root.getUint32(valueAt(root, 1), true);
    const [begin, end] = [keyAt(root, 1), keyAt(root, 2)];
    disk.image[child * BLOCK + 2000] = (disk.image[child * BLOCK + 2000] ?? 0) ^ 1;
    const out = new MetadataDisk(256);
    const { losses, mappedBlocks } = await repairPool(disk, out);
    assert.equal(mappedBlocks, 2 * (2000 - (end - begin)));
    const text = losses.join('\n');
    assert.match(
      text,
      new RegExp(`device 3: thin blocks ${begin} to ${end - 1} are lost: metadata b`),
    );
    assert.match(text, new RegExp(`device 4: ${end - begin} of 2000 mapped blocks are lost`));
    await assertClean(out);
  });

  it('what is no such XML is refused with its line, and leaves no pool', async () => {
    const head =
      '<superblock uuid="" time="1" transaction="0" data_block_size="128" nr_data_blocks="9">\n';
    const device =
      '<device dev_id="1" mapped_blocks="1" transaction="0" creation_time="0" snap_time="0">\n';
    const map = '<single_mapping origin_block="0" data_block="1" time="0"/>\n';
    const good = `<?xml version='1.0'?>\n<!-- a > b -->${head}${device}${map}</device>\n</superblock>`;
    const tests: [string, RegExp][] = [
      ['', /line 1: ends before <\/superblock>/],
      [good.slice(0, -3), /line 6: ends inside an element/],
      [good.replace('</device>', ''), /line 6: found <\/superblock>, expected <\/device>/],
      [good.replace('single_mapping', 'ref'), /line 4: unknown element <ref>/],
      [good.replace(' time="0"/>', '/>'), /line 4: <single_mapping> lacks time/],
      [good.replace('dev_id="1"', 'dev_id="-1"'), /line 3: <device> dev_id="-1": need a number/],
      [good.replace('dev_id="1"', 'dev_id="1" x="1"'), /unknown attribute x/],
      [good.replace('dev_id="1"', 'dev_id="1" dev_id="2"'), /dev_id twice/],
      [good.replace(map, `${map}text`), /line 5: expected an element, found 'text'/],
      [good.replace(map, map + map), /thin block 0 is mapped twice/],
      [good.replace(map, ''), /device 1: says it has 1 mapped blocks, but has 0/],
      [good.replace('data_block="1"', 'data_block="9"'), /data block 9, expected one below 9/],
      [good.replace('time="0"/>', 'time="2"/>'), /mapping time 2, expected at most the pool's, 1/],
      [good.replace('"128"', '"100"'), /data block size 100: need a multiple of 128/],
      [good.replace('dev_id="1"', 'dev_id="16777216"'), /need an id of 0\.\.16777215/],
      [good + good, /in the wrong place/],
    ];
    for (const [xml, expected] of tests) {
      const disk = new MetadataDisk(64);
      await assert.rejects(restorePool(disk, [xml]), (error: Error) => {
        assert.ok(error instanceof DmError, String(error));
        assert.match(error.message, expected);
        return true;
      });
      assert.equal((await checkPool(disk)).isGood, false);
    }
    const disk = new MetadataDisk(64);
    assert.deepEqual(await restorePool(disk, [good]), { devices: 1, mappedBlocks: 1 });
    await assertClean(disk);
  });
});

async function all(ranges: AsyncIterable<DiffRange>): Promise<DiffRange[]> {
  const found: DiffRange[] = [];
  for await (const range of ranges) found.push(range);
  return found;
}

/** What of a range is in thin blocks [begin, end). */
function cut(range: DiffRange, begin: number, end: number): DiffRange[] {
  const from = Math.max(range.begin, begin);
  const to = Math.min(range.begin + range.length, end);
  return from < to ? [{ kind: range.kind, begin: from, length: to - from }] : [];
}

function diffOfModel(model: PoolModel, a: number, b: number): DiffRange[] {
  const left = model.devices.get(a)?.blocks ?? new Map<number, { dataBlock: number }>();
  const right = model.devices.get(b)?.blocks ?? new Map<number, { dataBlock: number }>();
  const ranges: { kind: DiffRange['kind']; begin: number; length: number }[] = [];
  const blocks = [...new Set([...left.keys(), ...right.keys()])].sort((x, y) => x - y);
  for (const block of blocks) {
    const [l, r] = [left.get(block)?.dataBlock, right.get(block)?.dataBlock];
    const both = l === r ? 'same' : 'different';
    const kind = r === undefined ? 'left-only' : l === undefined ? 'right-only' : both;
    const last = ranges.at(-1);
    if (last?.kind === kind && last.begin + last.length === block) last.length++;
    else ranges.push({ kind, begin: block, length: 1 });
  }
  return ranges;
}

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/src/tools/thin/thin-tools.test.js`);
