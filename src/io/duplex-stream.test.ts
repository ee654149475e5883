// What only the node engine has: streams over Node's own sockets, TLS among them.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect as connectPlain, createServer as createPlain, type Socket } from 'node:net';
import { PassThrough } from 'node:stream';
import { after, it } from 'node:test';
import { connect, createServer, type TLSSocket } from 'node:tls';
import { Prng } from '../base/prng.ts';
import { MIB } from '../base/units.ts';
import { Status } from '../base/status.ts';
import { Arena } from './arena.ts';
import { type IoDone, type IoStream, IovList } from './engine.ts';
import { NodeEngine } from './node-engine.ts';

const arena = new Arena(32 * MIB);
const engine = new NodeEngine(arena);
after(() => engine.close());

function result(start: (done: IoDone, arg: object) => void): Promise<number> {
  return new Promise((resolve) => {
    start({ ioDone: (_arg, value) => resolve(value) }, {});
  });
}

function recv(stream: IoStream, mem: number, len: number, waitAll = false): Promise<number> {
  return result((done, arg) => stream.recv(mem, len, waitAll, done, arg));
}

function send(stream: IoStream, mem: number, len: number): Promise<number> {
  const list = new IovList();
  // Two ranges that do not touch, so that there is something to gather.
  list.add(mem, len - 1);
  list.add(mem + 16 * MIB, 1);
  return result((done, arg) => stream.send(list, done, arg));
}

async function tlsPair(): Promise<{ readonly server: TLSSocket; readonly client: TLSSocket }> {
  const psk = Buffer.from('0123456789abcdef');
  const options = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const;
  const listener = createServer({ ...options, pskCallback: () => psk });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const accepted = once(listener, 'secureConnection') as Promise<[TLSSocket]>;
  const client = connect({
    ...options,
    port: (listener.address() as { port: number }).port,
    host: '127.0.0.1',
    pskCallback: () => ({ psk, identity: 'test' }),
    checkServerIdentity: () => undefined,
  });
  const [[server]] = await Promise.all([accepted, once(client, 'secureConnect')]);
  listener.close();
  return { server, client };
}

async function plainPair(): Promise<{ readonly server: Socket; readonly client: Socket }> {
  const listener = createPlain({ pauseOnConnect: true });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const accepted = once(listener, 'connection') as Promise<[Socket]>;
  const client = connectPlain((listener.address() as { port: number }).port, '127.0.0.1');
  const [[server]] = await Promise.all([accepted, once(client, 'connect')]);
  listener.close();
  return { server, client };
}

it('carries bytes both ways through TLS', async () => {
  const { server, client } = await tlsPair();
  const near = engine.openStream(server);
  const far = engine.openStream(client);
  const data = Buffer.alloc(5 * MIB);
  new Prng(1).fill(data);
  arena.u8.set(data.subarray(0, -1), 0);
  arena.u8.set(data.subarray(-1), 16 * MIB);
  const [sent, received] = await Promise.all([
    send(near, 0, data.length),
    recv(far, 8 * MIB, data.length, true),
  ]);
  assert.deepEqual([sent, received], [data.length, data.length]);
  assert.ok(Buffer.from(arena.u8.slice(8 * MIB, 8 * MIB + data.length)).equals(data));
  assert.equal(await send(far, 0, 10), 10);
  assert.equal(await recv(near, MIB, 100), 10);
  far.close();
  assert.ok((await recv(near, 0, 10)) <= 0);
  near.close();
});

it('receives what the socket had read before it was taken over', async () => {
  const { server, client } = await plainPair();
  client.write('before');
  server.resume();
  server.pause();
  while (server.readableLength < 6) await once(server, 'readable');
  server.unshift(Buffer.from('unshifted '));
  const stream = engine.openStream(server);
  client.write(' after');
  assert.equal(await recv(stream, 0, 22, true), 22);
  assert.equal(Buffer.from(arena.u8.slice(0, 22)).toString(), 'unshifted before after');
  stream.close();
  client.destroy();
});

it('leaves in the kernel what nobody has asked for', async () => {
  const { server, client } = await plainPair();
  const stream = engine.openStream(server);
  client.write(Buffer.alloc(16 * MIB, 1));
  assert.equal(await recv(stream, 0, 1000), 1000);
  for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
  // One read of Node's (64 KiB) beyond the high-water mark, at the most.
  const held = server.readableLength;
  assert.ok(held <= server.readableHighWaterMark + 65536, `${held} bytes are held`);
  assert.ok(client.writableLength > 0, 'the client has got rid of everything');
  stream.close();
  client.destroy();
});

it('ends at once over a stream that is over already', async () => {
  const destroyed = new PassThrough();
  destroyed.destroy();
  const dead = engine.openStream(destroyed);
  assert.equal(await recv(dead, 0, 10), -Status.Canceled);
  assert.equal(await send(dead, 0, 10), -Status.Canceled);

  const ended = new PassThrough({ autoDestroy: false });
  ended.resume();
  ended.end();
  await once(ended, 'end');
  assert.equal(await recv(engine.openStream(ended), 0, 10), 0);
});

it('works over any duplex stream', async () => {
  const loop = new PassThrough();
  const stream = engine.openStream(loop);
  arena.u8.set(Buffer.from('round and round'), 0);
  arena.u8.set(Buffer.from('d'), 16 * MIB);
  assert.equal(await send(stream, 0, 15), 15);
  assert.equal(await recv(stream, 100, 15, true), 15);
  assert.equal(Buffer.from(arena.u8.slice(100, 115)).toString(), 'round and round');
  const waiting = recv(stream, 0, 10);
  loop.destroy(Object.assign(new Error('broken'), { errno: -104 }));
  assert.equal(await waiting, -104);
  assert.equal(await send(stream, 0, 10), -104);
});
