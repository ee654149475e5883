// The format of the daemon's state: what is recreated after a restart. Devices are in the order they were
// created in; who needs whom follows from their tables.
//
// Version 1 had live tables only. It is read, and written as version 2 with the next change.

import { z } from 'zod';
import { errorText, invalid } from '../base/errors.ts';

const Table = z.strictObject({
  /** As `table` prints it: files by absolute paths, a bare word is a mapped device. */
  text: z.string(),
  isReadOnly: z.boolean(),
  /** A key stood in it, which is kept nowhere; zeroes are in its place. */
  isWithoutKey: z.literal(true).exactOptional(),
});

const Device = z.strictObject({
  name: z.string(),
  uuid: z.string(),
  minor: z.number().int().min(0),
  /** How it was created; each table says it again for itself. */
  isReadOnly: z.boolean(),
  live: Table.exactOptional(),
  inactive: Table.exactOptional(),
  /** Only where there is a live table. */
  isSuspended: z.boolean(),
  /** To be removed as soon as nobody uses it. */
  isDeferredRemove: z.boolean(),
});

const Export = z.strictObject({
  name: z.string(),
  /** Name of its device now; a rename changes it. */
  device: z.string(),
  description: z.string(),
  isReadOnly: z.boolean(),
});

/** A volume that is in its pool only. */
const Volume = z.strictObject({
  /** Of its pool: a file by its absolute path, a bare word is a mapped device. */
  metadata: z.string(),
  /** In the pool. */
  id: z.number().int().min(0),
  name: z.string(),
  uuid: z.string(),
  isReadOnly: z.boolean(),
  lenSectors: z.number().int().min(1),
  /** The device that has what the volume does not map. */
  origin: z.string().exactOptional(),
});

const State = z.strictObject({
  version: z.literal(2),
  devices: z.array(Device),
  exports: z.array(Export),
  /** Absent where there are none. */
  inactiveVolumes: z.array(Volume).exactOptional(),
});

const StateOfVersion1 = z.strictObject({
  version: z.literal(1),
  devices: z.array(
    z.strictObject({
      name: z.string(),
      uuid: z.string(),
      minor: z.number().int().min(0),
      isReadOnly: z.boolean(),
      table: z.string().optional(),
    }),
  ),
  exports: z.array(Export),
});

export type SavedTable = z.infer<typeof Table>;
export type SavedDevice = z.infer<typeof Device>;
export type SavedExport = z.infer<typeof Export>;
export type SavedVolume = z.infer<typeof Volume>;
export type SavedState = z.infer<typeof State>;

export const EMPTY_STATE: SavedState = { version: 2, devices: [], exports: [] };

/** Throws DmError when the text is not a state: such a file is never overwritten unseen. */
export function parseState(path: string, text: string): SavedState {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw refusal(path, errorText(error));
  }
  const { version } = (json ?? {}) as { readonly version?: unknown };
  if (version === 1) return fromVersion1(check(path, StateOfVersion1, json));
  if (typeof version === 'number' && version > 2) {
    throw refusal(path, `version ${version}: a newer lamina has written it, expected 1 or 2`);
  }
  const state = check(path, State, json);
  for (const list of [state.devices, state.exports]) {
    const names = list.map(({ name }) => name);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw refusal(path, `'${twice}' is there twice`);
  }
  return state;
}

export function printState(state: SavedState): string {
  return `${JSON.stringify(state, null, 1)}\n`;
}

function check<T>(path: string, schema: z.ZodType<T>, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const field = (issue?.path ?? []).join('.');
  throw refusal(path, `${field === '' ? 'file' : field}: ${issue?.message}`);
}

function refusal(path: string, why: string): Error {
  return invalid(`state ${path}: ${why}; move it away to start empty`);
}

function fromVersion1(state: z.infer<typeof StateOfVersion1>): SavedState {
  const devices = state.devices.map(({ table, ...device }) => ({
    ...device,
    ...(table === undefined ? {} : { live: { text: table, isReadOnly: device.isReadOnly } }),
    isSuspended: false,
    isDeferredRemove: false,
  }));
  return { version: 2, devices, exports: state.exports };
}
