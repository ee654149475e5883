// The metadata snapshot that `thin diff` takes, when the command or the daemon is killed with SIGKILL in the middle:
// nobody's stays, and the operator's own stays. The metadata lies on a slow device, so that there is a middle.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk, type RunningDaemon } from '../../src/testing/daemon-desk.ts';

const MIB = 1024 * 1024;
const META_SECTORS = (16 * MIB) / 512;
const BLOCKS = 1500;
const READ_MS = 60;
const LONG_READ_MS = 3000;
const HELD_ROOT_OFFSET = 56;

function slowTable(readMs: number): string {
  return `0 ${META_SECTORS} delay ./meta 0 ${readMs} ./meta 0 0`;
}

function setDelay(d: Desk, readMs: number): void {
  d.ok(['load', 'slow', '--table', slowTable(readMs)]);
  d.ok(['resume', 'slow']);
}

/** A pool with two volumes that share nothing, each with some leaves of mappings. */
function makePool(d: Desk): void {
  const device = (id: number): string =>
    `<device dev_id="${id}" mapped_blocks="${BLOCKS}" transaction="0" creation_time="0" snap_time="0">` +
    `<range_mapping origin_begin="0" data_begin="${id * BLOCKS}" length="${BLOCKS}" time="0"/></device>`;
  const xml =
    '<superblock uuid="" time="0" transaction="0" flags="0" version="2" data_block_size="128" ' +
    `nr_data_blocks="8192">${device(1)}${device(2)}</superblock>`;
  writeFileSync(join(d.path, 'pool.xml'), xml);
  for (const [file, bytes] of [
    ['meta', 16 * MIB],
    ['data', 512 * MIB],
  ] as const) {
    writeFileSync(join(d.path, file), '');
    truncateSync(join(d.path, file), bytes);
  }
  d.ok(['pool', 'restore', 'pool.xml', 'meta']);
  d.ok(['create', 'slow', '--table', slowTable(READ_MS)]);
  d.ok(['create', 'p', '--table', '0 1048576 thin-pool slow ./data 128 0']);
  for (const [name, id] of [
    ['a', 1],
    ['b', 2],
  ] as const) {
    d.ok(['create', name, '--table', `0 ${BLOCKS * 128} thin p ${id}`]);
  }
}

/** The block of the metadata snapshot, as the file has it. */
function heldOnDisk(d: Desk): number {
  const fd = openSync(join(d.path, 'meta'), 'r');
  const bytes = Buffer.alloc(8);
  readSync(fd, bytes, 0, 8, HELD_ROOT_OFFSET);
  closeSync(fd);
  return Number(bytes.readBigUInt64LE());
}

async function until(d: Desk, isHeld: boolean): Promise<void> {
  for (let i = 0; i < 3000; i++) {
    if ((heldOnDisk(d) !== 0) === isHeld) return;
    await sleep(10);
  }
  assert.fail(`a metadata snapshot was to be ${isHeld ? 'reserved' : 'released'}`);
}

function held(d: Desk): string | undefined {
  return d.ok(['status', 'p']).split(' ')[6];
}

async function kill(daemon: RunningDaemon): Promise<void> {
  daemon.kill('SIGKILL');
  await once(daemon, 'exit');
}

test('a diff that is killed, or whose daemon is, leaves no metadata snapshot', async () => {
  const d = desk();
  try {
    const daemon = await d.start();
    makePool(d);
    // To its end this one would take longer than `until` waits.
    setDelay(d, LONG_READ_MS);
    const client = d.begin(['thin', 'diff', 'a', 'b']);
    await until(d, true);
    client.kill('SIGKILL');
    await once(client, 'exit');
    await until(d, false);
    assert.equal(held(d), '-');
    setDelay(d, READ_MS);

    const other = d.begin(['message', 'p', '0', 'diff 1 2 1400']);
    await until(d, true);
    await kill(daemon);
    await once(other, 'exit');
    assert.notEqual(heldOnDisk(d), 0, 'it was killed in the middle');
    const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);

    const second = await d.start();
    assert.equal(held(d), '-');
    assert.match(
      second.said(),
      /p.*: the metadata snapshot of a message that was killed is released/,
    );
    assert.match(d.ok(['thin', 'diff', 'a', 'b']), /^different\t0\t1500\t/m);

    // The operator's own is neither released at a start nor taken for another's.
    d.ok(['message', 'p', '0', 'reserve_metadata_snap']);
    const own = held(d);
    await kill(second);
    await d.start();
    assert.equal(held(d), own);
    assert.match(d.refused(['thin', 'diff', 'a', 'b']), /release_metadata_snap/);
    assert.equal(held(d), own);
    d.ok(['message', 'p', '0', 'release_metadata_snap']);
    d.ok(['thin', 'diff', 'a', 'b']);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});
