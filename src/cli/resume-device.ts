// Resume, with a word where a new table takes sectors away from who uses the device. dmsetup resumes all the same, and so
// does lamina; the clients' I/O behind the end fails from then on.

import { printable } from '../base/names.ts';
import { call } from './daemon-call.ts';
import { tell } from './output.ts';

export async function resumeDevice(name: string): Promise<void> {
  const before = await call('info', name);
  await call('resume', name);
  const { lenSectors, openCount } = await call('info', name);
  if (openCount === 0 || lenSectors >= before.lenSectors) return;
  const users = openCount === 1 ? 'one user' : `${openCount} users`;
  tell(
    `lamina: warning: device ${printable(name)} is shorter now, ${lenSectors} sectors instead of ` +
      `${before.lenSectors}, and has ${users} (devices, exports): I/O behind its end fails\n`,
  );
}
