// What a backup of volumes needs, over a real daemon: how two of a running pool differ, the streams of
// `thin backup`, and what is refused.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

function qemuIo(uri: string, ...commands: string[]): string {
  const args = commands.flatMap((c) => ['-c', c]);
  const said = execFileSync('qemu-io', ['-f', 'raw', ...args, uri], { encoding: 'utf8' });
  assert.doesNotMatch(said, /failed|error/i);
  return said;
}

function uriOf(d: Desk, name: string): string {
  return `nbd+unix:///${name}?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
}

async function withDesk(work: (d: Desk) => Promise<void> | void): Promise<void> {
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

/** A pool with a volume, exported, and a snapshot of it taken between two writes. */
function makeVolume(d: Desk): void {
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  d.ok(['thin', 'create', 'p', 'vol', '--size', '32M']);
  d.ok(['export', 'add', 'vol']);
  qemuIo(uriOf(d, 'vol'), 'write -P 1 0 1M', 'write -P 2 8M 128k', 'flush');
  d.ok(['thin', 'snapshot', 'vol', 'snap']);
  qemuIo(uriOf(d, 'vol'), 'write -P 3 64k 64k', 'discard 8M 64k', 'write -P 4 20M 128k', 'flush');
}

function heldRoot(d: Desk): string | undefined {
  return d.ok(['status', 'p']).split(' ')[6];
}

test('volumes of a running pool are compared by name, and no metadata snapshot stays', async () => {
  await withDesk((d) => {
    makeVolume(d);
    const { ranges } = JSON.parse(d.ok(['thin', 'diff', 'snap', 'vol', '--json'])) as {
      ranges: { kind: string; begin: number; length: number; offsetBytes: number }[];
    };
    assert.deepEqual(
      ranges.map((r) => [r.kind, r.begin, r.length]),
      [
        ['different', 1, 1],
        ['left-only', 128, 1],
        ['right-only', 320, 2],
      ],
    );
    assert.match(d.ok(['thin', 'diff', 'snap', 'vol', '--same']), /^same\t0\t1\t0\t65536$/m);
    assert.equal(heldRoot(d), '-');
    // Somebody else's is neither used nor released.
    d.ok(['message', 'p', '0', 'reserve_metadata_snap']);
    const held = heldRoot(d);
    assert.match(d.refused(['thin', 'diff', 'snap', 'vol']), /holds a metadata snapshot already/);
    assert.equal(heldRoot(d), held);
    d.ok(['message', 'p', '0', 'release_metadata_snap']);
    assert.match(d.refused(['thin', 'diff', 'snap', 'p']), /is no thin volume/);
    const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);
  });
});
