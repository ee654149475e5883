// Which metadata contexts an export has, by their names on the wire: base:allocation, and for each device since which
// changes can be told one of lamina's own and one that QEMU and programs around it know as a dirty bitmap.

import type { ExportInfo } from '../../exports/control.ts';
import type { MetaContext } from './negotiated.ts';

const ALLOCATION = 'base:allocation';
/** In front of a device's name. Both tell the same: bit 0 of the flags is set where something may have changed. */
const CHANGES = ['lamina:diff:', 'qemu:dirty-bitmap:'] as const;
/** More than a client has a use for; each costs work and memory with every request. */
const CONTEXTS_MAX = 16;

export interface NamedContext extends MetaContext {
  readonly name: string;
}

/** What a list of queries finds; without any, everything. A namespace, or what is in front of a name, finds all of it. */
export function listContexts(info: ExportInfo, queries: readonly string[]): string[] {
  const isAsked = (name: string): boolean =>
    queries.length === 0 ||
    queries.some((query) => query === name || (query.endsWith(':') && name.startsWith(query)));
  return allNames(info).filter(isAsked);
}

/** What a client selects, by whole names only. */
export function selectContexts(info: ExportInfo, queries: readonly string[]): NamedContext[] {
  const selected: NamedContext[] = [];
  for (const name of allNames(info)) {
    if (!queries.includes(name) || selected.length === CONTEXTS_MAX) continue;
    const prefix = CHANGES.find((known) => name.startsWith(known));
    const base = prefix === undefined ? undefined : name.slice(prefix.length);
    selected.push({ id: selected.length + 1, name, base });
  }
  return selected;
}

function allNames(info: ExportInfo): string[] {
  return [ALLOCATION, ...info.bases.flatMap((base) => CHANGES.map((prefix) => prefix + base))];
}
