// Writing without waiting, and ending without waiting, for what must not depend on anybody else.

import koffi from 'koffi';

const libc = koffi.load(null);
const poll = libc.func('int poll(void *fds, ulong count, int timeoutMs)') as unknown as (
  fds: Int32Array,
  count: number,
  timeoutMs: number,
) => number;
const send = libc.func('long send(int fd, void *data, size_t n, int flags)') as unknown as (
  fd: number,
  data: Uint8Array,
  n: number,
  flags: number,
) => number;
const exit = libc.func('void _exit(int status)') as unknown as (status: number) => never;

const POLLOUT = 4;
const POLLERR = 8;
const POLLHUP = 16;
const isLinux = process.platform === 'linux';
const MSG_DONTWAIT = isLinux ? 0x40 : 0x80;
const MSG_NOSIGNAL = isLinux ? 0x4000 : 0;

/** Whether a write of a line to a pipe or a terminal would not wait, nor fail. */
export function canWriteNow(fd: number): boolean {
  const fds = new Int32Array([fd, POLLOUT]);
  if (poll(fds, 1, 0) !== 1) return false;
  const revents = (fds[1] as number) >> 16;
  return (revents & POLLOUT) !== 0 && (revents & (POLLERR | POLLHUP)) === 0;
}

/** Bytes that a socket took; -1 for none. */
export function sendNow(fd: number, bytes: Uint8Array): number {
  return send(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/**
 * Ends the process now. `process.exit` joins every thread, and one of them may sleep in the kernel: in the ring,
 * in a look-up of a name, in a flush of a disk that does not answer.
 */
export function exitNow(status: number): never {
  return exit(status);
}
