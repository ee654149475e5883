// Opening what is on a device: LUKS1 or LUKS2.

import { invalid } from '../../base/errors.ts';
import { isLuks1, isLuks1Reencrypting } from './luks1-header.ts';
import { Luks1Header } from './luks1.format.ts';
import { Luks1Volume } from './luks1-volume.ts';
import { hasLuks2Magic } from './luks2-header.ts';
import { Luks2Volume } from './luks2-volume.ts';
import { unsupported } from './luks-error.ts';
import type { LuksIo } from './luks-io.ts';

export interface OpenLuksOptions {
  /** The data is on another device, so it cannot overlap the header. */
  readonly isDetached?: boolean;
}

/**
 * Reads and checks the header; writes nothing. Throws DmError when there is none, or no whole one.
 */
export function openLuks(io: LuksIo, options: OpenLuksOptions = {}): Luks1Volume | Luks2Volume {
  const isDetached = options.isDetached === true;
  if (io.sizeBytes >= Luks1Header.$sizeBytes) {
    const first = new Uint8Array(Luks1Header.$sizeBytes);
    io.read(0, first);
    if (isLuks1(first)) return new Luks1Volume(io);
    if (isLuks1Reencrypting(first)) {
      throw unsupported(
        `${io.path}: LUKS1 that is being re-encrypted: finish that with cryptsetup reencrypt first`,
      );
    }
  }
  if (hasLuks2Magic(io)) return new Luks2Volume(io, isDetached);
  throw invalid(`${io.path}: is not a LUKS device`);
}
