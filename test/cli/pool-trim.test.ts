// `pool trim` discards by whatever metadata it is given: it says which, asks, and leaves alone what runs. `pool shrink`
// says what becomes of the old metadata.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

const MIB = 1024 * 1024;
const TRIM = ['pool', 'trim', '--metadata-dev', 'meta', '--data-dev', 'data'];

function taken(d: Desk): number {
  return statSync(join(d.path, 'data')).blocks * 512;
}

test('trim says what it does and asks; shrink says what its metadata is good for', async () => {
  const d = desk();
  try {
    await d.start();
    const table = '0 131072 thin-pool ./meta ./data 128 0 1 no_discard_passdown';
    for (const [name, bytes] of [
      ['meta', 16 * MIB],
      ['data', 64 * MIB],
    ] as const) {
      writeFileSync(join(d.path, name), '');
      truncateSync(join(d.path, name), bytes);
    }
    d.ok(['create', 'p', '--table', table]);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '32M']);
    d.ok(['export', 'add', 'vol']);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    const write = ['-c', 'write -P 7 0 8M', '-c', 'discard 0 6M', '-c', 'flush'];
    execFileSync('qemu-io', ['-f', 'raw', ...write, uri]);
    d.ok(['message', 'p', '0', 'set_transaction_id 0 7']);
    d.ok(['message', 'p', '0', 'reserve_metadata_snap']);
    // A running pool has both files, also from whoever comes with a copy of the metadata.
    assert.match(d.refused([...TRIM, '--force']), /meta: is in use/);
    copyFileSync(join(d.path, 'meta'), join(d.path, 'copy'));
    const byCopy = TRIM.map((word) => (word === 'meta' ? 'copy' : word));
    assert.match(d.refused([...byCopy, '--force']), /data: is in use/);
    d.ok(['stop']);

    // Only what is made anew may be made first; an empty file in place of data would be a loss.
    const lost = TRIM.map((word) => (word === 'data' ? 'nope' : word));
    assert.equal(d.refused([...lost, '--force']), 'lamina: nope: no such file\n');
    assert.match(d.refused(['pool', 'repair', 'meta', 'nope']), /no such file; make it first/);
    const same = d.refused(['pool', 'repair', 'meta', './meta', '--force']);
    assert.equal(same, 'lamina: ./meta: is the same file as meta\n');
    const before = taken(d);
    assert.ok(before >= 8 * MIB, `${before}`);
    const meta = readFileSync(join(d.path, 'meta'));
    const what =
      /meta: transaction 7, time 0, last written 20\S+Z: 1 devices hold 32 of 1024 .* other 992 \(62 MiB\) of data /;
    const asked = d.refused(TRIM);
    assert.match(asked, what);
    assert.match(asked, /give --force to do that unasked/);
    assert.match(d.ok([...TRIM, '--json'], '', 1), what);
    assert.equal(taken(d), before);
    const { freeBlocks, transactionId } = JSON.parse(d.ok([...TRIM, '--force', '--json'])) as {
      freeBlocks: number;
      transactionId: number;
    };
    assert.deepEqual([freeBlocks, transactionId], [992, 7]);
    assert.ok(taken(d) <= 2 * MIB + MIB, `${taken(d)}`);
    assert.ok(readFileSync(join(d.path, 'meta')).equals(meta));

    writeFileSync(join(d.path, 'out'), Buffer.alloc(16 * MIB));
    const files = ['--input', 'meta', '--output', 'out', '--data', 'data'];
    const said = d.ok(['pool', 'shrink', ...files, '--nr-blocks', '128']);
    assert.match(
      said,
      /^the metadata snapshot is not kept\nuse out from now on: .* with meta destroys/m,
    );
    truncateSync(join(d.path, 'data'), 8 * MIB);
    assert.match(d.refused([...TRIM, '--force']), /data: has 8388608 bytes, the pool's data has/);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});
