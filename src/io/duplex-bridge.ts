// A Node stream behind a plain descriptor: for TLS, which lives in Node, under an engine that takes only
// descriptors. Bytes cross a socket pair; both ends end together.

import { Socket } from 'node:net';
import { type Duplex, pipeline } from 'node:stream';
import { DmError } from '../base/errors.ts';
import { errnoText } from '../base/system-error.ts';
import { errno, socketpair } from './posix.ts';

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;

/** The descriptor of the other end; the caller owns it. Closing it destroys `duplex`, and the reverse. */
export function bridgeToDescriptor(duplex: Duplex): number {
  const fds = new Int32Array(2);
  if (socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, fds) < 0) {
    throw new DmError(errno(), `socketpair: ${errnoText(errno())}`);
  }
  const near = new Socket({ fd: fds[0] as number, readable: true, writable: true });
  const end = (): void => {
    near.destroy();
    duplex.destroy();
  };
  // One direction at its end leaves the other running: the client may be waiting for its last replies.
  pipeline(duplex, near, (error) => {
    if (error) end();
  });
  pipeline(near, duplex, () => end());
  return fds[1] as number;
}
