// The control interface of a device mapper: dmsetup's verbs with plain data in and out, so that it can
// be called in-process, over a message port or over the daemon's socket alike. Devices are named by
// name; who has a UUID looks it up with `list`. Every refusal is a DmError. A verb that may wait long takes
// a signal: when it is aborted the verb ends as soon as it can, undone, and rejects with ECANCELED.

export interface CreateOptions {
  readonly name: string;
  /** Up to 128 bytes; no other device may have it. */
  readonly uuid?: string;
  readonly minor?: number;
  readonly isReadOnly?: boolean;
  /** Table text, one line a target. Without it the device has no table and is suspended. */
  readonly table?: string;
  /**
   * Not to be made again after a restart of the daemon: its table holds what must not be on a disk.
   */
  readonly isVolatile?: boolean;
  /** Whether the device was there before: what its table names is taken as it is, and blank metadata is refused. */
  readonly isRestored?: boolean;
  /**
   * Refused when a device whose UUID begins so, also one that is being made, has sectors that the
   * table has: of the same device below.
   */
  readonly apartFromUuid?: string;
  /** Refused when another device, also one that is being made, has a volume of the table: a thin device of a pool. */
  readonly isOnlyUser?: boolean;
}

export interface InsertOptions {
  /** For the upper device; it may name the lower one. */
  readonly table: string;
  /** Of the lower device. */
  readonly minor?: number;
  /** The UUID goes along with the table. */
  readonly movesUuid?: boolean;
}

export interface DeviceInfo {
  readonly name: string;
  readonly uuid: string;
  readonly minor: number;
  readonly state: 'ACTIVE' | 'SUSPENDED';
  /** Why the device is suspended without being as it should be then; '' when all is well. */
  readonly failure: string;
  /** What has become of the files and servers that its live table names, where that endangers data; '' when all is well. */
  readonly warning: string;
  readonly isReadOnly: boolean;
  readonly hasLiveTable: boolean;
  readonly hasInactiveTable: boolean;
  /** How many users it has: other devices' tables and exports. */
  readonly openCount: number;
  readonly eventNr: number;
  readonly targetCount: number;
  /** Of the live table; 0 without one. */
  readonly lenSectors: number;
  readonly isDeferredRemove: boolean;
  /** What a suspend of the device, or a remove, waits for now; '' when none does. */
  readonly waitsFor: string;
}

export interface LineOptions {
  readonly inactive?: boolean;
  /** `table` only. */
  readonly showKeys?: boolean;
  /** `status` only: as it is, without bringing it up to date first, which may take a commit. */
  readonly noflush?: boolean;
}

/** One line of `table` or `status`. */
export interface TargetLine {
  readonly startSector: number;
  readonly lenSectors: number;
  readonly type: string;
  readonly params: string;
}

export interface DmControl {
  /** Creates and, with a table, loads and resumes; on failure nothing is left behind. */
  create(options: CreateOptions, signal?: AbortSignal): Promise<DeviceInfo>;
  /** Loads the inactive table. */
  load(
    name: string,
    table: string,
    options?: Pick<CreateOptions, 'isReadOnly' | 'isRestored'>,
    signal?: AbortSignal,
  ): Promise<void>;
  /** Drops the inactive table. */
  clear(name: string, signal?: AbortSignal): Promise<void>;
  suspend(
    name: string,
    options?: { readonly noflush?: boolean },
    signal?: AbortSignal,
  ): Promise<void>;
  /**
   * Puts the inactive table, if there is one, in place of the live one; then lets I/O go. When it fails,
   * a device that was active goes on with the table it has.
   */
  resume(name: string, signal?: AbortSignal): Promise<void>;
  /**
   * A device that cannot be flushed stays. `force`: the device goes in any case, which is then told by
   * an error; one in use gets a table of `error`. `deferred`: as soon as nobody uses it.
   */
  remove(
    name: string,
    options?: { readonly force?: boolean; readonly deferred?: boolean },
    signal?: AbortSignal,
  ): Promise<void>;
  rename(name: string, newName: string): Promise<void>;
  /**
   * Puts a new device below one that is in use: it gets the live table as it is, with all that
   * the table holds, and `table` over it takes that one's place. On failure everything is as it was.
   */
  insertBelow(
    name: string,
    lower: string,
    options: InsertOptions,
    signal?: AbortSignal,
  ): Promise<void>;
  /** The reverse: `lower` gives its table back to its only user, and is removed. */
  takeOut(
    name: string,
    lower: string,
    options?: Pick<InsertOptions, 'movesUuid'>,
    signal?: AbortSignal,
  ): Promise<void>;
  setUuid(name: string, uuid: string): Promise<void>;
  list(): Promise<DeviceInfo[]>;
  info(name: string): Promise<DeviceInfo>;
  /** Names of the devices its live table uses, mapped ones and backends. */
  deps(name: string): Promise<{ readonly name: string; readonly isMapped: boolean }[]>;
  /** Keys are zeroes unless `showKeys`. */
  table(name: string, options?: LineOptions): Promise<TargetLine[]>;
  status(name: string, options?: LineOptions, signal?: AbortSignal): Promise<TargetLine[]>;
  /** To the target that has `sector`. */
  message(name: string, sector: number, text: string, signal?: AbortSignal): Promise<string>;
  /** Waits until the event number is above `eventNr` (its current one if not given). */
  wait(name: string, eventNr?: number, signal?: AbortSignal): Promise<DeviceInfo>;
  targets(): Promise<{ readonly name: string; readonly version: string }[]>;
}
