// Takes back what a space map counts too often: blocks that nobody uses and that are never free, or have a reference
// too many. One transaction, so a crash leaves the metadata as it was or repaired.

import { BlockManager, type MetadataIo } from '../../persistent-data/block-manager.ts';
import { ThinMetadataStore } from '../../targets/thin/metadata-store.ts';
import type { Leak } from './space-map-checker.ts';

/** For metadata that was found good but for these leaks, and that nobody has changed since. */
export async function repairLeaks(io: MetadataIo, leaks: readonly Leak[]): Promise<void> {
  const store = await ThinMetadataStore.open(new BlockManager(io));
  for (const { map, begin, end, excess } of leaks) {
    const counts = map === 'data' ? store.dataMap : store.tm.metadataMap;
    for (let i = 0; i < excess; i++) await counts.dec(begin, end);
  }
  await store.commit(await store.prepareCommit());
}
