// What a command has in the daemon as long as it runs: exports, and the snapshot of a backup. They are known by their
// names, which have the process in them. A command that was killed leaves them behind, and the next one that they stand
// in the way of takes them away.

import { readFileSync } from 'node:fs';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { VerbArgs } from '../daemon/verbs.ts';
import { call } from './daemon-call.ts';

/** What a command has something in the daemon for. One command may have one of each. */
export type Purpose =
  | 'backup'
  | 'backup-note'
  | 'restore'
  | 'luks'
  | 'verity-data'
  | 'verity-hash'
  | 'partitions'
  | 'compress'
  | 'compress-to';

/** A name for what this process makes in the daemon and takes away again. */
export function ownName(what: Purpose): string {
  return `lamina-${what}-${process.pid}-${startOf(process.pid)}`;
}

const OWN_NAME =
  /^lamina-(?:backup|backup-note|restore|luks|verity-data|verity-hash|partitions|compress|compress-to)-(\d+)-(\d+)$/;

/** Whether a name is that of a process which is gone. */
export function isLeftBehind(name: string): boolean {
  const [, pid, start] = OWN_NAME.exec(name) ?? [];
  return pid !== undefined && String(startOf(Number(pid))) !== start;
}

/** Whether a name is that of an export by which a command looks at a header, and at nothing else. */
export function isOfLooker(name: string): boolean {
  return /^lamina-(?:luks|partitions)-/.test(name) && !isLeftBehind(name);
}

/** Takes away the exports that commands which were killed have left, and says how many. */
export async function removeLeftExports(): Promise<number> {
  let count = 0;
  for (const { name } of await call('listExports')) {
    if (!isLeftBehind(name)) continue;
    await call('removeExport', name, { force: true });
    count++;
  }
  return count;
}

/** Removes a device that nobody uses, but for commands that are gone. Throws DmError. */
export async function removeDevice(
  name: string,
  options: VerbArgs<'remove'>[1] = {},
): Promise<void> {
  try {
    await call('remove', name, options);
  } catch (error) {
    const isBusy = error instanceof DmError && error.status === Status.Busy;
    if (!isBusy || (await removeLeftExports()) === 0) throw error;
    await call('remove', name, options);
  }
}

/** A text in which the exports of commands are those commands. */
export function withCommands(text: string): string {
  return text.replaceAll(
    /export '(lamina-([a-z]+)[a-z-]*-(\d+)-\d+)'/g,
    (all, name: string, what, pid) => {
      if (!OWN_NAME.test(name)) return all;
      return Number(pid) === process.pid ? 'this command' : `a command (${what}, process ${pid})`;
    },
  );
}

/** When a process began, in ticks since the boot; 0: there is none. */
function startOf(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // Behind the command's name, which may have blanks and brackets; field 22 of all.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
  } catch {
    return 0;
  }
}
