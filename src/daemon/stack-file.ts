// STACK.yaml: devices, exports and listeners in one file, checked field by field.

import { z } from 'zod';
import { invalid } from '../base/errors.ts';
import type { ConciseDevice } from '../dm/table-text.ts';
import type { StackExport } from './stack.ts';
import { loadYamlFile } from './yaml-file.ts';

const TABLE = 'expected a table line or a list of table lines';

const Device = z.strictObject({
  name: z.string(),
  uuid: z.string().default(''),
  minor: z.number().int().optional(),
  readOnly: z.boolean().default(false),
  table: z.union([z.string(), z.array(z.string()).min(1)], { error: TABLE }),
});

const Export = z.strictObject({
  name: z.string(),
  device: z.string(),
  description: z.string().default(''),
  readOnly: z.boolean().default(false),
});

export const StackFile = z.strictObject({
  devices: z.array(Device).min(1),
  exports: z.array(Export).optional(),
  listen: z.strictObject({ unix: z.string().optional(), tcp: z.string().optional() }).default({}),
});

export interface LoadedStack {
  readonly devices: readonly ConciseDevice[];
  readonly exports: readonly StackExport[] | undefined;
  readonly listen: { readonly unix?: string | undefined; readonly tcp?: string | undefined };
}

/** Throws DmError naming file, line, field, what was found and what was expected. */
export function loadStackFile(path: string): LoadedStack {
  const { devices, exports, listen } = loadYamlFile(path, StackFile);
  for (const [what, list] of [
    ['device', devices],
    ['export', exports ?? []],
  ] as const) {
    const names = list.map(({ name }) => name);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) throw invalid(`${path}: ${what} '${twice}' is there twice`);
  }
  return {
    devices: devices.map(({ name, uuid, minor, readOnly, table }) => ({
      name,
      uuid,
      minor,
      isReadOnly: readOnly,
      table: typeof table === 'string' ? table : table.join('\n'),
    })),
    exports: exports?.map(({ readOnly, ...rest }) => ({ ...rest, isReadOnly: readOnly })),
    listen,
  };
}
