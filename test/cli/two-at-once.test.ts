// Two commands at once that want the same volume: one gets it, the other is told who has it.

import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
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
