// Bugs to plant in the snapshot targets; see mutants.ts. Storms over snapshots must find them.

import type { Mutant } from './mutants.ts';

const STORE = 'targets/snapshot/persistent-store.js';
const OPEN = 'targets/snapshot/open-store.js';
const SNAPSHOT = 'targets/snapshot/snapshot.js';
const TARGET = 'targets/snapshot/snapshot.target.js';
const ORIGIN = 'targets/snapshot/origin.js';
const MERGER = 'targets/snapshot/merger.js';
const MERGE = 'targets/snapshot/snapshot-merge.target.js';

export const SNAPSHOT_MUTANTS: readonly Mutant[] = [
  {
    name: 'snapshot: an exception is there before its data',
    file: STORE,
    find: 'const flushed = await flushDevice(this.#cow);',
    replace: 'const flushed = Status.Ok;',
  },
  {
    name: 'snapshot: whoever waits for an exception goes on before it is durable',
    file: STORE,
    find: 'const status = await this.#io.writeDurably(sector + from / SECTOR_BYTES, data);',
    replace:
      'const status = Status.Ok; void this.#io.writeDurably(sector + from / SECTOR_BYTES, data.slice());',
  },
  {
    name: 'snapshot: an area is full before the next one is empty',
    file: STORE,
    find: 'let status = isFull ? await this.#zeroNext() : Status.Ok;',
    replace: 'let status = Status.Ok;',
  },
  {
    name: 'snapshot: chunks of areas are given out',
    file: STORE,
    find: 'this.#nextChunk++; this.#skipArea(); this.#allocated++;',
    replace: 'this.#nextChunk++; this.#allocated++;',
  },
  {
    name: 'snapshot: after a restart chunks are given out again',
    file: OPEN,
    find: 'nextChunk = Math.max(nextChunk, newChunk + 1);',
    replace: 'nextChunk = Math.max(nextChunk, newChunk);',
  },
  {
    name: 'snapshot: exceptions behind the end of the list come back to life',
    file: OPEN,
    find: 'if (endsList(view, from)) return index;',
    replace: 'if (endsList(view, from)) continue;',
  },
  {
    name: 'snapshot: the origin is overwritten before the copy is committed',
    file: SNAPSHOT,
    find: 'if (this.#pendings.size > 0 && this.#pendings.has(chunk)) return true;',
    replace: 'if (this.#pendings.has(chunk)) return false;',
  },
  {
    name: 'snapshot: only the first chunk of a write counts',
    file: SNAPSHOT,
    find: 'for (let chunk = Math.floor(begin / size); chunk < endChunk; chunk++) { if (!this.exceptions.has(chunk)) return true;',
    replace:
      'for (let chunk = Math.floor(begin / size); chunk < Math.floor(begin / size) + 1; chunk++) { if (!this.exceptions.has(chunk)) return true;',
  },
  {
    name: 'snapshot: the origin does not wait for reads of the snapshot',
    file: SNAPSHOT,
    find: 'this.tracked.whenClear(chunk, chunk + 1, () => this.#settle(pending, Status.Ok));',
    replace: 'this.#settle(pending, Status.Ok);',
  },
  {
    name: 'snapshot: exceptions are seen before they are made',
    file: SNAPSHOT,
    find: 'this.#pendings.set(chunk, pending);',
    replace:
      'this.#pendings.set(chunk, pending); this.exceptions.add(chunk, newChunk); pending.isSeen = true;',
  },
  {
    name: 'snapshot: the origin goes on before the store says that it is invalid',
    file: SNAPSHOT,
    find: 'if (!this.#isValid) return this.#untilInvalid !== null;',
    replace: 'if (!this.#isValid) return false;',
  },
  {
    name: 'snapshot: only the first snapshot is asked',
    file: ORIGIN,
    find: 'for (let i = 0; i < snapshots.length; i++)',
    replace: 'for (let i = 0; i < Math.min(1, snapshots.length); i++)',
  },
  {
    name: 'snapshot: a new one does not wait for writes on their way',
    file: TARGET,
    find: 'await snapshot.begin(this.#origin.writes.drained());',
    replace: '',
  },
  {
    name: 'snapshot: a write of half a chunk counts for a whole one',
    file: TARGET,
    find: 'bio.lenSectors === size; newChunk',
    replace: 'bio.lenSectors * 2 >= size; newChunk',
  },
  {
    name: 'snapshot: writes go on while their chunk is merged',
    file: MERGE,
    find: 'if (this.#merger.isMerging(chunk)) {',
    replace: 'if (false) {',
  },
  {
    name: 'snapshot: a merge does not wait for writes on their way',
    file: MERGER,
    find: 'for (const run of runs) await this.#writesEnded(run);',
    replace: '',
  },
  {
    name: 'snapshot: a merge forgets its exceptions before the origin is durable',
    file: MERGER,
    find: 'status = await flushDevice(origin);',
    replace: 'status = Status.Ok;',
  },
  {
    name: 'snapshot: a merge overwrites what other snapshots have no copy of',
    file: MERGER,
    find: 'await this.#makeWay(runs);',
    replace: '',
  },
];

/** Pieces of a bio wait until the last one is made, as Linux's lists of bios once did: with few clones nothing goes on. */
export const DEPTH_FIRST_OFF: Mutant = {
  name: 'depth-first submission is off',
  file: 'dm/mapped-device.js',
  find: 'this.#map(piece, piece.pushFrame(this), entry); if (isLast) endBio(bio, Status.Ok); else submitBio(bio);',
  replace:
    'const held = (bio.heldPieces ??= []); held.push([piece, entry]); if (!isLast) submitBio(bio); else { ' +
    'bio.heldPieces = null; for (const [p, e] of held) this.#map(p, p.pushFrame(this), e); endBio(bio, Status.Ok); }',
};

/** A pending exception that comes back is told to nobody. */
export const NOBODY_SERVED: Mutant = {
  name: 'who waits for a pending exception is not served',
  file: SNAPSHOT,
  find: 'for (const waiter of pending.waiters) waiter.retry(); this.#serve();',
  replace: 'for (const waiter of pending.waiters) waiter.retry();',
};
