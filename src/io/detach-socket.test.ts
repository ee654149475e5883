// A descriptor taken out of a socket: it is the connection, and this process's alone.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Socket } from 'node:net';
import { it } from 'node:test';
import { detachSocket } from './detach-socket.ts';
import { fcntl, socketpair } from './posix.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const F_GETFD = 1;
const F_GETFL = 3;
const FD_CLOEXEC = 1;
const O_NONBLOCK = 0o4000;

function connectedPair(): [Socket, Socket] {
  const fds = new Int32Array(2);
  assert.equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
  return [new Socket({ fd: fds[0] as number }), new Socket({ fd: fds[1] as number })];
}

it('a detached socket is the same connection, blocking, and not inherited by children', async () => {
  const [near, far] = connectedPair();
  const fd = detachSocket(near);
  assert.ok(near.destroyed);
  assert.equal(fcntl(fd, F_GETFD, 0) & FD_CLOEXEC, FD_CLOEXEC);
  assert.equal(fcntl(fd, F_GETFL, 0) & O_NONBLOCK, 0);
  const again = new Socket({ fd });
  again.end('hello');
  const [data] = (await once(far, 'data')) as [Buffer];
  assert.equal(data.toString(), 'hello');
  far.destroy();
  again.destroy();
});

it('a socket that is closed cannot be detached', async () => {
  const [near, far] = connectedPair();
  near.destroy();
  await once(near, 'close');
  assert.throws(() => detachSocket(near), /closed before it was handed over/);
  far.destroy();
});
