// The bottom of a stack as the device mapper sees it: a device that can be closed.

import type { BlockDevice } from '../bio/device.ts';

export interface BackendDevice extends BlockDevice {
  /** Nothing is in flight. Rejects when what was written may not have reached the medium. */
  close(): Promise<void>;
  /** Looks again how large it is; called before another table uses it. It never gets smaller. */
  remeasure?(): void;
  /** Looks whether what the device stands on is still there as it was, and tells when it is not. */
  look?(): Promise<void>;
  /** What an operator must know of what the device stands on, as far as it has been found; '' when all is well. */
  readonly warning?: string;
}
