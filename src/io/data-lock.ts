// The lock on the data of a file or a block device: writers exclude everybody, readers exclude writers, among programs
// of lamina and towards QEMU.
//
// On Linux these are locks on single bytes, which belong to the open file. Programs of lamina meet on one byte far
// behind any data. QEMU says with read locks on low bytes what it does with an image and what it does not let others do
// meanwhile, and refuses what does not go together; lamina does the same on these bytes. By QEMU's rules one may read a
// raw image that another one writes. The lock on the whole file
// (flock) stays free: cryptsetup takes it for as long as it reads or writes a LUKS2 header, and would wait without a
// word for as long as a volume is open.

import { Status } from '../base/status.ts';
import { errno, flock, LOCK_EX, LOCK_NB, LOCK_SH, ofdLock } from './posix.ts';

/** "lamina" in ASCII. */
export const LAMINA_BYTE = 0x6c61_6d69_6e61;
/** QEMU's permissions, in the order of their bytes; those that say something to lamina. */
const READ = 0;
const WRITE = 1;
const RESIZE = 3;
const PERMISSIONS = 4;
/** From here on, who locks a byte uses the permission. */
const USED_BASE = 100;
/** From here on, who locks a byte lets nobody else use the permission. */
const UNSHARED_BASE = 200;

/** What QEMU may lock that keeps lamina out, those that say the most first. */
export const QEMU_CONFLICTS: readonly number[] = [
  USED_BASE + WRITE,
  UNSHARED_BASE + WRITE,
  UNSHARED_BASE + READ,
  USED_BASE + RESIZE,
];

const ALL_BYTES: readonly number[] = [
  LAMINA_BYTE,
  ...[READ, WRITE, RESIZE].flatMap((p) => [USED_BASE + p, UNSHARED_BASE + p]),
];

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** `struct flock` of 64-bit Linux. */
const FLOCK_BYTES = 32;

/**
 * Takes the lock for as long as the file is open. `Status.Again`: somebody else has it, and nothing is locked.
 * `fd` must be open for writing unless `isReadOnly`.
 */
export function lockData(fd: number, isReadOnly: boolean): Status {
  if (process.platform !== 'linux') {
    return flock(fd, (isReadOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) === 0 ? Status.Ok : errno();
  }
  let status = lockByte(fd, LAMINA_BYTE, isReadOnly ? F_RDLCK : F_WRLCK);
  if (status === Status.Ok) status = lockAsQemu(fd, isReadOnly);
  // Who is told who has the file is not to find this program.
  if (status !== Status.Ok) for (const byte of ALL_BYTES) lockByte(fd, byte, F_UNLCK);
  return status;
}

/** Locked first and looked at then, as QEMU does: of two that come at once one is refused, or both. */
function lockAsQemu(fd: number, isReadOnly: boolean): Status {
  const used = isReadOnly ? [READ] : [READ, WRITE];
  const unshared = isReadOnly ? [RESIZE] : [WRITE, RESIZE];
  const mine = [...used.map((p) => USED_BASE + p), ...unshared.map((p) => UNSHARED_BASE + p)];
  for (const byte of mine) {
    const status = lockByte(fd, byte, F_RDLCK);
    if (status !== Status.Ok) return status;
  }
  const theirs = [...used.map((p) => UNSHARED_BASE + p), ...unshared.map((p) => USED_BASE + p)];
  return theirs.some((byte) => isLockedElsewhere(fd, byte)) ? Status.Again : Status.Ok;
}

/** "header" in ASCII: on an image, the byte of who changes its LUKS header; none of the locks on data. */
export const HEADER_BYTE = 0x6865_6164_6572;

/**
 * Takes one byte alone for as long as the file is open, which must be for writing. `Status.Again`:
 * somebody else has it.
 */
export function lockTurn(fd: number, byte: number): Status {
  return lockByte(fd, byte, F_WRLCK);
}

/** What a lock on a byte means to QEMU; undefined for a byte that is none of its. */
export function qemuLockAt(byte: number): string | undefined {
  if (byte >= USED_BASE && byte < USED_BASE + PERMISSIONS) return permissionAt(byte - USED_BASE);
  if (byte < UNSHARED_BASE || byte >= UNSHARED_BASE + PERMISSIONS) return undefined;
  return `shared ${permissionAt(byte - UNSHARED_BASE)}`;
}

/** In QEMU's own words. */
function permissionAt(bit: number): string {
  return `"${['consistent read', 'write', 'write unchanged', 'resize'][bit]}"`;
}

function lockByte(fd: number, byte: number, type: number): Status {
  return ofdLock(fd, F_OFD_SETLK, byteLock(byte, type)) === 0 ? Status.Ok : errno();
}

function isLockedElsewhere(fd: number, byte: number): boolean {
  const lock = byteLock(byte, F_WRLCK);
  if (ofdLock(fd, F_OFD_GETLK, lock) !== 0) return false;
  return new DataView(lock.buffer).getInt16(0, true) !== F_UNLCK;
}

function byteLock(byte: number, type: number): Uint8Array {
  const lock = new DataView(new ArrayBuffer(FLOCK_BYTES));
  lock.setInt16(0, type, true);
  lock.setBigInt64(8, BigInt(byte), true);
  lock.setBigInt64(16, 1n, true);
  return new Uint8Array(lock.buffer);
}
