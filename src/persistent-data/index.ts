// Persistent data: Linux's transactional metadata (drivers/md/persistent-data), byte for byte on disk. It
// knows nothing of devices or targets; what is below it is a `MetadataIo`.
//
//     const blocks = new BlockManager(io, { cacheBytes });
//     const tm = await createTransactionManager(blocks);           // or openTransactionManager
//     const tree = new BTree(tm, U64_VALUE);
//     let root = await tree.empty();
//     root = (await tree.insert(root, key, value)).root;           // every change gives a new root
//     await tm.preCommit();                                        // then encode roots in a superblock
//     await tm.commit({ number: 0, kind: SUPERBLOCK, data });      // all blocks, flush, superblock, flush
//
// Units: block numbers are of 4096 bytes, sizes in bytes. Keys and block numbers are integers below 2^53.
// Locking is the user's: one change at a time, and no reads during one. After a rejected change, `abort`.

export { PersistentArray } from './array.ts';
export { Bitset } from './bitset.ts';
export { type BlockKind, CorruptBlockError, METADATA_BLOCK_BYTES, Salt } from './block-kind.ts';
export {
  type Block,
  BlockManager,
  type BlockManagerOptions,
  type MetadataIo,
} from './block-manager.ts';
export { Lookup, type LookupResult, Place, type Visitor } from './btree-read.ts';
export { BTree, type Inserted, type ValueType } from './btree.ts';
export { NestedBTree } from './nested-btree.ts';
export { createTransactionManager, openTransactionManager } from './open.ts';
export { DiskSpaceMap } from './space-map-disk.ts';
export { MetadataSpaceMap } from './space-map-metadata.ts';
export type { SpaceMap } from './space-map.ts';
export { type Superblock, TransactionManager } from './transaction-manager.ts';
export { COUNT_VALUE, U64_VALUE, WORD_VALUE } from './values.format.ts';
