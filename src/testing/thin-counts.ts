// The reference counts of data blocks, found by reading every tree of committed thin metadata: a mapping
// counts once for each leaf it is in, whatever the number of devices that share the leaf. thin_check 0.9.0
// does not look at them.

import assert from 'node:assert/strict';
import {
  mappedDataBlock,
  THIN_SUPERBLOCK,
  ThinSuperblock,
} from '../targets/thin/metadata.format.ts';
import { ThinMetadataStore } from '../targets/thin/metadata-store.ts';
import { BlockManager, type MetadataIo } from '../persistent-data/block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  valueAt,
} from '../persistent-data/btree-node.format.ts';

/** Throws an AssertionError unless every data block is counted as often as it is mapped. */
export async function checkDataCounts(io: MetadataIo): Promise<void> {
  const store = await ThinMetadataStore.open(new BlockManager(io));
  const { state, tm, dataMap } = store;
  const seen = new Set<number>();
  const leaves = async (root: number, visit: (view: DataView) => Promise<void>): Promise<void> => {
    if (seen.has(root)) return;
    seen.add(root);
    const { view } = await tm.read(root, BTREE_NODE);
    if (isLeaf(view)) return await visit(view);
    for (let i = 0; i < entryCount(view); i++) await leaves(childAt(view, i), visit);
  };
  const counts = new Map<number, number>();
  const countMappings = async (view: DataView): Promise<void> => {
    await Promise.resolve();
    for (let i = 0; i < entryCount(view); i++) {
      const block = mappedDataBlock(view, valueAt(view, i));
      counts.set(block, (counts.get(block) ?? 0) + 1);
    }
  };
  const roots = [state.mappingRoot];
  if (state.heldRoot !== 0) {
    const { view } = await tm.read(state.heldRoot, THIN_SUPERBLOCK);
    roots.push(ThinSuperblock.dataMappingRoot.get(view, 0));
  }
  for (const root of roots) {
    await leaves(root, async (view) => {
      for (let i = 0; i < entryCount(view); i++) await leaves(childAt(view, i), countMappings);
    });
  }
  for (let block = 0; block < dataMap.blockCount; block++) {
    const found = await dataMap.count(block);
    assert.equal(found, counts.get(block) ?? 0, `count of data block ${block}`);
  }
}
