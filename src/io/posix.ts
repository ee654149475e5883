// The system calls that Node does not have, through koffi. Numbers are Linux's (x86-64 and arm64 agree
// on all of them); addresses and offsets are plain numbers below 2^53.

import koffi from 'koffi';

const libc = koffi.load(process.platform === 'darwin' ? 'libc.dylib' : 'libc.so.6');

type Fn = (...args: number[]) => number;

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
export const madvise = libc.func('int madvise(long addr, size_t len, int advice)') as unknown as Fn;
export const dup = libc.func('int dup(int fd)') as unknown as Fn;
export const closeFd = libc.func('int close(int fd)') as unknown as Fn;
export const shutdownFd = libc.func('int shutdown(int fd, int how)') as unknown as Fn;
export const flock = libc.func('int flock(int fd, int operation)') as unknown as Fn;
export const lseek = libc.func('long lseek(int fd, long off, int whence)') as unknown as Fn;
export const eventfd = libc.func('int eventfd(uint count, int flags)') as unknown as Fn;
export const fcntl = libc.func('int fcntl(int fd, int cmd, int arg)') as unknown as Fn;
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

const fallocateFn = libc.func('int fallocate(int fd, int mode, long off, long len)');

/** fallocate(2) on Node's thread pool; `done` gets 0 or a negative errno. */
export function fallocateAsync(
  fd: number,
  mode: number,
  offBytes: number,
  lenBytes: number,
  done: (result: number) => void,
): void {
  // errno is read on the pool thread's behalf by koffi and kept for this callback.
  fallocateFn.async(fd, mode, offBytes, lenBytes, (error: Error | null, result: number) => {
    done(error !== null ? -5 : result < 0 ? -errno() : 0);
  });
}

/** errno of the last call above that failed on this thread. */
export function errno(): number {
  return koffi.errno();
}

export const LOCK_EX = 2;
export const LOCK_NB = 4;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
export const SHUT_RDWR = 2;
export const MADV_HUGEPAGE = 14;
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
