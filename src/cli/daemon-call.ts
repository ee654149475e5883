// How commands call the running daemon. One that does not answer is waited for, and the operator is told.

import { setTimeout as setTimeoutAsync } from 'node:timers/promises';
import { DmError } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import type { ListedDevice, VerbAnswer } from '../daemon/answers.ts';
import { type CallArgs, callDaemon } from '../daemon/call-daemon.ts';
import { lockOwner } from '../daemon/file-lock.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import { verbEntry, type VerbName } from '../daemon/verbs.ts';
import { tell } from './output.ts';

/** Behind this long, whoever waits is told for what. */
const SILENT_MS = 3000;

/** How long a daemon may take to say what it waits for. */
const ASK_MS = 1000;

/** A command says it once, however many calls it makes. */
let isTold = false;

type TableAnswer = VerbAnswer<'table'>;

/** Throws DmError with the daemon's words. */
export async function call<N extends VerbName>(
  verb: N,
  ...args: CallArgs<N>
): Promise<VerbAnswer<N>> {
  const path = controlSocketPath();
  if (isTold || verbEntry(verb).waits === true) return await callDaemon(path, verb, ...args);
  let isOver = false;
  const timer = setTimeout(() => {
    isTold = true;
    const [name] = args as readonly unknown[];
    void reasonToWait(path, verb, name).then((reason) => {
      if (!isOver) tell(`lamina: ${reason}\n`);
    });
  }, SILENT_MS);
  try {
    return await callDaemon(path, verb, ...args);
  } finally {
    isOver = true;
    clearTimeout(timer);
  }
}

/** What a call answers about a device; undefined when the device has been removed meanwhile. */
export async function ifThere<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof DmError && error.status === Status.NoDeviceOrAddress) return undefined;
    throw error;
  }
}

/** Every device and its live table. A device that is removed while they are asked for is left out. */
export async function devicesWithTables(): Promise<{ device: ListedDevice; lines: TableAnswer }[]> {
  const all = [];
  for (const device of await call('list')) {
    const lines = await ifThere(call('table', device.name));
    if (lines !== undefined) all.push({ device, lines });
  }
  return all;
}

/** A daemon that answers says what the device waits for; of another only its process is known. */
async function reasonToWait(path: string, verb: VerbName, name: unknown): Promise<string> {
  const { ownerPid } = lockOwner(`${path}.lock`);
  const who = ownerPid === undefined ? '' : ` (PID ${ownerPid})`;
  const unknown = `waiting for the daemon${who} to answer '${verb}'`;
  if (typeof name !== 'string' || verbEntry(verb).kind !== 'change') return unknown;
  const asked = callDaemon(path, 'info', name).then(
    ({ waitsFor }) => waitsFor,
    () => '',
  );
  const waitsFor = await Promise.race([asked, setTimeoutAsync(ASK_MS, '', { ref: false })]);
  return waitsFor === ''
    ? unknown
    : `${verb} ${printable(name)}: waiting for ${printable(waitsFor)}`;
}
