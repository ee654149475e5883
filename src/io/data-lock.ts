// The lock on the data of a file or a block device between programs of lamina: writers exclude everybody, readers
// exclude writers.
//
// On Linux the lock is on one byte far behind any data, and belongs to the open file. The lock on the whole file
// (flock) stays free: cryptsetup takes it for as long as it reads or writes a LUKS2 header, and would wait without
// a word for as long as a volume is open. QEMU's locks are on other bytes.

import { errno, flock, LOCK_EX, LOCK_NB, LOCK_SH, ofdLock } from './posix.ts';
import { Status } from '../base/status.ts';

/** "lamina" in ASCII. */
const LOCK_BYTE = 0x6c61_6d69_6e61;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
/** `struct flock` of 64-bit Linux. */
const FLOCK_BYTES = 32;

/**
 * Takes the lock for as long as the file is open. `Status.Again`: somebody else has it. `fd` must be open for
 * writing unless `isReadOnly`.
 */
export function lockData(fd: number, isReadOnly: boolean): Status {
  if (process.platform !== 'linux') {
    return flock(fd, (isReadOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) === 0 ? Status.Ok : errno();
  }
  const lock = new DataView(new ArrayBuffer(FLOCK_BYTES));
  lock.setInt16(0, isReadOnly ? F_RDLCK : F_WRLCK, true);
  lock.setBigInt64(8, BigInt(LOCK_BYTE), true);
  lock.setBigInt64(16, 1n, true);
  const taken = ofdLock(fd, F_OFD_SETLK, new Uint8Array(lock.buffer));
  return taken === 0 ? Status.Ok : errno();
}
