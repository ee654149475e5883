// Who has the lock on a whole file (flock), as far as the system tells: for the words of whoever is refused.

import { fstatSync, readFileSync } from 'node:fs';

/** Such as `cryptsetup (PID 17)`; undefined where it cannot be told. */
export function flockHolder(fd: number): string | undefined {
  try {
    const { ino } = fstatSync(fd, { bigint: true });
    const line = new RegExp(
      `^\\d+: FLOCK +ADVISORY +\\w+ +(\\d+) [0-9a-f]+:[0-9a-f]+:${ino} `,
      'm',
    );
    const pid = line.exec(readFileSync('/proc/locks', 'utf8'))?.[1];
    if (pid === undefined) return undefined;
    return `${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()} (PID ${pid})`;
  } catch {
    // No such system, or the process has ended meanwhile.
    return undefined;
  }
}
