// The control socket at its beginning.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { ControlServer } from './control-socket.ts';

const TRIES = 20;

test('whoever connects as soon as the socket is there is answered', async () => {
  const folder = makeTestFolder();
  try {
    for (let i = 0; i < TRIES; i++) {
      const path = join(folder.path, `control${i}.sock`);
      const listening = ControlServer.listen(path, async (method) => await Promise.resolve(method));
      while (!existsSync(path)) await turn();
      const client = connect(path);
      client.write(`${JSON.stringify({ id: 1, method: 'list', args: [] })}\n`);
      const [answer] = (await once(client, 'data')) as [Buffer];
      assert.deepEqual(JSON.parse(String(answer)), { id: 1, result: 'list' });
      client.destroy();
      await (await listening).close();
    }
  } finally {
    folder.remove();
  }
});
