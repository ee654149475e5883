import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, it } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { MIB } from '../base/units.ts';
import { Arena } from '../io/arena.ts';
import { NodeEngine } from '../io/node-engine.ts';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { FileDevice } from './file/file.backend.ts';
import { MemoryDevice } from './memory/memory.backend.ts';
import { openBackend } from './open.ts';

const engine = new NodeEngine(new Arena(4 * MIB));
const folder = makeTestFolder();
const path = join(folder.path, 'image');
writeFileSync(path, '');
truncateSync(path, MIB);
after(() => folder.remove());

it('opens a path as a file and a scheme as what it names', async () => {
  const cases = [
    [path, FileDevice],
    [`file:${path}`, FileDevice],
    [`file://${path}?readonly=1`, FileDevice],
    ['memory:?size=1M', MemoryDevice],
  ] as const;
  for (const [reference, Device] of cases) {
    const device = await openBackend(reference, { readOnly: false }, engine);
    assert.ok(device instanceof Device, reference);
    assert.equal(device.name, reference);
    assert.equal(device.lenSectors, 2048);
    assert.equal(device.isReadOnly, reference.includes('readonly'));
    await device.close();
  }
});

it('passes on that a device is to be read only', async () => {
  const device = await openBackend(path, { readOnly: true }, engine);
  assert.ok(device.isReadOnly);
  await device.close();
});

it('refuses schemes that are no backend, its own parts among them', async () => {
  for (const scheme of [
    'ftp',
    'open',
    'reference',
    'file-open',
    'bounce',
    'file.test',
    '__proto__',
    'constructor',
  ]) {
    const reference = `${scheme}:x`;
    await assert.rejects(openBackend(reference, { readOnly: false }, engine), (error) => {
      assert.ok(error instanceof DmError, String(error));
      // What is no scheme at all is taken as a path.
      const isScheme = /^[a-z][a-z0-9+-]*$/.test(scheme);
      assert.equal(error.status, isScheme ? Status.Invalid : Status.NoEntry);
      assert.ok(error.message.includes(isScheme ? `unknown scheme '${scheme}:'` : scheme));
      return true;
    });
  }
});
