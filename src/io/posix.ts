// The system calls that Node does not have, through koffi. Numbers are Linux's (x86-64 and arm64
// agree on all of them); addresses and offsets are plain numbers below 2^53.

import koffi from 'koffi';
import { Status } from '../base/status.ts';

// The process's own symbols: whichever C library Node was linked with, glibc, musl or macOS's.
const libc = koffi.load(null);

type Fn = (...args: number[]) => number;

/** A call that not every system has; without it, it fails with ENOSYS like one the kernel lacks. */
function optional(prototype: string): unknown {
  try {
    return libc.func(prototype);
  } catch {
    return (): number => {
      koffi.errno(Status.NoSystemCall);
      return -1;
    };
  }
}

export const syscall6 = libc.func(
  'long syscall(long nr, long a, long b, long c, long d, long e, long f)',
) as unknown as Fn;
export const pwriteAt = libc.func(
  'long pwrite(int fd, long addr, size_t n, long off)',
) as unknown as Fn;
export const preadAt = libc.func(
  'long pread(int fd, long addr, size_t n, long off)',
) as unknown as Fn;
export const mmap = libc.func(
  'int64_t mmap(long addr, size_t len, int prot, int flags, int fd, long off)',
) as unknown as Fn;
export const munmap = libc.func('int munmap(long addr, size_t len)') as unknown as Fn;
export const mlock = libc.func('int mlock(long addr, size_t len)') as unknown as Fn;
export const madvise = libc.func('int madvise(long addr, size_t len, int advice)') as unknown as Fn;
export const dup = libc.func('int dup(int fd)') as unknown as Fn;
export const closeFd = libc.func('int close(int fd)') as unknown as Fn;
export const shutdownFd = libc.func('int shutdown(int fd, int how)') as unknown as Fn;
export const flock = libc.func('int flock(int fd, int operation)') as unknown as Fn;
export const lseek = libc.func('long lseek(int fd, long off, int whence)') as unknown as Fn;
/** Waits for the disk; only for opening. On the I/O path: `fallocateAsync`. */
export const fallocateNow = optional('int fallocate(int fd, int mode, long off, long len)') as Fn;
export const eventfd = optional('int eventfd(uint count, int flags)') as Fn;
/** Buffers and message headers as process addresses. */
export const recvFd = libc.func(
  'long recv(int fd, long addr, size_t n, int flags)',
) as unknown as Fn;
export const sendmsgFd = libc.func(
  'long sendmsg(int fd, long message, int flags)',
) as unknown as Fn;
export const statx = optional(
  'int statx(int dir, const char *path, int flags, uint mask, void *out)',
) as (dir: number, path: string, flags: number, mask: number, out: Uint32Array) => number;
export const fcntl = libc.func('int fcntl(int fd, int cmd, int arg)') as unknown as Fn;
/** `fcntl` with a `struct flock`. */
export const ofdLock = optional('int fcntl(int fd, int cmd, void *lock)') as (
  fd: number,
  command: number,
  lock: Uint8Array,
) => number;
export const socketpair = libc.func(
  'int socketpair(int domain, int type, int protocol, void *fds)',
) as unknown as (domain: number, type: number, protocol: number, fds: Int32Array) => number;
export const setsockopt = libc.func(
  'int setsockopt(int fd, int level, int name, void *value, uint len)',
) as unknown as (fd: number, level: number, name: number, value: Int32Array, len: number) => number;
export const ioctlPtr = libc.func('int ioctl(int fd, ulong request, void *arg)') as unknown as (
  fd: number,
  request: number,
  arg: Uint8Array,
) => number;

/** errno of the last call above that failed on this thread. */
export function errno(): number {
  return koffi.errno();
}

export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;
// The one pair of numbers here that macOS has the other way round.
export const SEEK_DATA = process.platform === 'darwin' ? 4 : 3;
export const SEEK_HOLE = process.platform === 'darwin' ? 3 : 4;
export const SHUT_RDWR = 2;
export const MADV_HUGEPAGE = 14;
export const MADV_DONTDUMP = 16;
export const FALLOC_KEEP_SIZE = 1;
export const FALLOC_PUNCH_HOLE = 2;
export const FALLOC_ZERO_RANGE = 16;
/** ioctls of block devices: `linux/fs.h`. */
export const BLKSSZGET = 0x1268;
export const BLKPBSZGET = 0x127b;
export const BLKGETSIZE64 = 0x80081272;
export const BLKDISCARD = 0x1277;
export const BLKZEROOUT = 0x127f;

export function mapAddress(address: number, lenBytes: number): ArrayBuffer {
  return koffi.view(BigInt(address), lenBytes);
}

export function addressOf(view: ArrayBufferView): number {
  return Number(koffi.address(view));
}
