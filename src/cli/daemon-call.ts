// How commands call the running daemon. One that does not answer is waited for, and the operator is told.

import { setTimeout as setTimeoutAsync } from 'node:timers/promises';
import { printable } from '../base/names.ts';
import type { VerbAnswer } from '../daemon/answers.ts';
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
