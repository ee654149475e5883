// An export: a device held open under a name, what may be done to it, and who uses it. Front ends find
// exports in the catalog and attach their connections to them.
//
// An export belongs to its device, not to a name of that device: after a rename its status has the new
// name. Size and limits are the device's at the moment, so a front end checks each request against
// `sizeBytes`, whatever its client was told when it came.

import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { sectorsToBytes } from '../base/units.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { ChangesSince } from '../dm/lineage.ts';
import type { ExportInfo, ExportStatus } from './control.ts';
import type { WriteGate } from './write-gate.ts';

const PREFERRED_BLOCK_BYTES = 4096;

/** Which devices can tell what has changed in them since other ones, and what. */
export interface ChangeTeller {
  /** Names of the devices since which it can be told. */
  basesOf(device: BlockDevice): readonly string[];
  /** Undefined: it cannot be told. */
  changesSince(device: BlockDevice, base: string): ChangesSince | undefined;
}

/** A device held open for an export. */
export interface OpenDevice {
  readonly device: BlockDevice;
  close(): Promise<void> | void;
}

/** Something that uses an export: in most front ends a connection. */
export interface ExportUser {
  /**
   * Ends at once, dropping what is not answered yet. Resolves when the user has let the export go:
   * what it had sent to the device has ended then.
   */
  end(): Promise<void>;
}

export interface ExportSettings {
  readonly name: string;
  readonly description: string;
  /** Read-only even when the device is not. */
  readonly isReadOnly: boolean;
  /** As ExportOptions has it. */
  readonly isExclusive?: boolean | undefined;
  /** Whether another export has the device to itself. */
  readonly isHeldElsewhere?: (() => boolean) | undefined;
  /** Undefined: nobody can tell of any device. */
  readonly changes?: ChangeTeller | undefined;
}

export class Export {
  readonly name: string;
  readonly description: string;
  readonly device: BlockDevice;
  /** Shared by all exports of one device. */
  readonly gate: WriteGate;
  readonly #isReadOnly: boolean;
  readonly #isExclusive: boolean;
  readonly #isHeldElsewhere: () => boolean;
  readonly #open: OpenDevice;
  readonly #changes: ChangeTeller | undefined;
  readonly #users = new Set<ExportUser>();
  #isClosed = false;
  #hadUser = false;
  #flushFailure: Status = Status.Ok;

  constructor(settings: ExportSettings, open: OpenDevice, gate: WriteGate) {
    this.name = settings.name;
    this.description = settings.description;
    this.device = open.device;
    this.gate = gate;
    this.#isReadOnly = settings.isReadOnly;
    this.#isExclusive = settings.isExclusive ?? false;
    this.#isHeldElsewhere = settings.isHeldElsewhere ?? ((): boolean => false);
    this.#open = open;
    this.#changes = settings.changes;
  }

  get isReadOnly(): boolean {
    return this.#isReadOnly || this.device.isReadOnly || this.#isHeldElsewhere();
  }

  /** Whether it has its device to itself: from its beginning until its last user has gone. */
  get holdsAlone(): boolean {
    return this.#isExclusive && (!this.#hadUser || this.#users.size > 0);
  }

  get sizeBytes(): number {
    return sectorsToBytes(this.device.lenSectors);
  }

  get blockBytes(): number {
    return this.device.limits.logicalBlockBytes;
  }

  get userCount(): number {
    return this.#users.size;
  }

  attach(user: ExportUser): void {
    assert(!this.#isClosed, `export '${this.name}': a user came after its end`);
    this.#hadUser = true;
    this.#users.add(user);
  }

  /** Legal when nothing that the user sent to the device is in flight. */
  detach(user: ExportUser): void {
    this.#users.delete(user);
  }

  /** A client asked for a flush, and it failed. The client knows; whoever ends the server must know as well. */
  flushFailed(status: Status): void {
    if (this.#flushFailure === Status.Ok) this.#flushFailure = status;
  }

  /** The first flush of a client that failed; Ok when none did. */
  get flushFailure(): Status {
    return this.#flushFailure;
  }

  /** What has changed since a device of `info().bases`; undefined when that cannot be told. */
  changesSince(base: string): ChangesSince | undefined {
    return this.#changes?.changesSince(this.device, base);
  }

  info(): ExportInfo {
    const { limits } = this.device;
    const isWritable = !this.isReadOnly;
    return {
      name: this.name,
      description: this.description,
      sizeBytes: this.sizeBytes,
      isReadOnly: !isWritable,
      canFlush: true,
      canFua: isWritable,
      canTrim: isWritable && limits.maxDiscardSectors > 0,
      canWriteZeroes: isWritable,
      canFastZero: isWritable,
      canMultiConn: true,
      isRotational: false,
      // Parts of blocks are read, changed and written back by front ends, so any byte range will do.
      minBlockBytes: 1,
      preferredBlockBytes: Math.max(PREFERRED_BLOCK_BYTES, limits.physicalBlockBytes),
      bases: this.#changes?.basesOf(this.device) ?? [],
    };
  }

  status(): ExportStatus {
    return {
      name: this.name,
      device: this.device.name,
      description: this.description,
      isReadOnly: this.#isReadOnly,
      sizeBytes: this.sizeBytes,
      blockBytes: this.blockBytes,
      connections: this.#users.size,
    };
  }

  /** Ends every user, then lets the device go, whatever became of the users. Legal once. */
  async close(): Promise<void> {
    assert(!this.#isClosed, `export '${this.name}': closed twice`);
    this.#isClosed = true;
    try {
      await Promise.all([...this.#users].map((user) => user.end()));
    } finally {
      await this.#open.close();
    }
  }
}
