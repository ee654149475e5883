// The header of a LUKS volume on what is no file: a mapped device of the daemon, or an NBD export.

import { closeAll } from '../base/close-all.ts';
import type { LuksIo } from '../tools/luks/luks-io.ts';
import { StagedIo } from '../tools/luks/staged-io.ts';
import { openDaemonDisk, openReferenceDisk, ownName } from './daemon-disk.ts';
import { type Place, refuseUsed } from './place.ts';

export interface OpenedIo {
  readonly io: LuksIo;
  /** Calls what only reads, as often as it takes to have fetched what it wants. */
  read<T>(use: () => T): Promise<T>;
  /** Fetches what will be read: so many bytes from the begin on. */
  fetch(lenBytes: number): Promise<void>;
  /** Throws DmError when something that was written is not durable. */
  close(): Promise<void>;
}

/** Opens what is no file. `isAlone`: nobody else may use it meanwhile. Throws DmError. */
export async function openRemote(
  image: string,
  place: Exclude<Place, { kind: 'file' }>,
  options: { readonly isReadOnly: boolean; readonly isAlone: boolean },
): Promise<OpenedIo> {
  const { isReadOnly, isAlone } = options;
  if (place.kind === 'mapped' && isAlone) await refuseUsed(image, place.name);
  const opened =
    place.kind === 'mapped'
      ? await openDaemonDisk(place.name, { as: ownName('luks'), isReadOnly })
      : await openReferenceDisk(place.uri, isReadOnly);
  const io = new StagedIo(image, opened.disk);
  return {
    io,
    read: async (use) => await io.staged(use),
    fetch: async (lenBytes) => await io.fetch(0, lenBytes),
    close: async () => {
      await closeAll([async () => await io.finish(), async () => await opened.close()]);
    },
  };
}
