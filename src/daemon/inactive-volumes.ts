// Volumes that are in their thin pool only: what their mapped devices were, which the pool does not
// keep. A volume is known by the metadata of its pool, as the pool's table names it, and by its
// thin id; who deletes it, or makes another one of that id, has to say so.

import { parseTable } from '../dm/table-text.ts';
import type { SavedDevice, SavedVolume } from './state-file.ts';

/** The oldest go first: pools may be gone for good, and nobody says so. */
const VOLUMES_MAX = 4096;

export class InactiveVolumes {
  #all: readonly SavedVolume[] = [];

  /** In the order in which they became inactive. */
  all(): readonly SavedVolume[] {
    return this.#all;
  }

  /** Returns how to take that back. */
  remember(volume: SavedVolume): () => void {
    const back = this.forget(volume.metadata, volume.id);
    this.#all = [...this.#all, volume].slice(-VOLUMES_MAX);
    return () => {
      this.#all = this.#all.filter((other) => other !== volume);
      back();
    };
  }

  /** Returns how to take that back. */
  forget(metadata: string, id: number): () => void {
    const gone = this.#all.filter((v) => v.metadata === metadata && v.id === id);
    if (gone.length === 0) return () => undefined;
    this.#all = this.#all.filter((volume) => !gone.includes(volume));
    return () => {
      this.#all = [...gone, ...this.#all];
    };
  }

  /** The metadata of a pool may be a mapped device. */
  renameDevice(from: string, to: string): void {
    this.#all = this.#all.map((volume) =>
      volume.metadata === from ? { ...volume, metadata: to } : volume,
    );
  }
}

/** What a thin device is of: its pool's name and its thin id; undefined for another device. */
export function thinOf({ live }: SavedDevice): { pool: string; id: number } | undefined {
  const [line, ...more] = linesOf(live?.text);
  const [pool, id] = line?.args ?? [];
  if (line?.type !== 'thin' || more.length > 0 || pool === undefined) return undefined;
  return { pool, id: Number(id) };
}

/** The metadata of a pool, as its table names it; undefined for a device that is no pool. */
export function metadataOf(pool: SavedDevice | undefined): string | undefined {
  const [line] = linesOf(pool?.live?.text);
  return line?.type === 'thin-pool' ? line.args[0] : undefined;
}

/** A thin device as it is kept when it goes. */
export function asVolume(saved: SavedDevice, metadata: string): SavedVolume | undefined {
  const thin = thinOf(saved);
  const [line] = linesOf(saved.live?.text);
  if (thin === undefined || line === undefined) return undefined;
  const { name, uuid, live, isReadOnly } = saved;
  const origin = line.args[2];
  return {
    metadata,
    id: thin.id,
    name,
    uuid,
    isReadOnly: live?.isReadOnly ?? isReadOnly,
    lenSectors: line.lenSectors,
    ...(origin === undefined ? {} : { origin }),
  };
}

function linesOf(text: string | undefined): ReturnType<typeof parseTable> {
  return text === undefined ? [] : parseTable(text);
}
