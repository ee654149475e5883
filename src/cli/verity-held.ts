// What a tree of hashes would be written over.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { VERITY_MAGIC } from '../format/verity.ts';
import { fetchSignature } from '../format/known-signatures.ts';
import { type VolumeIo, VolumePart } from '../tools/verity/volume-io.ts';
import { nameOfRegion } from './region.ts';
import type { VerityFlags } from './verity-options.ts';
import { isOneSpot, type VolumeSpots } from './verity-place.ts';

/**
 * Refuses a HASH that holds something known, at its begin or where the tree goes. A tree of before
 * is none of that, nor is the data, where the tree goes behind it. Throws DmError.
 */
export async function refuseHeld(
  spots: VolumeSpots,
  hash: VolumeIo,
  flags: VerityFlags,
): Promise<void> {
  if (flags.force === true || isOneSpot(spots)) return;
  const { hashOffset } = flags;
  if (await isTree(hash, hashOffset)) return;
  for (const at of new Set([0, hashOffset])) {
    const part = new VolumePart(hash, hash.path, at, undefined);
    const known = await fetchSignature(
      part.sizeBytes,
      async (from, lenBytes) => await readOf(part, from, lenBytes),
      ['dm-verity'],
    );
    if (known === undefined) continue;
    const name = nameOfRegion(spots.hash.image, spots.hash.region);
    throw new DmError(Status.Exists, `${name}: holds ${known}; --force overwrites what is there`);
  }
}

async function isTree(hash: VolumeIo, at: number): Promise<boolean> {
  const raw = await readOf(hash, at, VERITY_MAGIC.length);
  return Buffer.from(raw).toString('latin1') === VERITY_MAGIC;
}

async function readOf(io: VolumeIo, at: number, lenBytes: number): Promise<Uint8Array> {
  const raw = new Uint8Array(lenBytes);
  return raw.subarray(0, await io.read(raw, at));
}
