// What tables share: one object for all that name the same device, counted and owned by the
// device mapper.
//
// Tables are providers of a shared object, or users. A provider's table opens the object or
// joins it (a pool's table; an origin's and its snapshots'); a user's table has found it through
// a provider's device (a thin device). The object is closed behind the last of them. When the
// last provider has gone and users are left, the object is abandoned: from then on it must not
// touch a device, because the providers' tables had these open. Nobody gets the key again before
// closing, or abandoning, has ended.

import type { BlockDevice } from '../bio/device.ts';

export interface Shared {
  /**
   * The last table that provided the object is going away, others still use it. Afterwards the
   * object answers everything with errors, at once, and leaves its devices alone. Without this
   * method an object stays in place until its last user has gone.
   */
  abandon?(): Promise<void>;
  /** Nobody has the object any more. */
  close(): Promise<void>;
}

/** What is shared, as a key with the object's type. One instance a kind. */
export class ShareKind<T extends Shared> {
  readonly name: string;
  declare readonly object: T;

  constructor(name: string) {
    this.name = name;
  }
}

interface Entry {
  readonly kind: ShareKind<Shared>;
  readonly key: BlockDevice;
  readonly opened: Promise<Shared>;
  providers: number;
  users: number;
  isAbandoned: boolean;
  /** Set while the object is abandoned or closed; never rejects. */
  ending: Promise<void> | null;
}

/** One table's part in a shared object. */
export class Share {
  readonly kind: ShareKind<Shared>;
  readonly object: Shared;
  readonly isProvider: boolean;
  readonly #entry: Entry;
  readonly #leave: () => Promise<void>;
  #isHeld = true;

  constructor(entry: Entry, object: Shared, isProvider: boolean, leave: () => Promise<void>) {
    this.kind = entry.kind;
    this.object = object;
    this.isProvider = isProvider;
    this.#entry = entry;
    this.#leave = leave;
  }

  /** The same object for one more table, which only uses it. */
  use(): Share {
    this.#entry.users++;
    return new Share(this.#entry, this.object, false, this.#leave);
  }

  /** Rejects when the object had to be abandoned or closed, and that failed. */
  async close(): Promise<void> {
    if (!this.#isHeld) return;
    this.#isHeld = false;
    if (this.isProvider) this.#entry.providers--;
    else this.#entry.users--;
    await this.#leave();
  }
}

export class Shares {
  readonly #entries = new Map<ShareKind<Shared>, Map<BlockDevice, Entry>>();

  /** Joins the object for this device, or opens it. Throws what `open` throws. */
  async provide<T extends Shared>(
    kind: ShareKind<T>,
    key: BlockDevice,
    open: () => Promise<T>,
  ): Promise<Share> {
    const entry = await this.#find(kind, key, open);
    try {
      const object = await entry.opened;
      return new Share(entry, object, true, async () => await this.#left(entry, object));
    } catch (error) {
      entry.providers--;
      this.#forget(entry);
      throw error;
    }
  }

  /** How many objects there are. */
  get size(): number {
    return [...this.#entries.values()].reduce((sum, ofKind) => sum + ofKind.size, 0);
  }

  /** The entry, counted. */
  async #find<T extends Shared>(
    kind: ShareKind<T>,
    key: BlockDevice,
    open: () => Promise<T>,
  ): Promise<Entry> {
    let ofKind = this.#entries.get(kind);
    if (ofKind === undefined) this.#entries.set(kind, (ofKind = new Map()));
    let entry = ofKind.get(key);
    while (entry !== undefined && entry.ending !== null) {
      await entry.ending;
      entry = ofKind.get(key);
    }
    if (entry === undefined) {
      const opened = open();
      entry = { kind, key, opened, providers: 0, users: 0, isAbandoned: false, ending: null };
      ofKind.set(key, entry);
    }
    entry.providers++;
    return entry;
  }

  /** Nothing is awaited before `ending` is set: nobody may join an object that is on its way out. */
  async #left(entry: Entry, object: Shared): Promise<void> {
    if (entry.providers > 0) return;
    if (entry.users === 0) {
      await this.#end(entry, async () => await object.close());
    } else if (object.abandon !== undefined && !entry.isAbandoned) {
      entry.isAbandoned = true;
      await this.#end(entry, async () => await object.abandon?.());
    }
  }

  async #end(entry: Entry, work: () => Promise<void>): Promise<void> {
    const ended = (entry.ending ?? Promise.resolve()).then(work);
    const settled = ended.then(
      () => undefined,
      () => undefined,
    );
    entry.ending = settled;
    try {
      await ended;
    } finally {
      if (entry.ending === settled) this.#forget(entry);
    }
  }

  #forget(entry: Entry): void {
    const ofKind = this.#entries.get(entry.kind);
    if (ofKind?.get(entry.key) === entry) ofKind.delete(entry.key);
  }
}
