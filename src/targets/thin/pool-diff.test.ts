// `diff` and `backup_state`, as messages to a pool: one metadata snapshot at a time, and none that stays.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { Disk } from '../../bio/disk.ts';
import { PlaneCore } from '../../daemon/plane-core.ts';
import { Arena } from '../../io/arena.ts';
import { NodeEngine } from '../../io/node-engine.ts';

const UUID = '0123456789abcdef0123456789abcdef';

interface Pool {
  tell(text: string, signal?: AbortSignal): Promise<string>;
  write(name: string, block: number): Promise<void>;
  /** What the pool's status says of its metadata snapshot. */
  held(): Promise<string | undefined>;
  /** Puts a table with these features in place of the pool's. */
  reload(features?: string): Promise<void>;
  end(): Promise<void>;
}

/** A pool with a volume of one block, 1, and a snapshot of it, 2. */
async function makePool(): Promise<Pool> {
  const core = new PlaneCore(new NodeEngine(new Arena(16 << 20)));
  const table = '0 65536 thin-pool memory:?size=16M memory:?size=32M 128 0';
  await core.dm.create({ name: 'pool', table });
  const tell = async (text: string, signal?: AbortSignal): Promise<string> =>
    await core.dm.message('pool', 0, text, signal);
  const write = async (name: string, block: number): Promise<void> => {
    const opened = await core.dm.openDevice(name);
    const disk = new Disk(opened.device, core.engine.arena, async () => await opened.close());
    await disk.write(block * 65536, Buffer.alloc(4096, 5));
    await disk.close();
  };
  await tell('create_thin 1');
  await core.dm.create({ name: 'vol', table: '0 12800 thin pool 1' });
  await write('vol', 0);
  await tell('create_snap 2 1');
  await core.dm.create({ name: 'snap', table: '0 12800 thin pool 2' });
  return {
    tell,
    write,
    reload: async (features) => {
      await core.dm.load(
        'pool',
        table.replace(/0$/, features === undefined ? '0 0' : `0 ${features}`),
      );
      await core.dm.resume('pool');
    },
    held: async () => (await core.dm.status('pool'))[0]?.params.split(' ')[3],
    end: async () => {
      await core.dm.close();
      core.engine.close();
    },
  };
}

test('differences are told by blocks; a part of them, and what is the same, when asked', async () => {
  const pool = await makePool();
  assert.equal(await pool.tell('diff 2 1'), '128');
  for (const block of [0, 3, 4, 90]) await pool.write('vol', block);
  assert.equal(await pool.tell('diff 2 1'), '128\ndifferent 0 1\nright-only 3 2\nright-only 90 1');
  assert.equal(await pool.tell('diff 1 2 4'), '128\nleft-only 4 1\nleft-only 90 1');
  assert.equal(await pool.tell('diff 2 2 same'), '128\nsame 0 1');
  await assert.rejects(pool.tell('diff 2 9'), { status: Status.NoDevice });
  await assert.rejects(pool.tell('diff 2'), /expected <left id> <right id>/);
  await assert.rejects(pool.tell('diff 2 x'), /'x': expected a number/);
  assert.equal(await pool.held(), '-');
  await pool.end();
});

test('of many at once each has its turn, and who gives up leaves nothing', async () => {
  const pool = await makePool();
  await pool.write('vol', 7);
  const gone = new AbortController();
  gone.abort();
  const all = [1, 2, 3, 4].map(async () => await pool.tell('diff 2 1'));
  const givenUp = assert.rejects(pool.tell('diff 2 1', gone.signal), { status: Status.Canceled });
  for (const answer of await Promise.all(all)) assert.equal(answer, '128\nright-only 7 1');
  await givenUp;
  assert.equal(await pool.tell('diff 2 1'), '128\nright-only 7 1');
  assert.equal(await pool.held(), '-');
  await pool.end();
});

test('a metadata snapshot that an operator has reserved is left alone', async () => {
  const pool = await makePool();
  await pool.tell('reserve_metadata_snap');
  const held = await pool.held();
  await assert.rejects(pool.tell('diff 2 1'), { status: Status.Busy });
  assert.equal(await pool.held(), held);
  await pool.tell('release_metadata_snap');
  assert.equal(await pool.tell('diff 2 1'), '128');
  await pool.end();
});

test('nobody takes the snapshot of a diff under way', async () => {
  const pool = await makePool();
  await pool.write('vol', 7);
  const answer = '128\nright-only 7 1';
  const first = pool.tell('diff 2 1');
  await assert.rejects(pool.tell('release_metadata_snap'), /there is no metadata snapshot/);
  assert.equal(await first, answer);
  const [second] = await Promise.all([pool.tell('diff 2 1'), pool.reload()]);
  assert.equal(second, answer);
  // Of messages at once each has its turn: what is reserved stays.
  const [third] = await Promise.all([pool.tell('diff 2 1'), pool.tell('reserve_metadata_snap')]);
  assert.equal(third, answer);
  const held = await pool.held();
  assert.notEqual(held, '-');
  await pool.reload();
  assert.equal(await pool.held(), held);
  await pool.end();
});

test('in a read-only pool the volumes of now are compared, not those of a metadata snapshot', async () => {
  const pool = await makePool();
  await pool.tell('reserve_metadata_snap');
  const held = await pool.held();
  await pool.write('vol', 9);
  await pool.reload('1 read_only');
  assert.equal(await pool.tell('diff 2 1'), '128\nright-only 9 1');
  assert.equal(await pool.held(), held);
  await pool.end();
});

test('a snapshot has one state until somebody writes to it or discards of it', async () => {
  const pool = await makePool();
  const other = UUID.replace('0', 'f');
  const first = await pool.tell(`backup_state 2 2 ${UUID}`);
  assert.equal(first, `${UUID} 2 1 1 1`);
  await pool.write('vol', 0);
  await pool.tell('create_snap 3 2');
  assert.equal(await pool.tell(`backup_state 2 2 ${other}`), first, 'the pool keeps its name');
  assert.equal(await pool.tell(`backup_state 3 2 ${other}`), first, 'as its snapshot has it');
  assert.equal(await pool.tell(`backup_state 3 3 ${other}`), `${UUID} 3 2 1 1`);
  assert.equal(await pool.tell(`backup_state 1 1 ${other}`), `${UUID} 1 0 1 0`, 'no snapshot');
  // The origin's block is the snapshot's alone since; a write to it is seen all the same.
  await pool.write('snap', 0);
  assert.equal(await pool.tell(`backup_state 2 2 ${other}`), `${UUID} 2 1 1 0`);
  await assert.rejects(pool.tell('backup_state 2 2 x'), /32 hex digits/);
  await pool.end();
});
