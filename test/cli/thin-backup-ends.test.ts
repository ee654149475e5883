// Backups and restores that do not come to their end: what they leave, and how they go on.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk, type RunningDaemon } from '../../src/testing/daemon-desk.ts';

const MIB = 1024 * 1024;

async function withVolume(work: (d: Desk, daemon: RunningDaemon) => Promise<void>): Promise<void> {
  const d = desk();
  try {
    const daemon = await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '16M']);
    d.ok(['export', 'add', 'vol']);
    const socket = join(d.path, 'lamina', 'nbd.sock');
    const uri = `nbd+unix:///vol?socket=${socket}`;
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 12M', '-c', 'flush', uri]);
    await work(d, daemon);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
}

test('after a repair of the pool a snapshot is no base any more', async () => {
  await withVolume(async (d) => {
    d.ok(['thin', 'backup', 'vol', 'full', '--keep', 'mon']);
    d.ok(['thin', 'backup', 'vol', 'inc', '--since', 'mon']);
    d.ok(['stop']);
    writeFileSync(join(d.path, 'new'), Buffer.alloc(16 * MIB));
    d.ok(['pool', 'repair', 'meta', 'new']);
    renameSync(join(d.path, 'new'), join(d.path, 'meta'));
    await d.start();
    const said = d.refused(['thin', 'backup', 'vol', 'no', '--since', 'mon']);
    assert.match(said, /--since mon: has the state .*, but was backed up as .* need a full backup/);
    assert.ok(!existsSync(join(d.path, 'no')));
  });
});

function devices(d: Desk): string[] {
  const lines = d.ok(['ls']).trim().split('\n');
  return lines.map((line) => line.split('\t')[0] ?? '').sort();
}

test('a backup that is killed leaves a snapshot, which the next one deletes', async () => {
  await withVolume(async (d) => {
    const killed = d.begin(['thin', 'backup', 'vol', '-']);
    await once(killed.stdout, 'readable');
    // Nobody reads on, so the backup is in the middle.
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    assert.equal(devices(d).length, 3);
    const exports = d.ok(['export', 'list']);
    assert.match(exports, /lamina-backup-/);
    d.ok(['thin', 'backup', 'vol', 'good']);
    assert.deepEqual(devices(d), ['p', 'vol']);
    assert.doesNotMatch(d.ok(['export', 'list']), /lamina-backup-/);
    const [report] = JSON.parse(d.ok(['pool', 'status', 'p', '--json'])) as {
      volumes: unknown[];
    }[];
    assert.equal(report?.volumes.length, 1);
  });
});

test('what a backup leaves that is killed at its beginning is deleted, and nothing else', async () => {
  await withVolume(async (d) => {
    const note = (id: number, start: number): void => {
      const name = `lamina-backup-note-1-${start}`;
      const table = ['--table', '0 8 linear p 0'];
      d.ok(['create', name, '--uuid', `${name}:${id}`, ...table]);
    };
    // A device without a table; a note of a snapshot that is not made; one that is; one of a volume that is in use.
    d.ok(['create', 'lamina-backup-1-1', '--notable']);
    note(9, 1);
    note(5, 2);
    d.ok(['message', 'p', '0', 'create_snap', '5', '1']);
    note(1, 3);
    // Of a volume that is somebody's, as it was a device.
    d.ok(['thin', 'snapshot', 'vol', 'asleep']);
    d.ok(['thin', 'deactivate', 'asleep']);
    note(2, 4);
    d.ok(['thin', 'backup', 'vol', 'full']);
    assert.deepEqual(devices(d), ['p', 'vol']);
    const volumes = JSON.parse(d.ok(['thin', 'list', 'p', '--json'])) as { id: number }[];
    assert.deepEqual(new Set(volumes.map(({ id }) => id)), new Set([1, 2]));
    d.ok(['thin', 'verify', 'full']);
  });
});

test('a backup with --keep that is killed keeps nothing', async () => {
  await withVolume(async (d) => {
    const killed = d.begin(['thin', 'backup', 'vol', '-', '--keep', 'mon']);
    await once(killed.stdout, 'readable');
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    assert.ok(!devices(d).includes('mon'), 'what is not whole is no base');
    d.ok(['thin', 'backup', 'vol', 'full', '--keep', 'mon']);
    assert.deepEqual(devices(d), ['mon', 'p', 'vol']);
    d.ok(['thin', 'backup', 'vol', 'inc', '--since', 'mon']);
    d.ok(['thin', 'verify', 'full', 'inc']);
  });
});

test('a backup whose daemon is killed fails, and what it has left is deleted later', async () => {
  await withVolume(async (d, daemon) => {
    const backup = d.begin(['thin', 'backup', 'vol', '-', '--keep', 'mon']);
    await once(backup.stdout, 'readable');
    daemon.kill('SIGKILL');
    await once(daemon, 'exit');
    let said = '';
    backup.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    backup.stdout.resume();
    const [status] = (await once(backup, 'close')) as [number];
    assert.equal(status, 1, said);
    assert.match(
      said,
      /^lamina: lamina-backup-\S+: a snapshot is left, which the next backup .*\nlamina: no daemon at/,
    );
    await d.start();
    assert.ok(!devices(d).includes('mon'));
    d.ok(['thin', 'backup', 'vol', 'good']);
    assert.deepEqual(devices(d), ['p', 'vol']);
    assert.equal(d.ok(['thin', 'list', 'p']).trim().split('\n').length, 1);
    d.ok(['thin', 'verify', 'good']);
  });
});

test('a backup that is told to end leaves nothing', async () => {
  await withVolume(async (d) => {
    const child = d.begin(['thin', 'backup', 'vol', '-', '--keep', 'kept']);
    await once(child.stdout, 'readable');
    child.kill('SIGTERM');
    child.stdout.resume();
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    const [status] = (await once(child, 'close')) as [number];
    assert.equal(status, 1);
    assert.equal(said, 'lamina: interrupted\n');
    assert.deepEqual(devices(d), ['p', 'vol']);
    // A reader that goes away ends it as well.
    const piped = d.begin(['thin', 'backup', 'vol', '-']);
    await once(piped.stdout, 'readable');
    piped.stdout.destroy();
    const [code] = (await once(piped, 'exit')) as [number];
    assert.equal(code, 141);
    assert.deepEqual(devices(d), ['p', 'vol']);
    assert.ok(!existsSync(join(d.path, '-.partial')));
  });
});

test('a file has its name only when all of it is restored', async () => {
  await withVolume(async (d) => {
    const at = (name: string): string => join(d.path, name);
    d.ok(['thin', 'backup', 'vol', 'full']);
    const bad = readFileSync(at('full'));
    bad[6 * MIB] = (bad[6 * MIB] ?? 0) ^ 1;
    writeFileSync(at('bad'), bad);
    const said = d.refused(['thin', 'restore', 'bad', './new.img']);
    assert.match(said, /^lamina: bad: /m);
    assert.match(
      said,
      /^lamina: \.\/new\.img\.partial: is incomplete; .* --resume goes on with it$/m,
    );
    assert.ok(!existsSync(at('new.img')));
    // What is left is not overwritten unasked, and can be gone on with.
    const again = d.refused(['thin', 'restore', 'full', './new.img']);
    assert.match(
      again,
      /new\.img\.partial: holds something; --force overwrites it, --resume goes on/,
    );
    const words = ['thin', 'restore', 'full', './new.img', '--resume', '--json'];
    const done = JSON.parse(d.ok(words)) as { to: string; keptBytes: number };
    assert.equal(done.to, './new.img');
    assert.ok(done.keptBytes >= 4 * MIB, `${done.keptBytes}`);
    assert.ok(!existsSync(at('new.img.partial')));
    d.ok(['thin', 'restore', 'full', './whole.img']);
    const whole = readFileSync(at('whole.img'));
    assert.equal(whole.length, 16 * MIB);
    assert.ok(whole.subarray(0, 12 * MIB).equals(Buffer.alloc(12 * MIB, 7)));
    assert.ok(readFileSync(at('new.img')).equals(whole));
    // A file that is there keeps its name, so the message says what it is.
    const over = d.refused(['thin', 'restore', 'bad', './whole.img', '--force']);
    assert.match(over, /^lamina: \.\/whole\.img: is incomplete; .* --resume goes on with it$/m);
    assert.ok(!existsSync(at('whole.img.partial')));
    d.ok(['thin', 'restore', 'full', './whole.img', '--resume']);
    assert.ok(readFileSync(at('whole.img')).equals(whole));
    // An increment has nothing to go onto.
    d.ok(['thin', 'backup', 'vol', 'mon', '--keep', 'mon']);
    d.ok(['thin', 'backup', 'vol', 'inc', '--since', 'mon']);
    const [{ state }] = JSON.parse(d.ok(['thin', 'verify', 'mon', '--json'])) as [
      { state: string },
    ];
    const onto = ['thin', 'restore', 'inc', './none.img', '--onto', state];
    assert.match(d.refused(onto), /none\.img: no such file; --onto needs one/);
    assert.ok(!existsSync(at('none.img')) && !existsSync(at('none.img.partial')));
    // Standard output has no places to write to.
    assert.match(
      d.refused(['thin', 'restore', 'full', '-'], '', {}, 2),
      /restore: - is no place to restore to: .* need a device or a file/,
    );
    assert.ok(!existsSync(at('-')) && !existsSync(at('-.partial')));
  });
});

test('a restore that was cut off goes on, and writes only what is missing', async () => {
  await withVolume(async (d) => {
    d.ok(['thin', 'backup', 'vol', 'full']);
    const bytes = readFileSync(join(d.path, 'full'));
    writeFileSync(join(d.path, 'half'), bytes.subarray(0, 6 * MIB + 1000));
    d.ok(['thin', 'create', 'p', 'again', '--size', '16M']);
    const cut = d.begin(['thin', 'restore', '-', 'again']);
    cut.stdin.end(bytes.subarray(0, 6 * MIB + 1000));
    let said = '';
    cut.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    const [status] = (await once(cut, 'close')) as [number];
    assert.equal(status, 1);
    assert.match(said, /standard input: byte \d+: the stream is cut off/);
    assert.match(said, /^lamina: again: is incomplete; .* --resume goes on with it$/m);
    assert.match(
      d.refused(['thin', 'restore', 'full', 'again']),
      /again: holds something; --force/,
    );
    const done = JSON.parse(d.ok(['thin', 'restore', 'full', 'again', '--resume', '--json'])) as {
      writtenBytes: number;
      zeroedBytes: number;
      keptBytes: number;
    };
    // Data of whole records that had come, and the hole at the end.
    assert.ok(done.keptBytes >= (5 + 4) * MIB, `${done.keptBytes}`);
    assert.equal(done.keptBytes + done.writtenBytes + done.zeroedBytes, 16 * MIB);
    d.ok(['export', 'add', 'again']);
    const socket = join(d.path, 'lamina', 'nbd.sock');
    const [a, b] = ['vol', 'again'].map((name) => `nbd+unix:///${name}?socket=${socket}`);
    execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', String(a), String(b)]);
    assert.match(d.refused(['thin', 'restore', 'full', 'p', '--force']), /is in use/);
  });
});

test('what a restore goes on with, or over, is proven, or somebody says so', async () => {
  await withVolume(async (d) => {
    const at = (name: string): string => join(d.path, name);
    const socket = join(d.path, 'lamina', 'nbd.sock');
    const io = (name: string, ...commands: string[]): void => {
      const words = commands.flatMap((c) => ['-c', c]);
      const uri = `nbd+unix:///${name}?socket=${socket}`;
      const said = execFileSync('qemu-io', ['-f', 'raw', ...words, uri], { encoding: 'utf8' });
      assert.doesNotMatch(said, /failed|error/i);
    };
    d.ok(['thin', 'backup', 'vol', 'full', '--keep', 'mon']);
    io('vol', 'write -P 8 2M 64k', 'write -P 0 6M 64k', 'flush');
    d.ok(['thin', 'backup', 'vol', 'inc', '--since', 'mon', '--keep', 'tue']);
    const states = JSON.parse(d.ok(['thin', 'verify', 'full', 'inc', '--json'])) as {
      state: string;
    }[];
    const mon = states[0]?.state ?? '';

    // A live volume with other data is left as it is, to the last sector.
    d.ok(['thin', 'create', 'p', 'live', '--size', '16M']);
    d.ok(['export', 'add', 'live']);
    io('live', 'write -P 7 0 4M', `write -P 9 ${16 * MIB - 512} 512`, 'flush');
    for (const chain of [['full'], ['full', 'inc']]) {
      const said = d.refused(['thin', 'restore', ...chain, 'live', '--resume']);
      assert.match(said, /live: at byte 16776704 it has what no restore .*; give --force/);
    }
    const piped = d.begin(['thin', 'restore', '-', 'live', '--resume']);
    piped.stdin.on('error', () => undefined);
    piped.stdin.end(readFileSync(at('full')));
    let said = '';
    piped.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    assert.equal((await once(piped, 'close'))[0], 1);
    assert.match(said, /live: holds something, and a backup .* pipe .*give --force/);
    const claimed = d.refused(['thin', 'restore', 'inc', 'live', '--onto', mon]);
    assert.match(claimed, /live: nothing proves that it has the state .*; give --force/);
    io('live', 'read -P 7 0 4M', 'read -P 0 4M 1M', `read -P 9 ${16 * MIB - 512} 512`);

    // The same of files, also of another size, which stay as long as they are.
    for (const bytes of [16 * MIB, MIB]) {
      writeFileSync(at('live.img'), Buffer.alloc(bytes, 5));
      for (const how of [
        ['full', '--resume'],
        ['inc', '--onto', mon],
      ]) {
        const [from = '', ...options] = how;
        const said = d.refused(['thin', 'restore', from, './live.img', ...options]);
        assert.match(said, /live\.img: .*give --force/);
      }
      assert.ok(readFileSync(at('live.img')).equals(Buffer.alloc(bytes, 5)));
    }

    // A snapshot of the one that was kept has its state, until it is written to.
    for (const name of ['good', 'written']) {
      d.ok(['thin', 'snapshot', 'mon', name]);
      d.ok(['export', 'add', name]);
    }
    io('written', 'write -P 3 0 512', 'flush');
    d.refused(['thin', 'restore', 'inc', 'written', '--onto', mon]);
    d.ok(['thin', 'restore', 'inc', 'good', '--onto', mon]);
    const [a, b] = ['vol', 'good'].map((name) => `nbd+unix:///${name}?socket=${socket}`);
    execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', String(a), String(b)]);
    // What a chain has left is gone on with, also where its increments are in part; and on trust anything.
    d.ok(['thin', 'restore', 'full', 'inc', 'good', '--resume']);
    d.ok(['thin', 'restore', 'full', 'inc', 'live', '--resume', '--force']);
    d.ok(['thin', 'restore', 'inc', 'written', '--onto', mon, '--force']);
    io('live', 'read -P 8 2M 64k', 'read -P 0 15M 1M');
  });
});

test('what cannot end well is refused before anything is written', async () => {
  await withVolume(async (d) => {
    const at = (name: string): string => join(d.path, name);
    assert.match(d.refused(['thin', 'backup', 'vol', 'x', '--keep', 'a/b']), /device name 'a\/b'/);
    for (const name of ['x', 'x.partial']) assert.ok(!existsSync(at(name)), name);
    d.ok(['thin', 'backup', 'vol', 'full', '--keep', 'mon']);
    for (const words of [
      ['backup', 'vol', ''],
      ['restore', 'full', ''],
    ]) {
      assert.match(d.refused(['thin', ...words], '', {}, 2), /TO is empty/);
      assert.ok(!existsSync(at('.partial')));
    }
    const said = d.refused(['thin', 'restore', 'full', 'mon', '--force']);
    assert.match(said, /^lamina: device mon: is read-only/);
    assert.doesNotMatch(said, /incomplete/);
    assert.match(d.refused(['thin', 'backup', 'vol', '.']), /\.: need a file, or -/);
    // What checks options says the same of words: one line, without where it came from.
    for (const words of [
      ['delete', 'p', 'x'],
      ['activate', 'p', 'x'],
      ['diff', 'meta', '1', 'x'],
    ]) {
      const wrong = d.refused(['thin', ...words], '', {}, 2);
      assert.match(wrong, /^lamina: 'x': expected a thin id of 0 to \d+\n$/);
    }
  });
});

test('a restore has its device to itself until it ends', async () => {
  await withVolume(async (d) => {
    d.ok(['thin', 'backup', 'vol', 'full']);
    const bytes = readFileSync(join(d.path, 'full'));
    const restore = d.begin(['thin', 'restore', '-', 'vol', '--force']);
    // What fails is told by what the test finds, not by a pipe.
    restore.stdin.on('error', () => undefined);
    // The restore is in the middle, and waits for the rest.
    restore.stdin.write(bytes.subarray(0, 6 * MIB));
    const isAlone = (): boolean => /lamina-restore-\S+.*\t1 conn/.test(d.ok(['export', 'list']));
    while (!isAlone()) assert.equal(restore.exitCode, null);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    const write = ['-f', 'raw', '-c', 'write -P 9 0 1M', uri];
    assert.throws(
      () => execFileSync('qemu-io', write, { stdio: 'pipe' }),
      /Permission denied|read-only/i,
    );
    const held = /device vol: export 'lamina-restore-\S+' has it to itself/;
    assert.match(d.refused(['thin', 'resize', 'vol', '--size', '32M']), held);
    assert.match(d.refused(['suspend', 'vol']), held);
    assert.match(d.refused(['create', 'over', '--table', '0 8 linear vol 0']), held);
    assert.match(
      d.refused(['thin', 'restore', 'full', 'vol', '--force']),
      /vol: (?:is in use|.* has it to itself)/,
    );
    restore.stdin.end(bytes.subarray(6 * MIB));
    assert.deepEqual(await once(restore, 'exit'), [0, null]);
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'read -P 7 0 12M', uri]);
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 1M', uri]);
    d.ok(['thin', 'resize', 'vol', '--size', '32M']);
  });
});

test("an interruption ends a restore to a suspended device; what a killed one leaves is in nobody's way", async () => {
  await withVolume(async (d) => {
    d.ok(['thin', 'backup', 'vol', 'full']);
    d.ok(['thin', 'create', 'p', 'still', '--size', '16M']);
    for (const [signal, status] of [
      ['SIGINT', 1],
      ['SIGTERM', 1],
      ['SIGKILL', null],
    ] as const) {
      d.ok(['suspend', 'still']);
      const restore = d.begin(['thin', 'restore', 'full', 'still', '--force']);
      let said = '';
      restore.stderr.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
      await once(restore.stderr, 'data');
      assert.match(said, /waiting for device still: .* is suspended/);
      restore.kill(signal);
      assert.equal(((await once(restore, 'close')) as [number | null])[0], status, said);
      if (status !== null) assert.match(said, /is incomplete.*\nlamina: interrupted\n$/);
      const left = /lamina-restore-/;
      assert.equal(left.test(d.ok(['export', 'list'])), status === null);
      d.ok(['resume', 'still']);
    }
    d.ok(['thin', 'delete', 'still']);
    assert.doesNotMatch(d.ok(['export', 'list']), /lamina-/);
  });
});

test('links are followed, and a bare word without a daemon is no new file', async () => {
  await withVolume(async (d) => {
    const at = (name: string): string => join(d.path, name);
    mkdirSync(at('disk'));
    for (const name of ['full', 'img']) symlinkSync(`disk/${name}`, at(`${name}.link`));
    d.ok(['thin', 'backup', 'vol', 'full.link']);
    d.ok(['thin', 'backup', 'vol', 'full.link', '--force']);
    d.ok(['thin', 'restore', 'full.link', './img.link']);
    assert.deepEqual(readdirSync(at('disk')).sort(), ['full', 'img']);
    for (const name of ['full', 'img'])
      assert.equal(readlinkSync(at(`${name}.link`)), `disk/${name}`);
    assert.match(d.refused(['thin', 'restore', '', 'vol'], '', {}, 2), /FROM is empty/);
    d.ok(['thin', 'create', 'p', 'old', '--size', '16M']);
    d.ok(['thin', 'deactivate', 'old']);
    assert.match(
      d.refused(['thin', 'delete', 'old']),
      /old: is not active; .*: lamina thin delete p 2\n/,
    );
    d.ok(['thin', 'delete', 'p', '2']);
    const odd = ['pool', 'create', 'q', '--data', 'qd', '--metadata', 'qm', '--size', '10M'];
    assert.match(
      d.refused([...odd, '--block', '100k'], '', {}, 2),
      /--block 102400: need a multiple of 65536/,
    );
    d.ok(['stop']);
    assert.match(d.refused(['thin', 'restore', 'disk/full', 'vol']), /say \.\/vol for a new file/);
    assert.ok(!existsSync(at('vol')));
    d.ok(['thin', 'restore', 'disk/full', './vol']);
    d.ok(['thin', 'restore', 'disk/full', 'vol', '--force']);
  });
});

test('a device that is busy with the I/O of an export that is gone says so', async () => {
  await withVolume(async (d) => {
    d.ok(['pool', 'create', 'q', '--data', 'd2', '--metadata', 'm2', '--size', '1M']);
    d.ok(['thin', 'create', 'q', 'tight', '--size', '16M']);
    d.ok(['export', 'add', 'tight']);
    const uri = `nbd+unix:///tight?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    const client = spawn('qemu-io', ['-f', 'raw', '-c', 'write 0 4M', uri], { stdio: 'ignore' });
    const isFull = (): boolean => / out_of_data_space /.test(d.ok(['status', 'q', '--noflush']));
    while (!isFull()) assert.equal(client.exitCode, null);
    d.ok(['export', 'remove', 'tight', '--force']);
    client.kill('SIGKILL');
    const said = d.refused(['remove', 'tight']);
    assert.match(
      said,
      /tight: Device or resource busy \(exported; \d+ requests in it are not done/,
    );
    d.ok(['pool', 'grow', 'q', '--size', '16M']);
  });
});
