// Opens what a table names: `scheme:rest` is handled by `<scheme>/<scheme>.backend.ts` here,
// a plain path by `file`.

import { existsSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import type { BackendDevice } from '../dm/backend.ts';
import type { IoEngine } from '../io/engine.ts';

export interface OpenContext {
  readonly engine: IoEngine;
  readonly readOnly: boolean;
  /** Hears what goes wrong with the device while it is open, a line each. */
  readonly log?: ((line: string) => void) | undefined;
}

/** What each backend file exports as `open`. Throws DmError. */
export type OpenBackend = (reference: string, context: OpenContext) => Promise<BackendDevice>;

/** Schemes that another one's file handles. */
const ALIASES: ReadonlyMap<string, string> = new Map([
  ['nbd+unix', 'nbd'],
  ['nbds', 'nbd'],
  ['nbds+unix', 'nbd'],
]);
const EXTENSION = import.meta.url.endsWith('.ts') ? '.ts' : '.js';

/** Whether a reference that begins with `scheme:` is a backend's. */
export function isBackendScheme(scheme: string): boolean {
  return existsSync(backendFile(scheme));
}

function backendFile(scheme: string): URL {
  const name = ALIASES.get(scheme) ?? scheme;
  return new URL(`./${name}/${name}.backend${EXTENSION}`, import.meta.url);
}

export async function openBackend(
  reference: string,
  options: { readonly readOnly: boolean },
  engine: IoEngine,
  log: (line: string) => void = () => {},
): Promise<BackendDevice> {
  const scheme = /^([a-z][a-z0-9+-]*):/.exec(reference)?.[1] ?? 'file';
  const file = backendFile(scheme);
  const module = existsSync(file) ? ((await import(file.href)) as { open?: OpenBackend }) : {};
  if (typeof module.open !== 'function') {
    throw invalid(
      `device ${reference}: unknown scheme '${scheme}:'; a path with a colon needs './' in front`,
    );
  }
  return await module.open(reference, { engine, readOnly: options.readOnly, log });
}
