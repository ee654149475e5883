// STACK.yaml: devices, exports and listeners in one file, checked field by field.

import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { ConciseDevice } from '../dm/table-text.ts';
import type { StackExport } from './stack.ts';

const Device = z.strictObject({
  name: z.string(),
  uuid: z.string().default(''),
  minor: z.number().int().optional(),
  readOnly: z.boolean().default(false),
  table: z.union([z.string(), z.array(z.string()).min(1)]),
});

const Export = z.strictObject({
  name: z.string(),
  device: z.string(),
  description: z.string().default(''),
  readOnly: z.boolean().default(false),
});

const StackFile = z.strictObject({
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
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new DmError(Status.NoEntry, `${path}: ${errorText(error)}`);
  }
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const problem = document.errors[0];
  if (problem !== undefined) {
    throw invalid(`${path}:${lines.linePos(problem.pos[0]).line}: ${firstLine(problem.message)}`);
  }
  const parsed = StackFile.safeParse(document.toJS());
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const field = (issue?.path ?? []).map(String);
    const node = document.getIn(issue?.path ?? [], true) as { range?: [number] } | undefined;
    const line = node?.range === undefined ? 1 : lines.linePos(node.range[0]).line;
    throw invalid(`${path}:${line}: ${field.join('.') || 'file'}: ${issue?.message}`);
  }
  const { devices, exports, listen } = parsed.data;
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

/** The rest is a picture of the place. */
function firstLine(text: string): string {
  return (text.split('\n')[0] ?? '').replace(/ at line \d+, column \d+:$/, '');
}
