// System calls that may take long and that Node has no callback for, made on its thread pool.
//
// koffi keeps errno with each call and puts it back before the callback, so it is the call's own.
// It refuses more than 256 calls at a time by throwing, and each call under way has a stack of its
// own: at most CALLS_MAX are under way, the others wait here in line.

import koffi from 'koffi';
import { Status } from '../base/status.ts';
import { errno } from './posix.ts';

const CALLS_MAX = 16;

type Callback = (error: Error | null, result: number) => void;
type AsyncFn = (...argsAndCallback: (number | BigUint64Array | Callback)[]) => void;

interface Call {
  readonly fn: AsyncFn;
  readonly args: readonly (number | BigUint64Array)[];
  readonly done: (result: number) => void;
}

const libc = koffi.load(null);
const fallocate = bind('int fallocate(int fd, int mode, long off, long len)');
const seek = bind('long lseek(int fd, long off, int whence)');
const ioctlRange = bind('int ioctl(int fd, ulong request, void *range)');

let running = 0;
const waiting: Call[] = [];

/** fallocate(2); `done` gets 0 or a negative errno. */
export function fallocateAsync(
  fd: number,
  mode: number,
  offBytes: number,
  lenBytes: number,
  done: (result: number) => void,
): void {
  call(fallocate, [fd, mode, offBytes, lenBytes], done);
}

/**
 * An ioctl whose argument is a byte range, such as BLKDISCARD; `done` gets 0 or a negative errno.
 */
export function ioctlRangeAsync(
  fd: number,
  request: number,
  offBytes: number,
  lenBytes: number,
  done: (result: number) => void,
): void {
  const range = new BigUint64Array([BigInt(offBytes), BigInt(lenBytes)]);
  call(ioctlRange, [fd, request, range], done);
}

/** lseek(2); `done` gets the offset found or a negative errno. */
export function lseekAsync(
  fd: number,
  offBytes: number,
  whence: number,
  done: (result: number) => void,
): void {
  call(seek, [fd, offBytes, whence], done);
}

function bind(prototype: string): AsyncFn | undefined {
  try {
    const fn = libc.func(prototype) as unknown as { async: AsyncFn };
    return (...args) => fn.async(...args);
  } catch {
    return undefined;
  }
}

function call(
  fn: AsyncFn | undefined,
  args: readonly (number | BigUint64Array)[],
  done: (result: number) => void,
): void {
  if (fn === undefined) {
    done(-Status.NoSystemCall);
    return;
  }
  waiting.push({ fn, args, done });
  startWaiting();
}

function startWaiting(): void {
  while (running < CALLS_MAX) {
    const next = waiting.shift();
    if (next === undefined) return;
    running++;
    // `next` is held by the callback, and with it a range that the kernel reads meanwhile.
    next.fn(...next.args, (error, result) => ended(next, error, result < 0 ? -errno() : result));
  }
}

function ended(finished: Call, error: Error | null, result: number): void {
  running--;
  startWaiting();
  finished.done(error === null ? result : -Status.Io);
}
