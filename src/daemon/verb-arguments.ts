// What each verb of the daemon takes: the half of the table in verbs.ts that checks. It stands apart because
// zod takes longer to load than a command has, and only who takes calls from outside needs it.
//
// Arguments are positions on the wire. Each has a name for errors; fields of an object stand for themselves.

import { z } from 'zod';
import { invalid } from '../base/errors.ts';
import { describeFaults } from './schema-faults.ts';

const Name = z.string();
const Count = z.number().int().min(0);
const Flag = z.boolean();

const Create = z.strictObject({
  name: Name,
  uuid: z.string().exactOptional(),
  minor: Count.exactOptional(),
  isReadOnly: Flag.exactOptional(),
  table: z.string().exactOptional(),
  isVolatile: Flag.exactOptional(),
  isRestored: Flag.exactOptional(),
  apartFromUuid: z.string().exactOptional(),
  isOnlyUser: Flag.exactOptional(),
});

const Lines = z.strictObject({
  inactive: Flag.exactOptional(),
  showKeys: Flag.exactOptional(),
  noflush: Flag.exactOptional(),
});

const Export = z.strictObject({
  name: Name,
  device: Name,
  description: z.string().exactOptional(),
  isReadOnly: Flag.exactOptional(),
  isExclusive: Flag.exactOptional(),
  isAlone: Flag.exactOptional(),
});

/** Arguments by verb, in their order on the wire. */
export const ARGUMENTS = {
  create: [['options', Create]],
  load: [
    ['name', Name],
    ['table', z.string()],
    [
      'options',
      z
        .strictObject({ isReadOnly: Flag.exactOptional(), isRestored: Flag.exactOptional() })
        .optional(),
    ],
  ],
  clear: [['name', Name]],
  suspend: [
    ['name', Name],
    ['options', z.strictObject({ noflush: Flag.exactOptional() }).optional()],
  ],
  resume: [['name', Name]],
  remove: [
    ['name', Name],
    [
      'options',
      z.strictObject({ force: Flag.exactOptional(), deferred: Flag.exactOptional() }).optional(),
    ],
  ],
  rename: [
    ['name', Name],
    ['newName', Name],
  ],
  insertBelow: [
    ['name', Name],
    ['lower', Name],
    [
      'options',
      z.strictObject({
        table: z.string(),
        minor: Count.exactOptional(),
        movesUuid: Flag.exactOptional(),
      }),
    ],
  ],
  takeOut: [
    ['name', Name],
    ['lower', Name],
    ['options', z.strictObject({ movesUuid: Flag.exactOptional() }).optional()],
  ],
  setUuid: [
    ['name', Name],
    ['uuid', z.string()],
  ],
  list: [],
  info: [['name', Name]],
  deps: [['name', Name]],
  table: [
    ['name', Name],
    ['options', Lines.optional()],
  ],
  status: [
    ['name', Name],
    ['options', Lines.optional()],
  ],
  message: [
    ['name', Name],
    ['sector', Count],
    ['text', z.string()],
  ],
  wait: [
    ['name', Name],
    ['eventNr', Count.optional()],
  ],
  targets: [],
  measure: [
    ['reference', z.string()],
    ['options', z.strictObject({ readOnly: Flag })],
  ],
  createExport: [['options', Export]],
  removeExport: [
    ['name', Name],
    ['options', z.strictObject({ force: Flag.exactOptional() }).optional()],
  ],
  listExports: [],
  stats: [],
  retry: [['name', Name.optional()]],
  inactiveVolumes: [],
  stop: [],
  lookup: [['name', Name]],
  listNames: [],
  look: [],
  unflushed: [],
  shutdown: [],
} as const satisfies Readonly<Record<string, readonly Argument[]>>;

type Argument = readonly [name: string, schema: z.ZodType];

export type VerbName = keyof typeof ARGUMENTS;

/** The checked arguments of a verb. */
export type VerbArgs<N extends VerbName> = Outputs<(typeof ARGUMENTS)[N]>;

type Outputs<P extends readonly Argument[]> = {
  -readonly [I in keyof P]: P[I] extends readonly [string, infer S extends z.ZodType]
    ? z.output<S>
    : never;
};

/** Throws DmError that names the verb, the field, what was found and what was expected. */
export function checkArguments<N extends VerbName>(verb: N, args: readonly unknown[]): VerbArgs<N> {
  const expected: readonly Argument[] = ARGUMENTS[verb];
  if (args.length > expected.length) {
    throw invalid(`${verb}: found ${args.length} arguments, expected ${describe(expected)}`);
  }
  const checked = expected.map(([name, schema], position) => {
    const given = args[position];
    // JSON has no undefined: a position that is left out before others is null.
    const value = given === null ? undefined : given;
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    const [fault] = describeFaults(result.error.issues, value, schema);
    const field = fault === undefined || fault.path.length === 0 ? name : fault.path.join('.');
    throw invalid(`${verb}: ${field}: ${fault?.text ?? 'refused'}`);
  });
  return checked as VerbArgs<N>;
}

function describe(expected: readonly Argument[]): string {
  const names = expected.map(([name]) => name).join(', ');
  return `${expected.length}${names === '' ? '' : ` (${names})`}`;
}
