// Two commands at once that want the same volume: one gets it, the other is told who has it.

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { callDaemon } from '../../src/daemon/call-daemon.ts';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

/** Half of the times both come through the first look, which each command takes. */
const TRIES = 3;

/** The name of the device that is there in the end; the other command must be refused. */
async function race(d: Desk, refusal: RegExp, a: string[], b: string[]): Promise<number> {
  const both = [d.begin(a), d.begin(b)];
  const said = both.map(() => '');
  for (const [i, { stderr }] of both.entries()) stderr.on('data', (text) => (said[i] += text));
  const ended = async (child: ChildProcess): Promise<unknown> => (await once(child, 'close'))[0];
  const codes = await Promise.all(both.map(ended));
  assert.deepEqual(
    codes.toSorted((x, y) => Number(x) - Number(y)),
    [0, 1],
    `${codes.join()}: ${said.join()}`,
  );
  assert.match(said.join(''), refusal);
  return codes.indexOf(0);
}

test('a LUKS volume is opened once, a thin volume is activated once', async () => {
  const d = desk();
  try {
    await d.start();
    writeFileSync(join(d.path, 'k'), 'secret');
    const key = ['--key-file', 'k'];
    writeFileSync(join(d.path, 'img'), Buffer.alloc(32 << 20));
    d.ok(['luks', 'format', 'img', '-q', ...key, '--pbkdf', 'pbkdf2', '--iter-time', '10']);
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '16M']);
    d.ok(['thin', 'create', 'p', 'v', '--size', '1M']);
    d.ok(['thin', 'deactivate', 'v']);
    for (let i = 0; i < TRIES; i++) {
      const open = (name: string): string[] => ['luks', 'open', 'img', name, ...key];
      const opened = await race(d, /: is open already, as device [ab]$/m, open('a'), open('b'));
      d.ok(['luks', 'close', opened === 0 ? 'a' : 'b']);
      const activate = (name: string): string[] => [
        'thin',
        'activate',
        'p',
        '1',
        name,
        '--size',
        '1M',
      ];
      const active = await race(d, /is active already, as [vw]$/m, activate('v'), activate('w'));
      d.ok(['thin', 'deactivate', active === 0 ? 'v' : 'w']);
    }
  } finally {
    await d.end();
  }
});

test('a pool that is grown twice at once has what the larger call was told it has', async () => {
  const d = desk();
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '16M']);
    for (let i = 1; i <= TRIES; i++) {
      const sizes = [16 * i + 4, 16 * i + 8, 16 * i + 12];
      const all = sizes.map((mib) => d.begin(['pool', 'grow', 'p', '--size', `${mib}M`]));
      const codes = await Promise.all(
        all.map(async (child) => (await once(child, 'close'))[0] as number),
      );
      // Smaller ones that come later are refused; the largest is never taken back.
      assert.equal(codes[2], 0, codes.join());
      const [{ dataBytes }] = JSON.parse(d.ok(['pool', 'status', 'p', '--json'])) as [
        { dataBytes: number },
      ];
      assert.equal(dataBytes, (sizes[2] ?? 0) << 20);
    }
  } finally {
    await d.end();
  }
});

test('of two restores at once to one volume at most one writes', async () => {
  const d = desk();
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    const uri = `nbd+unix:///v?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    d.ok(['thin', 'create', 'p', 'v', '--size', '4M']);
    d.ok(['export', 'add', 'v']);
    for (const i of [1, 2]) {
      execFileSync('qemu-io', ['-f', 'raw', '-c', `write -P ${i} 0 4M`, '-c', 'flush', uri]);
      d.ok(['thin', 'backup', 'v', `b${i}`]);
    }
    for (let i = 0; i < TRIES; i++) {
      d.ok(['thin', 'create', 'p', 'to', '--size', '4M']);
      const both = ['b1', 'b2'].map((from) => d.begin(['thin', 'restore', from, 'to']));
      const codes = await Promise.all(
        both.map(async (child) => (await once(child, 'close'))[0] as number),
      );
      const won = codes.indexOf(0);
      assert.equal(codes.filter((code) => code === 0).length <= 1, true, codes.join());
      if (won !== -1) {
        d.ok(['thin', 'backup', 'to', 'again', '--force']);
        d.ok(['thin', 'restore', 'again', './img', '--force']);
        assert.ok(readFileSync(join(d.path, 'img')).every((byte) => byte === won + 1));
      }
      d.ok(['thin', 'delete', 'to']);
    }
  } finally {
    await d.end();
  }
});

test('what lists devices does not mind that others are removed meanwhile', async () => {
  const d = desk();
  try {
    await d.start();
    const socket = join(d.path, 'lamina', 'control.sock');
    const looks = [
      ['table'],
      ['status'],
      ['info'],
      ['deps'],
      ['ls', '--tree'],
      ['ls', '--target', 'zero'],
      ['pool', 'status'],
      ['snapshot', 'list'],
    ];
    for (const look of looks) {
      const names = Array.from({ length: 60 }, (_, i) => `d${i}`);
      for (const name of names) await callDaemon(socket, 'create', { name, table: '0 8 zero' });
      const child = d.begin(look);
      let said = '';
      child.stderr.on('data', (text) => (said += text));
      const ended = once(child, 'close');
      // The last first, while the list is gone through from its beginning.
      while (child.exitCode === null && names.length > 0) {
        await callDaemon(socket, 'remove', names.pop() as string);
        await sleep(5);
      }
      assert.equal((await ended)[0], 0, `${look.join(' ')}: ${said}`);
      for (const name of names) await callDaemon(socket, 'remove', name);
    }
  } finally {
    await d.end();
  }
});
