// A snapshot's status and table lines, as the kernel has them.

import type { Snapshot } from './snapshot.ts';
import type { SnapshotHold } from './snapshot-hold.ts';
import { printSnapshotLine, type SnapshotLine } from './table-line.ts';

export function snapshotStatus(snapshot: Snapshot, hold: SnapshotHold): string {
  const { store, cow } = snapshot;
  // Handed over to another table.
  if (!hold.isHeld && hold.wasHeld) return 'Invalid';
  if (!hold.isHeld && snapshot.holder !== null) return `0/${cow.lenSectors} 0`;
  if (!snapshot.isValid) return 'Invalid';
  if (snapshot.hasMergeFailed) return 'Merge failed';
  if (snapshot.isOverflowed) return 'Overflow';
  const { allocated, metadata } = store.usage;
  return `${allocated}/${cow.lenSectors} ${metadata}`;
}

/** While another table has the snapshot, this one has no chunks yet. */
export function snapshotTable(line: SnapshotLine, snapshot: Snapshot, hold: SnapshotHold): string {
  const { origin, cow, store, holder } = snapshot;
  const chunkSectors = hold.isHeld || holder === null ? store.chunkSectors : 0;
  return printSnapshotLine(line, { origin, cow }, { word: store.word, chunkSectors });
}
