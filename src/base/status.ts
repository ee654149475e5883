// I/O status: 0 is success, anything else a positive Linux errno. A small integer, because every bio
// carries one and it is compared on the hot path.

export type Status = number;

export const Status = {
  Ok: 0,
  Perm: 1,
  NoEntry: 2,
  /** A signal came first: the call is to be made again. */
  Interrupted: 4,
  Io: 5,
  NoDeviceOrAddress: 6,
  BadDescriptor: 9,
  Again: 11,
  NoMemory: 12,
  Busy: 16,
  Exists: 17,
  NoDevice: 19,
  NotDirectory: 20,
  IsDirectory: 21,
  Invalid: 22,
  TooManyFiles: 24,
  NoSpace: 28,
  ReadOnly: 30,
  BrokenPipe: 32,
  Range: 34,
  /** The kernel does not know the call. */
  NoSystemCall: 38,
  TimerExpired: 62,
  Overflow: 75,
  BadMessage: 84,
  NotSupported: 95,
  NoBuffers: 105,
  ShuttingDown: 108,
  TimedOut: 110,
  Canceled: 125,
} as const;

const NAMES: Readonly<Record<number, string>> = {
  0: 'OK',
  1: 'EPERM',
  2: 'ENOENT',
  4: 'EINTR',
  5: 'EIO',
  6: 'ENXIO',
  9: 'EBADF',
  11: 'EAGAIN',
  12: 'ENOMEM',
  13: 'EACCES',
  16: 'EBUSY',
  17: 'EEXIST',
  19: 'ENODEV',
  20: 'ENOTDIR',
  21: 'EISDIR',
  22: 'EINVAL',
  24: 'EMFILE',
  27: 'EFBIG',
  28: 'ENOSPC',
  30: 'EROFS',
  32: 'EPIPE',
  34: 'ERANGE',
  38: 'ENOSYS',
  62: 'ETIME',
  75: 'EOVERFLOW',
  84: 'EILSEQ',
  95: 'EOPNOTSUPP',
  104: 'ECONNRESET',
  105: 'ENOBUFS',
  108: 'ESHUTDOWN',
  110: 'ETIMEDOUT',
  111: 'ECONNREFUSED',
  125: 'ECANCELED',
};

/** `5` becomes `EIO`; an errno without a name here becomes `errno 77`. */
export function statusName(status: Status): string {
  return NAMES[status] ?? `errno ${status}`;
}

/** The status in an error that Node's own calls throw or pass to callbacks (`err.errno` is negative there). */
export function statusOfError(error: unknown): Status {
  const errno = (error as { errno?: unknown } | null)?.errno;
  return typeof errno === 'number' && errno !== 0 ? Math.abs(errno) : Status.Io;
}
