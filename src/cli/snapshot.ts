// lamina snapshot: snapshots of any mapped device, while it is in use.

import type { Command } from 'commander';
import { addSnapshotLooking } from './snapshot-looking.ts';
import { addSnapshotMerge } from './snapshot-merge.ts';
import { addSnapshotVerbs } from './snapshot-verbs.ts';

export function addSnapshot(program: Command): void {
  const snapshot = program
    .command('snapshot')
    .summary('snapshots of any device, while it is in use')
    .description(
      'Keeps what a mapped device has at a moment, in a file of its own: before anything is overwritten for the\n' +
        'first time it is copied there. Clients of the device notice nothing. A snapshot is a device: it can be\n' +
        'exported, read and written to. (Volumes of a thin pool have theirs in the pool: lamina thin snapshot.)',
    );
  addSnapshotVerbs(snapshot);
  addSnapshotLooking(snapshot);
  addSnapshotMerge(snapshot);
}
