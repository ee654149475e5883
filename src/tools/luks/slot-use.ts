// Why a key slot of LUKS2 cannot be used here: it, or the digest of its key, is of a kind that is unknown. The others
// of the header open nevertheless.

import { DmError } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { hashSpec } from './hashes.ts';
import { LUKS_STRIPES } from './luks1.format.ts';
import {
  isLuks2Slot,
  type Luks2KeySlot,
  type Luks2Metadata,
  unknownInDigest,
  unknownInSlot,
} from './luks2-metadata.ts';
import { SectorCipher } from './sector-cipher.ts';

/** Undefined for a key slot that can be used. */
export function slotProblem(metadata: Luks2Metadata, slot: number): string | undefined {
  const keySlot = metadata.keyslots[slot];
  if (keySlot === undefined) return 'is not in use';
  if (!isLuks2Slot(keySlot)) return unknownInSlot(keySlot);
  const own = Object.entries(metadata.digests).find(([, d]) => d.keyslots.includes(String(slot)));
  if (own === undefined) return 'belongs to no digest';
  const [id, digest] = own;
  const unknown = unknownInDigest(digest);
  if (unknown !== undefined) return `digests.${id}.${unknown}`;
  return areaProblem(keySlot) ?? missing(keySlot, String(digest['hash']));
}

function areaProblem({ key_size: keyBytes, area }: Luks2KeySlot): string | undefined {
  const need = Math.ceil((keyBytes * LUKS_STRIPES) / SECTOR_BYTES) * SECTOR_BYTES;
  const size = Number(area.size);
  return size < need ? `area.size: ${size}: its key needs ${need} bytes` : undefined;
}

/** A hash or a cipher that this Node does not have. */
function missing({ kdf, af, area }: Luks2KeySlot, digestHash: string): string | undefined {
  try {
    if (kdf.type === 'pbkdf2') hashSpec(kdf.hash, 'kdf.hash');
    hashSpec(af.hash, 'af.hash');
    hashSpec(digestHash, 'its digest');
    new SectorCipher(
      area.encryption,
      new Uint8Array(area.key_size).fill(1),
      'area.encryption',
    ).wipe();
    return undefined;
  } catch (error) {
    if (error instanceof DmError) return error.message;
    throw error;
  }
}
