// A listening socket whose file goes, and comes again.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import { StandingClock } from '../../testing/standing-clock.ts';
import { KeptSocket, LOOK_MS } from './kept-socket.ts';

async function greeted(path: string): Promise<boolean> {
  const socket = connect(path);
  const answer = await Promise.race([
    once(socket, 'data').then(() => true),
    once(socket, 'error').then(() => false),
  ]).catch(() => false);
  socket.destroy();
  return answer;
}

/** Until the line has been said. */
async function hear(said: readonly string[], line: RegExp, clock: StandingClock): Promise<void> {
  for (let i = 0; !said.some((text) => line.test(text)); i++) {
    assert.ok(i < 1000, said.join('\n'));
    clock.advance(LOOK_MS);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('a socket whose file is gone, with its folder, or another is there, listens again', async () => {
  const folder = makeTestFolder();
  const path = join(folder.path, 'below', 's');
  const clock = new StandingClock();
  const said: string[] = [];
  const server = createServer((socket) => socket.on('error', () => {}).write('hello'));
  const other = createServer();
  try {
    rmSync(join(folder.path, 'below'), { recursive: true, force: true });
    const keep = { clock, log: (line: string) => void said.push(line) };
    await assert.rejects(KeptSocket.listen(server, path, keep), /its folder does not exist/);
    const kept = await KeptSocket.listen(server, join(folder.path, 's'), keep);
    const held = connect(kept.path);
    await once(held, 'data');
    assert.equal(await greeted(kept.path), true);
    rmSync(kept.path);
    assert.equal(await greeted(kept.path), false);
    await hear(said, /its file was gone, it is there again/, clock);
    assert.equal(await greeted(kept.path), true);
    assert.equal(statSync(kept.path).mode & 0o777, 0o600);
    assert.equal(held.destroyed, false, 'connections stay');
    // With its folder.
    said.length = 0;
    rmSync(folder.path, { recursive: true });
    await hear(said, /it is there again/, clock);
    assert.equal(await greeted(kept.path), true);
    // Another server's is not taken, and is said once.
    said.length = 0;
    rmSync(kept.path);
    other.listen(kept.path);
    await once(other, 'listening');
    await hear(said, /another server is listening there/, clock);
    for (let i = 0; i < 3; i++) {
      clock.advance(LOOK_MS);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.equal(said.length, 1, said.join('\n'));
    other.close();
    await hear(said, /it is there again/, clock);
    held.destroy();
    // A file that is no socket stays, also at the end.
    rmSync(kept.path);
    writeFileSync(kept.path, 'mine');
    await hear(said, /something that is no socket is there/, clock);
    await kept.close();
    assert.equal(statSync(kept.path).size, 4);
    assert.equal(clock.timerCount, 0);
  } finally {
    server.close();
    other.close();
    folder.remove();
  }
});
