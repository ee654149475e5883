// An export as the data plane has it: a device, what may be done to it, and who is connected.

import { MIB, sectorsToBytes } from '../../base/units.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { ExportOptions, ExportStatus } from '../../dm/control.ts';
import type { ExportInfo } from './export.ts';
import type { WriteGate } from './write-gate.ts';

/** The largest read or write taken, bytes; longer ones are refused. Announced to clients. */
export const REQUEST_BYTES_MAX = 64 * MIB;
const PREFERRED_BLOCK_BYTES = 4096;

/** Something that holds an export open. */
export interface ExportUser {
  /** Ends at once, dropping what is not answered yet. */
  abort(): void;
}

export class NbdExport {
  readonly options: Required<ExportOptions>;
  readonly device: BlockDevice;
  /** Shared by all exports of one device. */
  readonly gate: WriteGate;
  readonly users = new Set<ExportUser>();
  readonly #release: () => Promise<void>;

  constructor(
    options: Required<ExportOptions>,
    device: BlockDevice,
    gate: WriteGate,
    release: () => Promise<void>,
  ) {
    this.options = options;
    this.device = device;
    this.gate = gate;
    this.#release = release;
  }

  get isReadOnly(): boolean {
    return this.options.isReadOnly || this.device.isReadOnly;
  }

  get sizeBytes(): number {
    return sectorsToBytes(this.device.lenSectors);
  }

  get blockBytes(): number {
    return this.device.limits.logicalBlockBytes;
  }

  info(name: string): ExportInfo {
    const { limits } = this.device;
    const isWritable = !this.isReadOnly;
    return {
      name,
      description: this.options.description,
      sizeBytes: this.sizeBytes,
      isReadOnly: !isWritable,
      canFlush: true,
      canFua: isWritable,
      canTrim: isWritable && limits.maxDiscardSectors > 0,
      canWriteZeroes: isWritable,
      canFastZero: isWritable,
      canMultiConn: true,
      isRotational: false,
      // Parts of blocks are read, changed and written back here, so any byte range will do.
      minBlockBytes: 1,
      preferredBlockBytes: Math.max(PREFERRED_BLOCK_BYTES, limits.physicalBlockBytes),
      maxBlockBytes: REQUEST_BYTES_MAX,
    };
  }

  status(): ExportStatus {
    return { ...this.options, sizeBytes: this.sizeBytes, connections: this.users.size };
  }

  async release(): Promise<void> {
    await this.#release();
  }
}
