import assert from 'node:assert/strict';
import {
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import { UNIX_PATH_BYTES_MAX } from './listen-address.ts';
import { type UnixSocketFile, listenOnUnixSocket } from './unix-socket.ts';

let folder: ReturnType<typeof makeTestFolder>;
let path: string;
let servers: Server[];

beforeEach(() => {
  folder = makeTestFolder();
  path = join(folder.path, 's');
  servers = [];
});

afterEach(() => {
  for (const server of servers) server.close();
  folder.remove();
});

async function listen(at = path): Promise<UnixSocketFile> {
  const server = createServer((socket) => {
    // Another server's look whether this one is alive ends in a reset.
    socket.on('error', () => {});
    socket.end('hello');
  });
  servers.push(server);
  return await listenOnUnixSocket(server, at);
}

/** What a server at `at` says. */
function ask(at = path): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    connect(at)
      .on('data', (chunk) => {
        text += chunk.toString();
      })
      .on('end', () => resolve(text))
      .on('error', reject);
  });
}

/** Makes `path` the socket of a server that is not there any more. */
async function leaveStaleSocket(): Promise<void> {
  const other = join(folder.path, 'other');
  await listen(other);
  linkSync(other, path);
  servers[0]?.close();
}

describe('unix socket', () => {
  it('is this user’s alone, and nothing else is left in the folder', async () => {
    await listen();
    assert.equal(lstatSync(path).mode & 0o777, 0o600);
    assert.deepEqual(readdirSync(folder.path), ['s']);
    assert.equal(await ask(), 'hello');
  });

  it('replaces the socket of a dead server', async () => {
    await leaveStaleSocket();
    await assert.rejects(ask(), { code: 'ECONNREFUSED' });
    await listen();
    assert.equal(await ask(), 'hello');
  });

  it('refuses to replace the socket of a live server, and leaves it working', async () => {
    await listen();
    await assert.rejects(listen(), /socket '.*s': another server is listening there/);
    assert.equal(await ask(), 'hello');
    assert.deepEqual(readdirSync(folder.path), ['s']);
  });

  it('refuses to replace a file or a folder', async () => {
    writeFileSync(path, 'data');
    await assert.rejects(listen(), /something that is no socket/);
    const sub = join(folder.path, 'sub');
    mkdirSync(sub);
    await assert.rejects(listen(sub), /something that is no socket/);
    assert.ok(existsSync(path));
  });

  it('names a folder that does not exist', async () => {
    await assert.rejects(
      listen(join(folder.path, 'no', 's')),
      /socket '.*no\/s': its folder does not exist/,
    );
  });

  it('is removed when it is ours, and left when a successor has the path', async () => {
    const first = await listen();
    renameSync(path, join(folder.path, 'moved'));
    const second = await listen();
    await first.removeIfOurs();
    servers[0]?.close();
    assert.equal(await ask(), 'hello');
    await second.removeIfOurs();
    assert.equal(existsSync(path), false);
    await second.removeIfOurs();
  });

  it('stays when nobody removed it, and the next server finds it stale', async () => {
    await listen();
    servers[0]?.close();
    assert.ok(existsSync(path));
    await listen();
    assert.equal(await ask(), 'hello');
  });

  it('can be at a path of 107 bytes', async () => {
    const room = UNIX_PATH_BYTES_MAX - Buffer.byteLength(folder.path) - 1;
    const long = join(folder.path, 'x'.repeat(room));
    assert.equal(Buffer.byteLength(long), UNIX_PATH_BYTES_MAX);
    await listen(long);
    assert.equal(await ask(long), 'hello');
    const deep = join(folder.path, 'y'.repeat(room - 2));
    mkdirSync(deep);
    await listen(join(deep, 's'));
    assert.equal(await ask(join(deep, 's')), 'hello');
  });
});
