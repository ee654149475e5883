// Who has a lock on a file, as far as the system tells: for the words of whoever is refused.
//
// /proc/locks has every lock, but no process for those that belong to an open file; /proc/PID/fdinfo has them where they
// are held, of processes of the same user.

import { fstatSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { basename } from 'node:path';
import { LAMINA_BYTE, QEMU_CONFLICTS, qemuLockAt } from './data-lock.ts';

/** Such as `cryptsetup (PID 17)`; undefined where it cannot be told. */
export function flockHolder(fd: number): string | undefined {
  try {
    const { ino } = fstatSync(fd, { bigint: true });
    const line = new RegExp(
      `^\\d+: FLOCK +ADVISORY +\\w+ +(\\d+) [0-9a-f]+:[0-9a-f]+:${ino} `,
      'm',
    );
    const pid = line.exec(readFileSync('/proc/locks', 'utf8'))?.[1];
    return pid === undefined ? undefined : programOf(pid);
  } catch {
    // No such system, or the process has ended meanwhile.
    return undefined;
  }
}

/** Bytes that may keep lamina out, those that say the most first. */
const TELLING_BYTES = [LAMINA_BYTE, ...QEMU_CONFLICTS];

/**
 * Who holds the locks of data-lock.ts on a file, to be put behind what is said of it: `: lamina serve (PID 17) has it
 * open`, or `: qemu-nbd (PID 18) holds QEMU's "write" lock`; '' where nothing is known.
 */
export function heldBy(path: string): string {
  try {
    const held = heldBytes(statSync(path, { bigint: true }).ino, TELLING_BYTES);
    const byte = TELLING_BYTES.find((b) => held.has(b));
    if (byte === undefined) return '';
    const who = programIn(held.get(byte));
    const lock = qemuLockAt(byte);
    if (lock === undefined) return `: ${who ?? 'a program of lamina'} has it open`;
    return `: ${who ?? 'another program'} holds QEMU's ${lock} lock`;
  } catch {
    return '';
  }
}

/** Who has taken `byte` of an open file by `lockTurn`; undefined where that cannot be told. */
export function turnHolder(fd: number, byte: number): string | undefined {
  try {
    return programIn(heldBytes(fstatSync(fd, { bigint: true }).ino, [byte]).get(byte));
  } catch {
    return undefined;
  }
}

function programIn(pids: ReadonlySet<string> | undefined): string | undefined {
  const pid = [...(pids ?? [])].find((p) => p !== UNKNOWN);
  return pid === undefined ? undefined : programOf(pid);
}

/** In place of a process that cannot be told, in /proc/locks. */
const UNKNOWN = '-1';

/** Which of these bytes of a file are locked, with the processes that have done it. */
function heldBytes(ino: bigint, bytes: readonly number[]): Map<number, Set<string>> {
  const lock = new RegExp(
    `\\d+: (?:OFDLCK|POSIX) +ADVISORY +\\w+ +(-?\\d+) [0-9a-f]+:[0-9a-f]+:${ino} (\\d+) (\\d+|EOF)`,
    'g',
  );
  const held = new Map<number, Set<string>>();
  const note = (text: string, holder?: string): void => {
    for (const [, pid = UNKNOWN, first, last] of text.matchAll(lock)) {
      // The kernel makes one range of neighbours.
      const isIn = (byte: number): boolean =>
        byte >= Number(first) && (last === 'EOF' || byte <= Number(last));
      for (const byte of bytes.filter(isIn)) {
        held.set(byte, (held.get(byte) ?? new Set()).add(holder ?? pid));
      }
    }
  };
  note(readFileSync('/proc/locks', 'utf8'));
  if (held.size === 0) return held;
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const text of fdinfoOf(pid)) note(text, pid);
  }
  return held;
}

/** What the system says of each open file of a process; nothing of processes of others. */
function fdinfoOf(pid: string): string[] {
  const folder = `/proc/${pid}/fdinfo`;
  return quietly(() => readdirSync(folder), []).map((fd) =>
    quietly(() => readFileSync(`${folder}/${fd}`, 'utf8'), ''),
  );
}

/** A process may end, or close a file, while it is looked at. */
function quietly<T>(look: () => T, otherwise: T): T {
  try {
    return look();
  } catch {
    return otherwise;
  }
}

/** The name that people know a program by: of one that Node runs it is that of its file, with its command. */
function programOf(pid: string): string {
  if (Number(pid) === process.pid) return `this program itself (PID ${pid})`;
  const [name = '', script = '', command = ''] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split(
    '\0',
  );
  const isNode = basename(name) === 'node' && /^[\w./-]*lamina$/.test(script);
  const known = isNode
    ? `lamina ${command}`.trim()
    : readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  return `${known} (PID ${pid})`;
}
