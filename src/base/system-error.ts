// Errors of the system and of OpenSSL in the words that people know them by. Node's own texts (`ENOENT: no such
// file or directory, open 'x'`, `error:0480006C:PEM routines::no start line`) are for programmers.

const TEXTS: Readonly<Record<number, string>> = {
  1: 'Operation not permitted',
  2: 'No such file or directory',
  4: 'Interrupted system call',
  5: 'Input/output error',
  6: 'No such device or address',
  7: 'Argument list too long',
  9: 'Bad file descriptor',
  11: 'Resource temporarily unavailable',
  12: 'Cannot allocate memory',
  13: 'Permission denied',
  14: 'Bad address',
  16: 'Device or resource busy',
  17: 'File exists',
  18: 'Invalid cross-device link',
  19: 'No such device',
  20: 'Not a directory',
  21: 'Is a directory',
  22: 'Invalid argument',
  23: 'Too many open files in system',
  24: 'Too many open files',
  25: 'Inappropriate ioctl for device',
  26: 'Text file busy',
  27: 'File too large',
  28: 'No space left on device',
  29: 'Illegal seek',
  30: 'Read-only file system',
  31: 'Too many links',
  32: 'Broken pipe',
  34: 'Numerical result out of range',
  36: 'File name too long',
  38: 'Function not implemented',
  39: 'Directory not empty',
  40: 'Too many levels of symbolic links',
  61: 'No data available',
  62: 'Timer expired',
  71: 'Protocol error',
  75: 'Value too large for defined data type',
  84: 'Invalid or incomplete multibyte or wide character',
  88: 'Socket operation on non-socket',
  92: 'Protocol not available',
  95: 'Operation not supported',
  97: 'Address family not supported by protocol',
  98: 'Address already in use',
  99: 'Cannot assign requested address',
  101: 'Network is unreachable',
  103: 'Software caused connection abort',
  104: 'Connection reset by peer',
  105: 'No buffer space available',
  107: 'Transport endpoint is not connected',
  108: 'Cannot send after transport endpoint shutdown',
  110: 'Connection timed out',
  111: 'Connection refused',
  112: 'Host is down',
  113: 'No route to host',
  116: 'Stale file handle',
  122: 'Disk quota exceeded',
  123: 'No medium found',
  125: 'Operation canceled',
};

/** Node's names for what looking up a host says. */
const LOOKUP_TEXTS: Readonly<Record<string, string>> = {
  ENOTFOUND: 'no such host',
  EAI_AGAIN: 'Temporary failure in name resolution',
  EAI_NODATA: 'the host has no address',
};

/** What OpenSSL calls what an operator can do something about. */
const OPENSSL_TEXTS: Readonly<Record<string, string>> = {
  'no start line': 'nothing in PEM format is in it',
  'bad base64 decode': 'its PEM text is damaged',
  'bad end line': 'its PEM text has no end',
  'key values mismatch': 'the key is not that of the certificate',
  'interrupted or cancelled':
    'the key is encrypted, and a server has nobody to ask for its passphrase',
  'bad decrypt': 'the key is encrypted, and a server has nobody to ask for its passphrase',
  'bad password read': 'the key is encrypted, and a server has nobody to ask for its passphrase',
  'wrong version number': 'the other side does not speak TLS',
  'ee key too small': 'its key is too short to be safe',
  'ca md too weak': 'its signature has too weak a hash',
  'peer did not return a certificate': 'the client showed no certificate',
  'no shared cipher': 'the two sides have no cipher in common',
  'unsupported protocol': 'the other side speaks too old a TLS',
};

/** `2` becomes `No such file or directory`; a number without a text here, `error 77`. */
export function errnoText(errno: number): string {
  return TEXTS[Math.abs(errno)] ?? `error ${Math.abs(errno)}`;
}

/** As Node calls it. */
const GETCWD = 'uv_cwd';
const NO_WORKING_FOLDER = 'the working directory is not there any more: change to another one';

/** What to do about errors that are about a place, not about the call. */
const ADVICE: Readonly<Record<number, string>> = {
  5: 'what is below it cannot be read or written there; the log of the system or of the daemon may say why',
  24: 'ulimit -n',
  27: 'no file may be as long there (ulimit -f, or its file system)',
  28: 'make room there, and do it again; a thin volume gets its room from its pool',
  30: 'it, or its file system, may only be read',
  108: 'the daemon or the server that has it is ending',
  122: 'make room there, or have the quota raised, and do it again',
};

/** As errnoText, and what to do about it where that can be said. */
export function errnoAdvice(errno: number): string {
  return errnoText(errno) + adviceOf(errno);
}

/** As reasonOf, and what to do about it where that can be said. */
export function reasonAdvice(error: Error): string {
  const { errno } = error as SystemError;
  return reasonOf(error) + (typeof errno === 'number' ? adviceOf(errno) : '');
}

function adviceOf(errno: number): string {
  const advice = ADVICE[Math.abs(errno)];
  return advice === undefined ? '' : ` (${advice})`;
}

interface SystemError {
  readonly message: string;
  readonly code?: unknown;
  readonly errno?: unknown;
  readonly syscall?: unknown;
  readonly path?: unknown;
}

/** The reason alone, without the path and the call, or the text of any other error. */
export function reasonOf(error: Error): string {
  const { code, errno, message, syscall } = error as SystemError;
  if (syscall === GETCWD) return NO_WORKING_FOLDER;
  if (typeof code === 'string' && code in LOOKUP_TEXTS) return LOOKUP_TEXTS[code] as string;
  if (typeof errno === 'number' && typeof code === 'string') {
    return TEXTS[Math.abs(errno)] ?? message;
  }
  return withoutOpenssl(message);
}

/** OpenSSL's `reason` of an error, in words where an operator can do something about it. */
export function opensslText(reason: string): string {
  return OPENSSL_TEXTS[reason] ?? reason;
}

/** For an error that nobody has put into words: `open disk.img: No such file or directory`. */
export function systemErrorText(error: Error): string {
  const { syscall, path, errno } = error as SystemError;
  if (syscall === GETCWD || typeof syscall !== 'string' || typeof errno !== 'number')
    return reasonOf(error);
  const what = typeof path === 'string' ? `${syscall} ${path}` : syscall;
  return `${what}: ${reasonAdvice(error)}`;
}

/** Whether an error is the system's refusal of a call, and no bug of ours. */
export function isSystemError(error: unknown): error is Error {
  const { syscall, errno } = (error ?? {}) as SystemError;
  return error instanceof Error && typeof syscall === 'string' && typeof errno === 'number';
}

/** `error:0A00010B:SSL routines:ssl3_get_record:wrong version number` without its numbers and functions. */
function withoutOpenssl(message: string): string {
  const reason = /\berror:[0-9A-Fa-f]{8}:[^:]*:[^:]*:([^:\n]+)/.exec(message)?.[1]?.trim();
  if (reason === undefined) return message;
  return opensslText(reason);
}
