// Every verb of the daemon and of the data plane, once: what it does to the state, where it runs, whose turn
// it takes, and its line of help. What it takes is in verb-arguments.ts, under the same names. The control
// socket, the daemon, the data plane and the port to its thread, and the commands are made from these.

import type { VerbArgs, VerbName } from './verb-arguments.ts';

export type { VerbArgs, VerbName } from './verb-arguments.ts';

/**
 * `look`: changes nothing and takes no turn. `act`: changes what a target does, not the configuration, and
 * takes no turn. `change`: changes the configuration: takes the turn of what it concerns, and what it did
 * is on disk before it is reported as done. `end`: ends the daemon; its client's connection is the last to
 * go. `inside`: between the parts of the program, never from a client.
 */
export type VerbKind = 'look' | 'act' | 'change' | 'end' | 'inside';

export interface Verb<N extends VerbName> {
  readonly kind: VerbKind;
  /** Where it is done in the end. The daemon may add to what the plane says. */
  readonly at: 'plane' | 'daemon';
  /** Names of the mapped devices whose turn it takes. */
  readonly devices?: (args: VerbArgs<N>) => readonly string[];
  /** Names of the exports whose turn it takes. */
  readonly exports?: (args: VerbArgs<N>) => readonly string[];
  readonly help: string;
  /** What it is called for is to wait: nobody is surprised when the answer takes long. */
  readonly waits?: true;
}

const first = ([name]: readonly [string, ...unknown[]]): readonly string[] => [name];

export const VERBS = {
  create: {
    kind: 'change',
    at: 'plane',
    devices: ([{ name }]) => [name],
    help: 'create a device and load its table from --table, a file or standard input',
  },
  load: {
    kind: 'change',
    at: 'plane',
    devices: first,
    help: 'load the inactive table; `resume` puts it in place',
  },
  clear: { kind: 'change', at: 'plane', devices: first, help: 'drop the inactive table' },
  suspend: {
    kind: 'change',
    at: 'plane',
    devices: first,
    help: 'hold new I/O, wait for what is in flight, flush',
  },
  resume: {
    kind: 'change',
    at: 'plane',
    devices: first,
    help: 'put the inactive table in place, if there is one, and let I/O go',
  },
  remove: { kind: 'change', at: 'plane', devices: first, help: 'remove devices' },
  rename: {
    kind: 'change',
    at: 'plane',
    devices: ([name, newName]) => [name, newName],
    help: 'rename a device, or give it a UUID',
  },
  insertBelow: {
    kind: 'change',
    at: 'plane',
    devices: ([name, lower]) => [name, lower],
    help: 'move the live table to a new device below, and put another one over that, in use',
  },
  takeOut: {
    kind: 'change',
    at: 'plane',
    devices: ([name, lower]) => [name, lower],
    help: 'give a device the table of the one below, of which it is the only user, in use',
  },
  setUuid: { kind: 'change', at: 'plane', devices: first, help: 'give a device its UUID' },
  list: { kind: 'look', at: 'plane', help: 'list devices' },
  info: { kind: 'look', at: 'plane', help: 'show the state of devices' },
  deps: { kind: 'look', at: 'plane', help: 'show what devices use' },
  table: { kind: 'look', at: 'plane', help: 'show tables' },
  status: { kind: 'look', at: 'plane', help: "show the targets' status" },
  message: { kind: 'act', at: 'plane', help: 'send a message to the target at a sector' },
  wait: {
    kind: 'look',
    at: 'plane',
    help: 'wait until the event number is above EVENT (now, if not given)',
    waits: true,
  },
  targets: { kind: 'look', at: 'plane', help: 'list the target types' },
  measure: { kind: 'look', at: 'plane', help: 'the size of what a table could name' },
  createExport: {
    kind: 'change',
    at: 'plane',
    devices: ([{ device }]) => [device],
    exports: ([{ name }]) => [name],
    help: "export a device; '' is the default export",
  },
  removeExport: { kind: 'change', at: 'plane', exports: first, help: 'end exports' },
  listExports: { kind: 'look', at: 'plane', help: 'list exports' },
  stats: { kind: 'look', at: 'plane', help: 'what the data plane holds and has done' },
  retry: {
    kind: 'act',
    at: 'daemon',
    help: 'try again to recreate what is missing, or one device or export of it',
  },
  inactiveVolumes: {
    kind: 'look',
    at: 'daemon',
    help: 'what the devices were of volumes that are only in their pools',
  },
  stop: { kind: 'end', at: 'daemon', help: 'end the daemon, and wait until it is gone' },
  lookup: { kind: 'inside', at: 'plane', help: 'an export as a client is told of it' },
  listNames: { kind: 'inside', at: 'plane', help: 'exports as clients are told of them' },
  look: { kind: 'inside', at: 'plane', help: 'have backends look after what they stand on' },
  unflushed: { kind: 'inside', at: 'plane', help: 'what is not closed yet, while ending' },
  shutdown: { kind: 'inside', at: 'plane', help: 'flush and close everything' },
} as const satisfies { readonly [N in VerbName]: Verb<N> };

export type PlaneVerb = {
  [N in VerbName]: (typeof VERBS)[N]['at'] extends 'plane' ? N : never;
}[VerbName];

export const PLANE_VERBS = (Object.keys(VERBS) as VerbName[]).filter(
  (name): name is PlaneVerb => VERBS[name].at === 'plane',
);

/** The verb of this name; undefined when there is none. */
export function verbNamed(name: string): VerbName | undefined {
  return Object.hasOwn(VERBS, name) ? (name as VerbName) : undefined;
}

/** The entry of a verb, with what all verbs have. */
export function verbEntry<N extends VerbName>(name: N): Verb<N> {
  return VERBS[name] as Verb<N>;
}
