// Takes the descriptor out of a connected plain socket, for an engine that takes only descriptors.

import type { Socket } from 'node:net';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import { closeFd, errno, fcntl } from './posix.ts';

const F_SETFL = 4;
const F_DUPFD_CLOEXEC = process.platform === 'darwin' ? 67 : 1030;
const O_RDWR = 2;

/**
 * A blocking duplicate, owned by the caller; Node's own descriptor is closed. What Node has read
 * from the socket and not given out is lost: nobody may be listening to it, and nothing may have
 * come.
 */
export function detachSocket(socket: Socket): number {
  const { _handle: handle } = socket as unknown as {
    readonly _handle: { readonly fd: number; readStop(): void } | null;
  };
  if (handle === null) throw new DmError(Status.Io, 'connection: closed before it was handed over');
  handle.readStop();
  // Not dup(2): a process started meanwhile would inherit the connection and keep it open for ever.
  const fd = fcntl(handle.fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) throw new DmError(errno(), `connection: dup: ${errnoText(errno())}`);
  // Non-blocking descriptors make io_uring answer EAGAIN where it should wait.
  if (fcntl(fd, F_SETFL, O_RDWR) < 0) {
    const status = errno();
    closeFd(fd);
    throw new DmError(status, `connection: fcntl: ${errnoText(status)}`);
  }
  socket.destroy();
  return fd;
}
