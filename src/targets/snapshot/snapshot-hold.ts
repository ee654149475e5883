// One table's part in a snapshot: which table has it, and how it goes from one to the next.

import { invalid } from '../../base/errors.ts';
import type { Snapshot, SnapshotVoice } from './snapshot.ts';

export interface SnapshotUser {
  readonly isSuspended: boolean;
}

export class SnapshotHold {
  readonly #snapshot: Snapshot;
  readonly #user: SnapshotUser;
  readonly #voice: SnapshotVoice;
  readonly #lenSectors: number;
  /** This table has had it. */
  wasHeld = false;
  /** Who had it before the resume that is under way. */
  #before: { readonly holder: object | null; readonly voice: SnapshotVoice } | null = null;

  constructor(snapshot: Snapshot, user: SnapshotUser, voice: SnapshotVoice, lenSectors: number) {
    this.#snapshot = snapshot;
    this.#user = user;
    this.#voice = voice;
    this.#lenSectors = lenSectors;
  }

  /** This table's I/O goes to the snapshot. */
  get isHeld(): boolean {
    return this.#snapshot.holder === this.#user;
  }

  /** Throws DmError when another table has the snapshot and is not suspended. */
  take(): void {
    const snapshot = this.#snapshot;
    const { holder, voice } = snapshot;
    if (holder !== null && holder !== this.#user && !(holder as SnapshotUser).isSuspended) {
      throw invalid('Unable to perform snapshot handover until source is suspended.');
    }
    this.#before = { holder, voice };
    snapshot.holder = this.#user;
    snapshot.voice = this.#voice;
  }

  /** The resume does not take place. */
  giveBack(): void {
    const before = this.#before;
    if (before === null || !this.isHeld) return;
    this.#snapshot.holder = before.holder;
    this.#snapshot.voice = before.voice;
    this.#before = null;
  }

  /** The resume takes place. */
  keep(): void {
    this.#before = null;
    this.wasHeld = true;
    this.#snapshot.lenSectors = this.#lenSectors;
  }

  /** The table goes; the next one may have the snapshot already. */
  drop(): void {
    if (this.isHeld) this.#snapshot.holder = null;
  }
}
