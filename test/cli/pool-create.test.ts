// `pool create` several times at once, and over metadata in doubt: who is refused leaves nothing, and nothing is kept quiet.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { MetadataFile } from '../../src/tools/thin/metadata-file.ts';
import { ThinMetadata } from '../../src/targets/thin/metadata.ts';

const AT_ONCE = 4;

async function withDesk(work: (d: Desk) => Promise<void>): Promise<void> {
  const d = desk();
  try {
    await d.start();
    await work(d);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
}

function create(name: string, data: string, metadata: string): string[] {
  return ['pool', 'create', name, '--data', data, '--metadata', metadata, '--size', '16M'];
}

/** Which of the calls, all made at once, ends with 0: one. And what all say. */
async function race(d: Desk, calls: readonly string[][]): Promise<{ won: number; said: string }> {
  const all = calls.map((args) => d.begin(args));
  let said = '';
  for (const { stderr } of all) stderr.on('data', (text: Buffer) => (said += text.toString()));
  const codes = await Promise.all(
    all.map(async (child) => (await once(child, 'close'))[0] as number),
  );
  assert.deepEqual(
    codes.toSorted((a, b) => a - b),
    [0, ...calls.slice(1).map(() => 1)],
    `${codes.join()}: ${said}`,
  );
  return { won: codes.indexOf(0), said };
}

function files(d: Desk): string[] {
  return readdirSync(d.path)
    .filter((name) => /^(data|meta)/.test(name))
    .sort();
}

test('of pools that are created at once, those that are refused remove what they made alone', async () => {
  await withDesk(async (d) => {
    const numbers = Array.from({ length: AT_ONCE }, (_, i) => i);
    writeFileSync(join(d.path, 'data.kept'), 'of somebody else');
    const named = await race(
      d,
      numbers.map((i) => create('p', `data${i}`, `meta${i}`)),
    );
    assert.match(named.said, /device p: name already exists/);
    assert.deepEqual(files(d), ['data.kept', `data${named.won}`, `meta${named.won}`]);
    d.ok(['remove', 'p']);

    const shared = await race(
      d,
      numbers.map((i) => create(`q${i}`, 'data', 'meta')),
    );
    assert.deepEqual(
      files(d).filter((name) => /^(data|meta)$/.test(name)),
      ['data', 'meta'],
    );
    d.ok(['thin', 'create', `q${shared.won}`, 'v', '--size', '1M']);

    // A running pool's files are gone: new ones of their names are none of it.
    rmSync(join(d.path, 'data'));
    rmSync(join(d.path, 'meta'));
    assert.match(d.refused(create('late', 'data', 'meta')), /already in use by a pool/);
    for (const name of ['data', 'meta']) assert.ok(!existsSync(join(d.path, name)), name);

    // One of the two files only.
    const half = await race(
      d,
      numbers.map((i) => create(`r${i}`, 'data.shared', `meta.r${i}`)),
    );
    assert.deepEqual(
      files(d).filter((name) => name.startsWith('meta.r')),
      [`meta.r${half.won}`],
    );
    assert.equal(readFileSync(join(d.path, 'data.kept'), 'utf8'), 'of somebody else');
  });
});

test('a pool whose metadata is in need of a check is opened read-only, and that is said', async () => {
  await withDesk(async (d) => {
    d.ok(create('p', 'data', 'meta'));
    d.ok(['thin', 'create', 'p', 'v', '--size', '1M']);
    d.ok(['thin', 'deactivate', 'v']);
    d.ok(['remove', 'p']);
    const file = MetadataFile.open(join(d.path, 'meta'), { isReadOnly: false });
    await (await ThinMetadata.open(file)).setNeedsCheck();
    file.close();

    const opened = d.begin(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta']);
    let said = '';
    opened.stderr.on('data', (text: Buffer) => (said += text.toString()));
    const [code] = (await once(opened, 'close')) as [number];
    assert.equal(code, 0, said);
    assert.match(said, /^lamina: p: is read-only: \S*meta is marked as in need of a check/);
    assert.match(said, /'lamina pool check --clear-needs-check'.*'lamina pool repair'\n$/);
    d.ok(['remove', 'p']);
    const args = ['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--json'];
    assert.equal((JSON.parse(d.ok(args)) as { needsCheck: boolean }).needsCheck, true);
    assert.match(d.refused(['thin', 'create', 'p', 'w', '--size', '1M']), /read.only|check/);
    d.ok(['remove', 'p']);
    d.ok(['pool', 'check', '--clear-needs-check', 'meta']);
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta']);
    d.ok(['thin', 'create', 'p', 'w', '--size', '1M']);
  });
});
