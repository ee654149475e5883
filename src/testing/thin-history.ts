// Random histories of thin metadata beside a plain model of it: what every device should map where, as of
// now and as of the last commit.

import assert from 'node:assert/strict';
import { DmError } from '../base/errors.ts';
import type { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { FoundMapping } from '../targets/thin/found-mapping.ts';
import { ThinMetadata } from '../targets/thin/metadata.ts';
import type { ThinDevice } from '../targets/thin/thin-device.ts';
import { METADATA_BLOCK_BYTES } from '../persistent-data/block-kind.ts';
import { Lookup } from '../persistent-data/btree-read.ts';
import { MetadataDisk } from './metadata-disk.ts';

export interface ModelDevice {
  transactionId: number;
  creationTime: number;
  snapshottedTime: number;
  readonly blocks: Map<number, { dataBlock: number; time: number }>;
}

export interface PoolModel {
  time: number;
  transactionId: number;
  dataBlocks: number;
  readonly devices: Map<number, ModelDevice>;
  /** What the metadata snapshot holds. */
  held: PoolModel | undefined;
}

/** A small cache, so that blocks come and go. */
const OPTIONS = { cacheBytes: 24 * 4096 };
export const DATA_BLOCK_SECTORS = 128;
const BLOCK_RANGES = [8, 300, 5000, 2 ** 40];

export class ThinHistory {
  readonly disk: MetadataDisk;
  readonly prng: Prng;
  metadata: ThinMetadata;
  model: PoolModel;
  committed: PoolModel;
  /** Blocks mapped without waiting, so far. */
  provisioned = 0;
  /** Look-ups that did not have to wait, so far. */
  foundQuickly = 0;

  private constructor(disk: MetadataDisk, prng: Prng, metadata: ThinMetadata, model: PoolModel) {
    this.disk = disk;
    this.prng = prng;
    this.metadata = metadata;
    this.model = model;
    this.committed = structuredClone(model);
  }

  static async start(
    prng: Prng,
    sizes: { metadataBlocks: number; dataBlocks: number },
  ): Promise<ThinHistory> {
    const disk = new MetadataDisk(sizes.metadataBlocks);
    const { dataBlocks } = sizes;
    const pool = { dataBlockSectors: DATA_BLOCK_SECTORS, dataBlocks };
    const metadata = await ThinMetadata.format(disk, pool, OPTIONS);
    const model = { time: 0, transactionId: 0, dataBlocks, devices: new Map(), held: undefined };
    return new ThinHistory(disk, prng, metadata, model);
  }

  /** Goes on with metadata that is already on a disk. */
  static async continue(disk: MetadataDisk, prng: Prng, model: PoolModel): Promise<ThinHistory> {
    const metadata = await ThinMetadata.open(disk, OPTIONS);
    return new ThinHistory(disk, prng, metadata, structuredClone(model));
  }

  async commit(): Promise<void> {
    await this.metadata.commit();
    this.committed = structuredClone(this.model);
  }

  /** The superblock as a reader sees it: it tells which of two commits the disk has. */
  superblock(): Uint8Array {
    return this.disk.image.slice(0, METADATA_BLOCK_BYTES);
  }

  async abort(): Promise<void> {
    await this.metadata.abort();
    this.model = structuredClone(this.committed);
  }

  async reopen(): Promise<void> {
    this.metadata = await ThinMetadata.open(this.disk, OPTIONS);
    this.model = structuredClone(this.committed);
  }

  /** A change, whatever else there is to commit. */
  async touch(): Promise<void> {
    const { transactionId } = this.model;
    this.model.transactionId = (transactionId + 1) % 1000;
    await this.metadata.setTransactionId(transactionId, this.model.transactionId);
  }

  /** One random change; some are refused, and then nothing may have changed. */
  async step(): Promise<void> {
    const { prng, model } = this;
    const id = this.#someId();
    const action = prng.unit();
    if (action < 0.1) await this.#create();
    else if (action < 0.2) await this.#snap();
    else if (action < 0.26) await this.#delete(id);
    else if (action < 0.7) await this.#write(id);
    else if (action < 0.9) await this.#remove(id);
    else if (action < 0.93) {
      const next = prng.below(1000);
      await this.metadata.setTransactionId(model.transactionId, next);
      model.transactionId = next;
    } else if (action < 0.96) await this.#holdOrRelease();
    else {
      model.dataBlocks += prng.pick([1, 100, 17_000]);
      await this.metadata.resizeData(model.dataBlocks);
    }
  }

  /** Everything the metadata answers equals the model. */
  async check(): Promise<void> {
    const { metadata, model } = this;
    assert.deepEqual(
      await metadata.deviceIds(),
      [...model.devices.keys()].sort((a, b) => a - b),
    );
    assert.equal(metadata.transactionId, model.transactionId);
    assert.equal(metadata.dataBlocks, model.dataBlocks);
    for (const [id, expected] of model.devices) {
      const device = await metadata.openDevice(id);
      const { mappedBlocks, transactionId, creationTime, snapshottedTime } = device;
      const { blocks, ...details } = expected;
      assert.deepEqual({ transactionId, creationTime, snapshottedTime }, details);
      assert.equal(mappedBlocks, blocks.size);
      const found = new Map<number, { dataBlock: number; time: number }>();
      await metadata.walk(device, 0, (block, dataBlock, time) => {
        found.set(block, { dataBlock, time });
        return true;
      });
      const inOrder = [...blocks].sort((a, b) => a[0] - b[0]);
      assert.deepEqual([...found], inOrder);
      await metadata.findHighest(device);
      assert.equal(device.highestMapped, inOrder.at(-1)?.[0] ?? -1);
      metadata.closeDevice(device);
    }
  }

  /** Free blocks after a commit: all that nothing maps. */
  checkFree(): void {
    const used = new Set<number>();
    for (const pool of [this.model, this.model.held]) {
      for (const { blocks } of pool?.devices.values() ?? []) {
        for (const { dataBlock } of blocks.values()) used.add(dataBlock);
      }
    }
    assert.equal(this.metadata.dataBlocksFree, this.model.dataBlocks - used.size);
  }

  #someId(): number {
    return this.prng.pick([...this.model.devices.keys(), 77]);
  }

  #newDevice(blocks: ModelDevice['blocks']): ModelDevice {
    const { time, transactionId } = this.model;
    return { transactionId, creationTime: time, snapshottedTime: time, blocks };
  }

  async #create(): Promise<void> {
    const id = this.prng.pick([0, 1, 2, 3, 50, 0xffffff]);
    if (this.model.devices.has(id)) {
      await refuses(this.metadata.createThin(id), Status.Exists);
      return;
    }
    await this.metadata.createThin(id);
    this.model.devices.set(id, this.#newDevice(new Map()));
  }

  async #snap(): Promise<void> {
    const origin = this.#someId();
    const id = this.prng.between(4, 12);
    const source = this.model.devices.get(origin);
    const isTaken = this.model.devices.has(id);
    if (isTaken || source === undefined) {
      const status = isTaken ? Status.Exists : Status.NoDevice;
      await refuses(this.metadata.createSnap(id, origin), status);
      return;
    }
    await this.metadata.createSnap(id, origin);
    source.snapshottedTime = ++this.model.time;
    this.model.devices.set(id, this.#newDevice(structuredClone(source.blocks)));
  }

  async #delete(id: number): Promise<void> {
    if (!this.model.devices.delete(id)) {
      await refuses(this.metadata.deleteThin(id), Status.NoDevice);
      return;
    }
    await this.metadata.deleteThin(id);
  }

  async #write(id: number): Promise<void> {
    const { metadata, model, prng } = this;
    const expected = model.devices.get(id);
    if (expected === undefined) {
      await refuses(metadata.openDevice(id), Status.NoDevice);
      return;
    }
    const device = await metadata.openDevice(id);
    const start = prng.below(prng.pick(BLOCK_RANGES));
    for (let i = prng.below(6); i > 0; i--) {
      const near = start + prng.below(300);
      this.#lookUpRun(device, near);
      this.#provision(device, near);
    }
    const isRun = prng.chance(0.5);
    for (let i = prng.below(60); i > 0 && metadata.dataBlocksFree > 0; i--) {
      const block = isRun ? start + i : prng.below(prng.pick(BLOCK_RANGES));
      const found = new FoundMapping();
      const before: { dataBlock: number; time: number } | undefined = expected.blocks.get(block);
      assert.equal(await metadata.lookup(device, block, found), before !== undefined);
      const quick = metadata.tryLookup(device, block, found);
      // So small a cache may have lost a node of the way already.
      if (quick === Lookup.WouldBlock) await metadata.lookup(device, block, found);
      else {
        assert.equal(quick, before === undefined ? Lookup.Missing : Lookup.Found);
        this.foundQuickly++;
      }
      if (before !== undefined) {
        const isShared: boolean = before.time < expected.snapshottedTime;
        assert.equal(found.dataBlock, before.dataBlock);
        assert.equal(found.isShared, isShared);
        if (!isShared) continue;
      }
      const dataBlock = await metadata.allocateDataBlock();
      assert.ok(!this.#isInUse(dataBlock), `data block ${dataBlock} is in use`);
      await metadata.insert(device, block, dataBlock);
      expected.blocks.set(block, { dataBlock, time: model.time });
    }
    metadata.closeDevice(device);
  }

  /** A run goes on no further than blocks are alike, and says nothing that is not so. */
  #lookUpRun(device: ThinDevice, first: number): void {
    const expected = this.model.devices.get(device.id);
    const found = new FoundMapping();
    const max = this.prng.between(1, 40);
    const result = this.metadata.tryLookupRun(device, first, max, found);
    if (result === Lookup.WouldBlock) return;
    assert.ok(found.count >= 1 && found.count <= max, `a run of ${found.count}`);
    for (let i = 0; i < found.count; i++) {
      const mapping = expected?.blocks.get(first + i);
      assert.equal(result === Lookup.Found, mapping !== undefined);
      if (mapping === undefined) continue;
      assert.equal(mapping.dataBlock, found.dataBlock + i);
      assert.equal(mapping.time < device.snapshottedTime, found.isShared);
    }
  }

  /** Maps what is unmapped from `first` on, as far as that goes without waiting. */
  #provision(device: ThinDevice, first: number): void {
    const { metadata, model, prng } = this;
    const expected = model.devices.get(device.id)?.blocks;
    let count = 0;
    const max = prng.between(1, 40);
    while (count < max && expected?.has(first + count) === false) count++;
    if (count === 0) return;
    const found = new FoundMapping();
    const done = metadata.tryProvision(device, first, count, found);
    for (let i = 0; i < done; i++) {
      const dataBlock = found.dataBlock + i;
      assert.ok(!this.#isInUse(dataBlock), `data block ${dataBlock} is in use`);
      expected?.set(first + i, { dataBlock, time: model.time });
    }
    this.provisioned += done;
  }

  async #remove(id: number): Promise<void> {
    const expected = this.model.devices.get(id);
    if (expected === undefined) return;
    const device = await this.metadata.openDevice(id);
    const blocks = [...expected.blocks.keys()];
    const begin = blocks.length > 0 ? this.prng.pick(blocks) : 3;
    const end = begin + this.prng.pick([1, 10, 500, 2 ** 41]);
    let removed = 0;
    for (const block of blocks) {
      if (block >= begin && block < end && expected.blocks.delete(block)) removed++;
    }
    assert.equal(await this.metadata.removeRange(device, begin, end), removed);
    this.metadata.closeDevice(device);
  }

  async #holdOrRelease(): Promise<void> {
    const { metadata, model } = this;
    if (model.held !== undefined) {
      await metadata.releaseSnapshot();
      model.held = undefined;
      return;
    }
    // It would commit by itself; done here, the model knows of it even if the rest fails.
    await this.commit();
    await metadata.reserveSnapshot();
    model.held = structuredClone(model);
  }

  /** Used now, or by the last commit: neither may be given out. */
  #isInUse(dataBlock: number): boolean {
    return [this.model, this.model.held, this.committed, this.committed.held].some((pool) =>
      [...(pool?.devices.values() ?? [])].some((device) =>
        [...device.blocks.values()].some((m) => m.dataBlock === dataBlock),
      ),
    );
  }
}

async function refuses(work: Promise<unknown>, status: Status): Promise<void> {
  await assert.rejects(work, (error) => {
    // A disk that fails is not the refusal, and the caller's business.
    if (!(error instanceof DmError)) throw error;
    return error.status === status;
  });
}
