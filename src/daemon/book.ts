// The daemon's book: every device and export that is to be there after a restart, as it is to be, with the
// reason where it is not there now; and what volumes of pools were that are no devices. Devices that hold secrets are in it too, and are not saved.
//
// Entries are replaced, never changed. What changes the book returns how to take that back.

import { joinArgs, parseTable, splitArgs } from '../dm/table-text.ts';
import { asVolume, InactiveVolumes, metadataOf, thinOf } from './inactive-volumes.ts';
import type {
  SavedDevice,
  SavedExport,
  SavedState,
  SavedTable,
  SavedVolume,
} from './state-file.ts';

export interface DeviceEntry {
  readonly saved: SavedDevice;
  readonly isVolatile: boolean;
  /** Why there is no such device now. */
  readonly missing?: string;
  /** Why the device is there without its inactive table. */
  readonly missingInactive?: string;
}

export interface ExportEntry {
  readonly saved: SavedExport;
  /** Why it is not served now. */
  readonly missing?: string;
}

type Revert = () => void;

const MAPPER = '/dev/mapper/';

export class Book {
  readonly #devices = new Map<string, DeviceEntry>();
  readonly #exports = new Map<string, ExportEntry>();
  readonly #inactive = new InactiveVolumes();

  device(name: string): DeviceEntry | undefined {
    return this.#devices.get(name);
  }

  export(name: string): ExportEntry | undefined {
    return this.#exports.get(name);
  }

  /** In the order they were created in. */
  devices(): DeviceEntry[] {
    return [...this.#devices.values()];
  }

  exports(): ExportEntry[] {
    return [...this.#exports.values()];
  }

  exportsOf(device: string): ExportEntry[] {
    return this.exports().filter(({ saved }) => saved.device === device);
  }

  /** Entries whose tables name a device. */
  usersOf(device: string): DeviceEntry[] {
    return this.devices().filter(
      ({ saved }) => names(saved.live, device) || names(saved.inactive, device),
    );
  }

  /** Whether something that is missing names the device. */
  isAwaited(device: string): boolean {
    return (
      this.usersOf(device).some((user) => isIncomplete(user)) ||
      this.exportsOf(device).some(({ missing }) => missing !== undefined)
    );
  }

  putDevice(entry: DeviceEntry): Revert {
    const thin = thinOf(entry.saved);
    const back = put(this.#devices, entry.saved.name, entry);
    return thin === undefined ? back : both(back, this.forgetVolume(thin.pool, thin.id));
  }

  /** What a thin device was is kept, for the volume that is in its pool still. */
  dropDevice(name: string): Revert {
    const { saved, isVolatile = true } = this.#devices.get(name) ?? {};
    const thin = saved && thinOf(saved);
    const metadata = thin && metadataOf(this.#devices.get(thin.pool)?.saved);
    const back = drop(this.#devices, name);
    if (saved === undefined || isVolatile || metadata === undefined) return back;
    const volume = asVolume(saved, metadata);
    return volume === undefined ? back : both(back, this.#inactive.remember(volume));
  }

  /** The volume is deleted, active, or made anew. */
  forgetVolume(pool: string, id: number): Revert {
    const metadata = metadataOf(this.#devices.get(pool)?.saved);
    return metadata === undefined ? () => undefined : this.#inactive.forget(metadata, id);
  }

  rememberVolume(volume: SavedVolume): void {
    this.#inactive.remember(volume);
  }

  /** Those of pools that are devices now, with the names of these. */
  inactiveVolumes(): (SavedVolume & { readonly pool: string })[] {
    const pools = new Map<string, string>();
    for (const { saved } of this.devices()) {
      const metadata = metadataOf(saved);
      if (metadata !== undefined) pools.set(metadata, saved.name);
    }
    return this.#inactive.all().flatMap((volume) => {
      const pool = pools.get(volume.metadata);
      return pool === undefined ? [] : [{ ...volume, pool }];
    });
  }

  putExport(entry: ExportEntry): Revert {
    return put(this.#exports, entry.saved.name, entry);
  }

  dropExport(name: string): Revert {
    return drop(this.#exports, name);
  }

  /** The device keeps its place; exports go along, and the saved tables of what is missing. */
  renameDevice(from: string, to: string): Revert {
    const reverts: Revert[] = [];
    for (const [name, entry] of this.#devices) {
      const next = isIncomplete(entry) ? withWord(entry, from, to) : entry;
      if (next !== entry) reverts.push(put(this.#devices, name, next));
    }
    for (const { saved, ...entry } of this.exportsOf(from)) {
      reverts.push(put(this.#exports, saved.name, { ...entry, saved: { ...saved, device: to } }));
    }
    this.#rekey(from, to);
    this.#inactive.renameDevice(from, to);
    return () => {
      this.#rekey(to, from);
      this.#inactive.renameDevice(to, from);
      for (const revert of reverts) revert();
    };
  }

  #rekey(from: string, to: string): void {
    const all = [...this.#devices];
    const renamed = ({ saved, ...entry }: DeviceEntry): DeviceEntry => ({
      ...entry,
      saved: { ...saved, name: to },
    });
    refill(
      this.#devices,
      all.map(([name, entry]) => (name === from ? [to, renamed(entry)] : [name, entry])),
    );
  }

  state(): SavedState {
    const inactiveVolumes = this.#inactive.all();
    return {
      version: 2,
      devices: this.devices().flatMap(({ saved, isVolatile }) => (isVolatile ? [] : [saved])),
      exports: this.exports().map(({ saved }) => saved),
      ...(inactiveVolumes.length === 0 ? {} : { inactiveVolumes: [...inactiveVolumes] }),
    };
  }
}

function both(first: Revert, second: Revert): Revert {
  return () => {
    second();
    first();
  };
}

/** Something of the device is missing. */
export function isIncomplete(entry: DeviceEntry | undefined): boolean {
  return entry?.missing !== undefined || entry?.missingInactive !== undefined;
}

function put<T>(map: Map<string, T>, name: string, entry: T): Revert {
  const old = map.get(name);
  map.set(name, entry);
  return () => {
    if (old === undefined) map.delete(name);
    else map.set(name, old);
  };
}

function drop<T>(map: Map<string, T>, name: string): Revert {
  const old = [...map];
  const gone = map.get(name);
  map.delete(name);
  return () => {
    if (gone === undefined) return;
    // Back in its place, among whoever came and went meanwhile.
    const now = new Map(map);
    now.set(name, gone);
    const order = [...old.map(([key]) => key), ...now.keys()];
    refill(
      map,
      [...new Set(order)].flatMap((key) => pair(now, key)),
    );
  };
}

function pair<T>(map: ReadonlyMap<string, T>, key: string): [string, T][] {
  const value = map.get(key);
  return value === undefined ? [] : [[key, value]];
}

function refill<T>(map: Map<string, T>, entries: readonly (readonly [string, T])[]): void {
  map.clear();
  for (const [key, value] of entries) map.set(key, value);
}

/** Words of a table that may name a device. */
export function wordsOf(table: SavedTable | undefined): string[] {
  return (table?.text ?? '').split('\n').flatMap((line) => splitArgs(line).slice(3));
}

/** The mapped device that a word of a table names, if it names one. */
export function deviceOfWord(word: string): string {
  return word.startsWith(MAPPER) ? word.slice(MAPPER.length) : word;
}

function names(table: SavedTable | undefined, device: string): boolean {
  if (table?.text.includes(lastPart(device)) !== true) return false;
  return wordsOf(table).some((word) => deviceOfWord(word) === device);
}

/** A part of a name that stands in a table as it is: escapes come before blanks and backslashes. */
function lastPart(device: string): string {
  return device.slice(device.search(/[^\\\s]*$/));
}

function withWord(entry: DeviceEntry, from: string, to: string): DeviceEntry {
  // Numbers are mostly no names; and what is there says itself what it uses.
  if (/^\d+$/.test(from)) return entry;
  const { live, inactive, ...rest } = entry.saved;
  const isChanged = (table: SavedTable | undefined): boolean => names(table, from);
  if (!isChanged(live) && !isChanged(inactive)) return entry;
  const renamed = (table: SavedTable): SavedTable => ({
    ...table,
    text: parseTable(table.text)
      .map(({ startSector, lenSectors, type, args }) => {
        const words = args.map((word) => (deviceOfWord(word) === from ? to : word));
        return `${startSector} ${lenSectors} ${type} ${joinArgs(words)}`;
      })
      .join('\n'),
  });
  return {
    ...entry,
    saved: {
      ...rest,
      ...(live === undefined ? {} : { live: renamed(live) }),
      ...(inactive === undefined ? {} : { inactive: renamed(inactive) }),
    },
  };
}
