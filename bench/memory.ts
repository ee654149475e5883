// Memory that is equally fast for all who are compared.

import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

const MIB = 1 << 20;
/** More than a run of a second needs, for socket buffers and files; after what was freed is let go. */
const WARM = { bytes: 1024 * MIB, afterMs: 2500 };

/**
 * A virtual machine gives what has been free for two seconds back to its host, and gets it again page by
 * page, at a third of the speed: copying 4 KiB into a socket then costs 5 microseconds and more. So what
 * was freed before this run is let go, and then the machine gets as much as the run needs, right before
 * it.
 */
export async function warmMemory({ bytes, afterMs } = WARM): Promise<void> {
  await delay(afterMs);
  const path = `/dev/shm/lamina-bench-warm-${process.pid}`;
  const piece = Buffer.alloc(MIB, 1);
  const file = openSync(path, 'w');
  for (let done = 0; done < bytes; done += MIB) writeSync(file, piece);
  closeSync(file);
  rmSync(path);
}
