// Verity volumes in two files, for tests.

import type { TreeFormat } from '../targets/verity/tree.ts';
import { formatVolume } from '../tools/verity/volume.ts';
import { VolumeFile } from '../tools/verity/volume-io.ts';

/** Writes the tree of one file, without a superblock, to another one that is there. The root hash. */
export async function formatFiles(
  dataPath: string,
  hashPath: string,
  format: TreeFormat,
): Promise<Uint8Array> {
  const data = new VolumeFile(dataPath, { isReadOnly: true, isLocked: true });
  const hash = new VolumeFile(hashPath, { isReadOnly: false, isLocked: true });
  try {
    return await formatVolume(data, hash, format, null, () => undefined);
  } finally {
    data.close();
    hash.close();
  }
}
