// Snapshots by plain verbs, over a real daemon with clients on the device: nothing is noticed, nothing is lost, whatever
// fails and whenever the daemon is killed.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk, type RunningDaemon } from '../../src/testing/daemon-desk.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 8 * MIB;
const LINEAR = `0 ${DISK_BYTES / 512} linear ./disk 0`;

async function withDesk(work: (d: Desk, daemon: RunningDaemon) => Promise<void>): Promise<void> {
  const d = desk({ isWarm: true });
  try {
    const daemon = await d.start();
    writeFileSync(join(d.path, 'disk'), Buffer.alloc(DISK_BYTES, 1));
    d.ok(['create', 'vol', '--table', LINEAR]);
    d.ok(['export', 'add', 'vol']);
    await work(d, daemon);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
}

async function client(d: Desk, exportName: string): Promise<NbdClient> {
  return await NbdClient.connect({ path: join(d.path, 'lamina', 'nbd.sock') }, { exportName });
}

async function use<T>(d: Desk, name: string, work: (c: NbdClient) => Promise<T>): Promise<T> {
  const c = await client(d, name);
  try {
    return await work(c);
  } finally {
    await c.disconnect();
  }
}

async function write(
  d: Desk,
  name: string,
  byte: number,
  offset: number,
  bytes: number,
): Promise<void> {
  await use(d, name, async (c) => {
    await c.write(offset, Buffer.alloc(bytes, byte));
  });
}

/** The bytes at the begin of each MiB. */
async function bytesOf(d: Desk, name: string): Promise<number[]> {
  return await use(d, name, async (c) => {
    const bytes = [];
    for (let at = 0; at < c.sizeBytes; at += MIB) bytes.push((await c.read(at, 512))[0] ?? -1);
    return bytes;
  });
}

function tables(d: Desk): string[] {
  return d
    .ok(['table'])
    .trimEnd()
    .split('\n')
    .map((line) => line.replaceAll(`${d.path}/`, ''));
}

interface Report {
  readonly name: string;
  readonly device: string;
  readonly state: string;
  readonly usedBytes: number;
  readonly bytesPerHour: number;
  readonly fullInSeconds: number | null;
}

function reports(d: Desk): Report[] {
  return JSON.parse(d.ok(['snapshot', 'list', '--json'])) as Report[];
}

async function restart(d: Desk, daemon: RunningDaemon): Promise<RunningDaemon> {
  daemon.kill('SIGKILL');
  await once(daemon, 'exit');
  return await d.start();
}

const ONES = Array.from({ length: 8 }, () => 1);

test('snapshots come and go under a client that writes on and on', async () => {
  await withDesk(async (d) => {
    const c = await client(d, 'vol');
    const seen = { writes: 0, isOver: false };
    const busy = (async () => {
      while (!seen.isOver) {
        await c.write(7 * MIB + (seen.writes % 8) * 4096, Buffer.alloc(4096, seen.writes % 251));
        seen.writes++;
      }
    })();
    for (let i = 0; i < 3; i++) {
      const said = d.ok(['snapshot', 'create', 'vol', 'mon']);
      assert.match(said, /^snapshot mon of vol: up to 8\.\d MiB in \/.*\/vol-mon\.cow$/m);
      d.ok([
        'snapshot',
        'create',
        'vol',
        'tue',
        '--cow',
        './t.cow',
        '--size',
        '1M',
        '--chunk',
        '4k',
      ]);
      await c.write(i * MIB, Buffer.alloc(65536, 2));
      d.ok(['export', 'add', 'mon', 'tue']);
      const [mon, tue] = [await bytesOf(d, 'mon'), await bytesOf(d, 'tue')];
      const before = ONES.map((byte, at) => (at < i ? 2 : byte)).slice(0, 7);
      assert.deepEqual(mon.slice(0, 7), before);
      assert.deepEqual(tue.slice(0, 7), before);
      d.ok(['export', 'remove', 'mon', 'tue']);
      const { writes } = seen;
      while (seen.writes === writes) await sleep(1);
      assert.equal(c.sizeBytes, DISK_BYTES);
      d.ok(['snapshot', 'delete', 'mon', '--force']);
      assert.equal(reports(d).length, 1);
      d.ok(['snapshot', 'delete', 'tue', '--force']);
      assert.deepEqual(
        tables(d),
        [`0 16384 linear disk 0`].map((line) => `vol: ${line}`),
      );
      assert.deepEqual(
        readdirSync(d.path).filter((name) => name.endsWith('.cow')),
        [],
      );
    }
    seen.isOver = true;
    await busy;
    await c.disconnect();
  });
});

test('list and status tell how full, how fast and how long; wait returns before it is full', async () => {
  await withDesk(async (d) => {
    d.ok(['snapshot', 'create', 'vol', 'mon', '--size', '1M', '--chunk', '4k']);
    d.ok(['snapshot', 'create', 'vol', 'all']);
    const event = d.begin(['wait', 'mon', '0']);
    const ended = once(event, 'exit');
    await write(d, 'vol', 2, 0, 256 * 1024);
    const [mon, all] = reports(d);
    assert.deepEqual([mon?.name, mon?.device, mon?.state], ['mon', 'vol', 'ACTIVE']);
    assert.ok((mon?.usedBytes ?? 0) >= 256 * 1024 && (mon?.bytesPerHour ?? 0) > 0);
    assert.ok((mon?.fullInSeconds ?? 0) > 0 && all?.fullInSeconds === null);
    const lines = d.ok(['snapshot', 'list', 'vol']);
    assert.match(lines, /^mon\tof vol\t2\d % full \(.* of 1 MiB\)\tfull in .* at this rate$/m);
    assert.match(lines, /^all\tof vol\t\d % full .*\thas room for all of the device$/m);
    assert.match(
      d.ok(['snapshot', 'status', 'mon']),
      /^ {2}rate .* an hour\n {2}forecast {2}full in/m,
    );
    await write(d, 'vol', 2, 256 * 1024, 640 * 1024);
    assert.deepEqual(await ended, [0, null]);
    assert.equal(reports(d)[0]?.state, 'ACTIVE');
    // Full: of no use any more, and the device does not suffer.
    await write(d, 'vol', 3, 2 * MIB, MIB);
    assert.equal(reports(d)[0]?.state, 'INVALID');
    assert.match(d.ok(['snapshot', 'list']), /^mon\tof vol\tINVALID, .*of no use any more$/m);
    assert.deepEqual((await bytesOf(d, 'vol')).slice(0, 4), [2, 1, 3, 1]);
    // Full of writes of its own, with --overflow: it can be read.
    d.ok(['snapshot', 'create', 'vol', 'own', '--size', '256k', '--chunk', '4k', '--overflow']);
    d.ok(['export', 'add', 'own']);
    await assert.rejects(write(d, 'own', 9, 0, MIB));
    assert.equal(reports(d).find(({ name }) => name === 'own')?.state, 'OVERFLOW');
    assert.equal((await bytesOf(d, 'own'))[1], 1);
    assert.match(d.refused(['snapshot', 'delete', 'own', '--force']), /busy/);
    assert.match(d.refused(['snapshot', 'status', 'vol']), /vol: is no snapshot/);
    assert.match(d.refused(['snapshot', 'list', 'nobody']), /nobody not found/);
  });
});

test('what is refused leaves all as it was', async () => {
  await withDesk(async (d) => {
    const before = [tables(d), readdirSync(d.path)];
    const same = (): void => assert.deepEqual([tables(d), readdirSync(d.path)], before);
    // No room for a store: known when the origin is there already.
    assert.match(d.refused(['snapshot', 'create', 'vol', 'mon', '--size', '16k']), /area 0/);
    same();
    assert.match(d.refused(['snapshot', 'create', 'vol', 'vol']), /vol: name already exists/);
    assert.match(d.refused(['snapshot', 'create', 'none', 'mon']), /none not found/);
    assert.match(
      d.refused(['snapshot', 'create', 'vol', 'mon', '--cow', 'disk']),
      /disk: exists already/,
    );
    assert.match(d.refused(['snapshot', 'create', 'vol', 'a/b']), /a\/b/);
    for (const bad of ['5k', '2k', '1M'])
      d.refused(['snapshot', 'create', 'vol', 'x', '--chunk', bad], '', {}, 2);
    assert.match(d.refused(['snapshot', 'delete', 'vol', '--force']), /vol: is no snapshot/);
    same();
    d.ok(['suspend', 'vol']);
    assert.match(
      d.refused(['snapshot', 'create', 'vol', 'mon']),
      /vol: is suspended: resume it first/,
    );
    d.ok(['resume', 'vol']);
    d.ok(['create', 'vol-real', '--table', '0 8 zero']);
    assert.match(d.refused(['snapshot', 'create', 'vol', 'mon']), /vol-real: name already exists/);
    d.ok(['remove', 'vol-real']);
    d.ok(['create', 'ro', '-r', '--table', '0 8 zero']);
    assert.match(d.refused(['snapshot', 'create', 'ro', 'mon']), /ro: is read-only/);
    d.ok(['remove', 'ro']);
    same();
    writeFileSync(join(d.path, 'empty'), '');
    d.ok(['snapshot', 'create', 'vol', 'mon', '--cow', 'empty']);
    assert.match(
      d.refused(['snapshot', 'delete', 'mon']),
      /mon: the snapshot of vol .* are lost; give --force/,
    );
    d.ok(['snapshot', 'delete', 'mon', '--force']);
    same();
  });
});

test('a snapshot has snapshots of its own', async () => {
  await withDesk(async (d) => {
    d.ok(['snapshot', 'create', 'vol', 'mon']);
    d.ok(['export', 'add', 'mon']);
    await write(d, 'mon', 5, 0, MIB);
    d.ok(['snapshot', 'create', 'mon', 'mon2']);
    await write(d, 'mon', 6, 0, MIB);
    await write(d, 'vol', 7, MIB, MIB);
    d.ok(['export', 'add', 'mon2']);
    const of = async (name: string): Promise<number[]> => (await bytesOf(d, name)).slice(0, 3);
    assert.deepEqual(
      [await of('vol'), await of('mon'), await of('mon2')],
      [
        [1, 7, 1],
        [6, 1, 1],
        [5, 1, 1],
      ],
    );
    assert.deepEqual(
      reports(d).map(({ name, device }) => `${name} of ${device}`),
      ['mon of vol', 'mon2 of mon'],
    );
    d.ok(['export', 'remove', 'mon', 'mon2']);
    assert.match(
      d.refused(['snapshot', 'delete', 'mon', '--force']),
      /mon: has snapshots of its own: delete mon2 first/,
    );
    d.ok(['snapshot', 'delete', 'mon2', '--force']);
    d.ok(['snapshot', 'delete', 'mon', '--force']);
    assert.deepEqual(tables(d), ['vol: 0 16384 linear disk 0']);
  });
});

test('two at once: both are done, or one is refused and leaves nothing', async () => {
  await withDesk(async (d) => {
    const at = async (...calls: readonly (readonly string[])[]): Promise<number[]> => {
      const ends = calls.map((args) => once(d.begin(['snapshot', ...args]), 'exit'));
      return (await Promise.all(ends)).map(([code]) => code as number);
    };
    const both = await at(['create', 'vol', 'mon'], ['create', 'vol', 'tue']);
    assert.deepEqual(both, [0, 0]);
    const same = await at(
      ['create', 'vol', 'wed', '--cow', 'a'],
      ['create', 'vol', 'wed', '--cow', 'b'],
    );
    assert.deepEqual(
      same.toSorted((x, y) => x - y),
      [0, 1],
    );
    assert.notEqual(existsSync(join(d.path, 'a')), existsSync(join(d.path, 'b')));
    await write(d, 'vol', 2, 0, MIB);
    const gone = await at(
      ['delete', 'mon', '--force'],
      ['delete', 'tue', '--force'],
      ['delete', 'wed', '--force'],
    );
    assert.deepEqual(gone, [0, 0, 0]);
    assert.deepEqual(tables(d), ['vol: 0 16384 linear disk 0']);
  });
});

test('snapshots outlive a daemon that is killed; a file that is gone keeps the device away', async () => {
  await withDesk(async (d, first) => {
    d.ok(['snapshot', 'create', 'vol', 'mon']);
    d.ok(['snapshot', 'create', 'vol', 'tue']);
    d.ok(['export', 'add', 'mon']);
    await write(d, 'vol', 2, 0, MIB);
    const second = await restart(d, first);
    assert.deepEqual([(await bytesOf(d, 'vol'))[0], (await bytesOf(d, 'mon'))[0]], [2, 1]);
    const away = join(d.path, 'away');
    renameSync(join(d.path, 'vol-mon.cow'), away);
    const third = await restart(d, second);
    assert.match(third.said(), /device vol could not be recreated: snapshot mon is missing: /);
    assert.match(d.ok(['snapshot', 'list']), /^mon\tof vol\tMISSING: .*vol-mon\.cow/m);
    assert.match(
      d.refused(['snapshot', 'create', 'vol', 'new']),
      /vol: is missing: snapshot mon is missing/,
    );
    await assert.rejects(bytesOf(d, 'vol'));
    d.ok(['snapshot', 'delete', 'mon', '--force']);
    assert.equal((await bytesOf(d, 'vol'))[0], 2);
    d.ok(['snapshot', 'delete', 'tue', '--force']);
    assert.deepEqual(tables(d), ['vol: 0 16384 linear disk 0']);
  });
});

test('a daemon that is killed in the middle has the old state or the new one, and goes on', async () => {
  await withDesk(async (d, first) => {
    let daemon = first;
    const cow = join(d.path, 'cows');
    mkdirSync(cow);
    for (let round = 0; round < 8; round++) {
      const isDelete = round % 2 === 1;
      const name = `s${round}`;
      const args = isDelete
        ? ['delete', name, '--force']
        : ['create', 'vol', name, '--cow', join(cow, name)];
      if (isDelete) d.ok(['snapshot', 'create', 'vol', name, '--cow', join(cow, name)]);
      const begun = d.begin(['snapshot', ...args]);
      const ended = once(begun, 'exit') as Promise<[number | null]>;
      await Promise.race([ended, sleep(200 + round * 25)]);
      daemon = await restart(d, daemon);
      const [code] = await ended;
      const there = reports(d).map((report) => report.name);
      if (code === 0) assert.equal(there.includes(name), !isDelete, `round ${round}`);
      assert.doesNotMatch(d.ok(['ls']), /MISSING/, `round ${round}`);
      assert.deepEqual(await bytesOf(d, 'vol'), ONES);
      for (const one of there) d.ok(['snapshot', 'delete', one, '--force']);
      rmSync(join(cow, name), { force: true });
      d.ok(['snapshot', 'create', 'vol', 'again']);
      d.ok(['snapshot', 'delete', 'again', '--force']);
      assert.deepEqual(tables(d), ['vol: 0 16384 linear disk 0'], `round ${round}`);
    }
  });
});

/** Writes wait, so that a merge takes a while: snapshot `mon` has every other chunk of 4 MiB. */
async function makeMerge(d: Desk, delayMs: number): Promise<void> {
  const slow = (ms: number): void => {
    d.ok(['load', 'slow', '--table', `0 16384 delay ./disk 0 0 ./disk 0 ${ms}`]);
    d.ok(['resume', 'slow']);
  };
  d.ok(['export', 'remove', 'vol']);
  d.ok(['remove', 'vol']);
  d.ok(['create', 'slow', '--table', '0 16384 delay ./disk 0 0 ./disk 0 0']);
  d.ok(['create', 'vol', '--table', '0 16384 linear slow 0']);
  d.ok(['export', 'add', 'vol']);
  d.ok(['snapshot', 'create', 'vol', 'mon', '--chunk', '4k']);
  d.ok(['snapshot', 'create', 'vol', 'tue']);
  await use(d, 'vol', async (c) => {
    for (let at = 0; at < 4 * MIB; at += 8192) await c.write(at, Buffer.alloc(4096, 2));
  });
  slow(delayMs);
}

const MERGED = ['slow: 0 16384 delay disk 0 0 disk 0 0', 'vol: 0 16384 linear slow 0'];

test('a merge gives a device its content back, under a client, and is gone in the end', async () => {
  await withDesk(async (d) => {
    await makeMerge(d, 0);
    assert.match(d.refused(['snapshot', 'merge', 'mon']), /mon: vol becomes what mon is.*--force/);
    d.ok(['export', 'add', 'mon']);
    assert.match(
      d.refused(['snapshot', 'merge', 'mon', '--force']),
      /mon: is in use: remove its exports/,
    );
    d.ok(['export', 'remove', 'mon']);
    assert.match(d.refused(['snapshot', 'merge', 'vol', '--force']), /vol: is no snapshot/);
    const c = await client(d, 'vol');
    const seen = { isOver: false };
    const busy = (async () => {
      for (let i = 0; !seen.isOver; i++) await c.write(7 * MIB, Buffer.alloc(4096, i % 251));
    })();
    assert.match(
      d.ok(['snapshot', 'merge', 'mon', '--force']),
      /^vol is what mon was; mon is gone$/m,
    );
    seen.isOver = true;
    await busy;
    assert.deepEqual((await bytesOf(d, 'vol')).slice(0, 7), ONES.slice(0, 7));
    await c.disconnect();
    assert.ok(!existsSync(join(d.path, 'vol-mon.cow')));
    // The other one is what it was.
    d.ok(['export', 'add', 'tue']);
    assert.deepEqual(await bytesOf(d, 'tue'), ONES);
    d.ok(['export', 'remove', 'tue']);
    d.ok(['snapshot', 'merge', 'tue', '--force']);
    assert.deepEqual(tables(d), MERGED);
    assert.deepEqual(
      readdirSync(d.path).filter((name) => name.endsWith('.cow')),
      [],
    );
  });
});

test('a merge goes on without who began it, and behind the end of the daemon', async () => {
  await withDesk(async (d, first) => {
    await makeMerge(d, 400);
    const begun = d.begin(['snapshot', 'merge', 'mon', '--force']);
    const ended = once(begun, 'exit');
    while (reports(d)[0]?.state !== 'MERGING') await sleep(10);
    begun.kill('SIGINT');
    assert.deepEqual(await ended, [0, null]);
    assert.equal(reports(d)[0]?.state, 'MERGING');
    assert.equal((await bytesOf(d, 'vol'))[0], 1, 'the device shows it from the beginning');
    assert.match(d.refused(['snapshot', 'delete', 'mon', '--force']), /mon: is being merged/);
    assert.match(
      d.refused(['snapshot', 'merge', 'tue', '--force']),
      /vol: another snapshot is being merged/,
    );
    assert.match(
      d.refused(['snapshot', 'create', 'vol', 'wed']),
      /vol: a snapshot is being merged into it/,
    );
    const second = await restart(d, first);
    assert.deepEqual(
      reports(d).map(({ name, state }) => `${name} ${state}`),
      ['mon MERGING', 'tue ACTIVE'],
    );
    const third = await restart(d, second);
    assert.match(
      d.ok(['snapshot', 'list']),
      /^mon\tof vol\tMERGING, .*goes when all of it is merged$/m,
    );
    d.ok(['load', 'slow', '--table', '0 16384 delay ./disk 0 0 ./disk 0 0']);
    d.ok(['resume', 'slow']);
    // Waits for it; of two who wait both hear of the end.
    const both = [1, 2].map(
      async () => await once(d.begin(['snapshot', 'merge', 'mon', '--force']), 'exit'),
    );
    const codes = (await Promise.all(both)).map(([code]) => code as number);
    assert.ok(codes.includes(0) || !existsSync(join(d.path, 'vol-mon.cow')), codes.join(' '));
    for (let i = 0; i < 3000 && existsSync(join(d.path, 'vol-mon.cow')); i++) await sleep(10);
    assert.deepEqual(await bytesOf(d, 'vol'), ONES);
    await restart(d, third);
    assert.deepEqual(await bytesOf(d, 'vol'), ONES);
    d.ok(['snapshot', 'delete', 'tue', '--force']);
    assert.deepEqual(tables(d), MERGED);
  });
});

test('a daemon that is killed while a merge begins or ends brings it to its end', async () => {
  await withDesk(async (d, first) => {
    let daemon = first;
    const cow = join(d.path, 'vol-mon.cow');
    for (let round = 0; round < 6; round++) {
      d.ok(['snapshot', 'create', 'vol', 'mon']);
      await write(d, 'vol', 2, 0, MIB);
      const begun = once(d.begin(['snapshot', 'merge', 'mon', '--force']), 'exit');
      await Promise.race([begun, sleep(250 + round * 25)]);
      daemon = await restart(d, daemon);
      await begun;
      // Not begun yet, under way, or over.
      const [left] = reports(d);
      if (left !== undefined) {
        const waits = once(d.begin(['snapshot', 'merge', 'mon', '--force']), 'exit');
        await waits;
      }
      for (let i = 0; i < 3000 && reports(d).length > 0; i++) await sleep(10);
      assert.deepEqual(reports(d), [], `round ${round}`);
      for (let i = 0; i < 3000 && d.ok(['table', 'vol']).includes('merge'); i++) await sleep(10);
      assert.deepEqual(await bytesOf(d, 'vol'), ONES, `round ${round}`);
      rmSync(cow, { force: true });
      d.ok(['snapshot', 'create', 'vol', 'again']);
      d.ok(['snapshot', 'delete', 'again', '--force']);
      assert.deepEqual(tables(d), ['vol: 0 16384 linear disk 0'], `round ${round}`);
    }
  });
});

test('a merge whose file is gone keeps the device away until the file is back', async () => {
  await withDesk(async (d, first) => {
    await makeMerge(d, 400);
    d.ok(['snapshot', 'merge', 'mon', '--force', '--background']);
    assert.match(d.ok(['snapshot', 'list']), /^mon\tof vol\tMERGING/m);
    first.kill('SIGKILL');
    await once(first, 'exit');
    const [file, away] = [join(d.path, 'vol-mon.cow'), join(d.path, 'away')];
    renameSync(file, away);
    await d.start();
    assert.match(d.ok(['snapshot', 'list']), /^mon\tof vol\tMISSING: .*vol-mon\.cow/m);
    assert.match(d.refused(['snapshot', 'delete', 'mon', '--force']), /its device needs the file/);
    await assert.rejects(bytesOf(d, 'vol'));
    renameSync(away, file);
    d.run(['retry']);
    d.run(['snapshot', 'merge', 'mon', '--force']);
    assert.deepEqual(await bytesOf(d, 'vol'), ONES);
    assert.deepEqual(
      reports(d).map(({ name }) => name),
      ['tue'],
    );
  });
});

test('any device can have snapshots, whatever its table is, and keeps what its targets know', async () => {
  await withDesk(async (d) => {
    writeFileSync(join(d.path, 'other'), Buffer.alloc(24 * MIB));
    d.ok(['compress', 'format', 'other', '--force']);
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    d.ok(['thin', 'create', 'p', 'thin', '--size', '8M']);
    const key = '5'.repeat(64);
    const all: Readonly<Record<string, string>> = {
      parts: '0 8192 linear vol 0\n8192 8192 zero',
      small: '0 16384 insitu_comp ./other writeback 5',
      secret: `0 16384 crypt aes-xts-plain64 ${key} 0 memory:k?size=8M 0`,
    };
    for (const [name, table] of Object.entries(all)) {
      d.ok(['create', name], table);
    }
    for (const name of ['thin', ...Object.keys(all)]) {
      d.ok(['export', 'add', name]);
      const before = d.ok(['table', name, '--showkeys']);
      await use(d, name, async (c) => {
        await c.write(0, Buffer.alloc(MIB, 3));
        d.ok(['snapshot', 'create', name, 'mon', '--cow', 'mon.cow']);
        await c.write(0, Buffer.alloc(MIB / 2, 4));
        await c.flush();
        assert.equal((await c.read(0, 512))[0], 4, name);
        assert.equal(d.ok(['table', `${name}-real`, '--showkeys']), before);
        d.ok(['export', 'add', 'mon']);
        assert.equal((await bytesOf(d, 'mon'))[0], 3, name);
        d.ok(['export', 'remove', 'mon']);
        d.ok(['snapshot', 'merge', 'mon', '--force']);
        assert.equal((await c.read(0, 512))[0], 3, name);
        await c.write(2 * MIB, Buffer.alloc(4096, 5));
        await c.flush();
        assert.equal((await c.read(2 * MIB, 512))[0], 5, name);
      });
      assert.equal(d.ok(['table', name, '--showkeys']), before);
    }
    assert.match(
      d.refused(['snapshot', 'create', 'p', 'x']),
      /p: is a thin pool: .*lamina thin snapshot/,
    );
    d.ok(['export', 'remove', 'thin']);
    d.ok(['thin', 'snapshot', 'thin', 'copy']);
    // Under another name it gets its table back all the same.
    d.ok(['snapshot', 'create', 'copy', 'mon']);
    d.ok(['rename', 'copy', 'renamed']);
    d.ok(['snapshot', 'delete', 'mon', '--force']);
    assert.match(d.ok(['table', 'renamed']), /thin p 2/);
  });
});
