// What the daemon recreates after a restart: devices in the order they need each other, and exports.
//
// A save is a new file, synced, renamed over the old one, and the folder synced: after a crash there is
// the old state or the new one.

import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import { errorText, invalid } from '../base/errors.ts';

const State = z.strictObject({
  version: z.literal(1),
  devices: z.array(
    z.strictObject({
      name: z.string(),
      uuid: z.string(),
      minor: z.number().int(),
      isReadOnly: z.boolean(),
      /** Undefined: created without a table. */
      table: z.string().optional(),
    }),
  ),
  exports: z.array(
    z.strictObject({
      name: z.string(),
      device: z.string(),
      description: z.string(),
      isReadOnly: z.boolean(),
    }),
  ),
});

export type SavedState = z.infer<typeof State>;

export const EMPTY_STATE: SavedState = { version: 1, devices: [], exports: [] };

/** Throws DmError when there is a file that is not a state: it is never overwritten unseen. */
export function loadState(path: string): SavedState {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return EMPTY_STATE;
    throw error;
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw invalid(`state ${path}: ${errorText(error)}; move it away to start empty`);
  }
  const parsed = State.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = (issue?.path ?? []).join('.');
  throw invalid(`state ${path}: ${field}: ${issue?.message}; move it away to start empty`);
}

export function saveState(path: string, state: SavedState): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const next = `${path}.new`;
  const fd = openSync(next, 'w', 0o600);
  try {
    writeSync(fd, `${JSON.stringify(state, null, 1)}\n`);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  renameSync(next, path);
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
