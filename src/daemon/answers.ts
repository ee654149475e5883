// What the daemon answers where it knows more than the plane: what is missing, and why.

import type { DeviceInfo } from '../dm/control.ts';
import type { ExportStatus } from '../exports/control.ts';
import type { VerbResult } from './plane.ts';
import type { PlaneVerb, VerbName } from './verbs.ts';

/** A device that is there or is to be there. */
export interface ListedDevice extends Omit<DeviceInfo, 'state'> {
  /** MISSING: it was there before a restart and could not be recreated yet; its name is still its own. */
  readonly state: DeviceInfo['state'] | 'MISSING';
  /** Why it, or its inactive table, is missing. */
  readonly reason?: string;
}

export interface ListedExport extends ExportStatus {
  readonly state: 'ACTIVE' | 'MISSING';
  /** Why it is not served. */
  readonly reason?: string;
}

/** Something that could not be recreated. It stays in the state, and is tried again. */
export interface Missing {
  readonly kind: 'device' | 'inactive table' | 'export';
  /** Of the device or the export. */
  readonly name: string;
  readonly reason: string;
}

/** A volume that is in its pool only, as its device was; the pool knows whether it is there still. */
export interface InactiveVolume {
  readonly pool: string;
  readonly id: number;
  readonly name: string;
  readonly uuid: string;
  readonly isReadOnly: boolean;
  readonly lenSectors: number;
  readonly origin?: string;
}

interface DaemonAnswers {
  readonly list: ListedDevice[];
  readonly info: ListedDevice;
  readonly listExports: ListedExport[];
  /** What is missing still. */
  readonly retry: Missing[];
  readonly inactiveVolumes: InactiveVolume[];
  /** Comes at once; the connection stays until the process is gone. */
  readonly stop: { readonly pid: number };
}

/** What a client gets for a verb. */
export type VerbAnswer<N extends VerbName> = N extends keyof DaemonAnswers
  ? DaemonAnswers[N]
  : N extends PlaneVerb
    ? VerbResult<N>
    : never;
