// What somebody at a terminal sees where a command waits for them: what is waited for, and that Ctrl-Z stops it as it
// stops any other program.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { desk } from '../../src/testing/daemon-desk.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const SKIP = existsSync('/usr/bin/script') ? false : 'needs script(1)';
const HANGS_MS = 60_000;

/** A shell with job control in a terminal of its own. */
class Terminal {
  readonly #child: ChildProcess;
  #seen = '';

  constructor(t: TestContext, folder: string) {
    const env = { ...process.env, PS1: '', XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: folder };
    this.#child = spawn('script', ['-qfc', 'bash --norc --noprofile -i', '/dev/null'], {
      cwd: folder,
      env,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#child.stdout?.on('data', (chunk: Buffer) => (this.#seen += chunk.toString()));
    t.after(() => this.#child.kill('SIGKILL'));
  }

  type(keys: string): void {
    this.#child.stdin?.write(keys);
  }

  /** Waits until it is there, and takes everything up to its end. */
  async sees(pattern: RegExp): Promise<string> {
    for (const until = Date.now() + HANGS_MS; ; ) {
      const found = pattern.exec(this.#seen);
      if (found !== null) {
        const all = this.#seen.slice(0, found.index + found[0].length);
        this.#seen = this.#seen.slice(all.length);
        return all;
      }
      assert.ok(Date.now() < until, `waits for ${pattern.source}, has: ${this.#seen}`);
      await sleep(10);
    }
  }
}

test('a table that is read from the terminal is asked for', { skip: SKIP }, async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  const terminal = new Terminal(t, d.path);
  terminal.type(`'${process.execPath}' '${LAMINA}' create nothing\n`);
  await terminal.sees(/Reading the table from the terminal; end with Ctrl-D\./);
  terminal.type('0 8 zero\n\x04');
  terminal.type('echo "it said $?"\n');
  await terminal.sees(/it said 0/);
  assert.equal(d.ok(['table', 'nothing']), '0 8 zero \n');
});

test('Ctrl-Z at a passphrase stops the program, and shows what is typed until it goes on', {
  skip: SKIP,
}, async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  const image = join(folder.path, 'v.img');
  spawnSync('truncate', ['-s', '32M', image]);
  const cost = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '-q', '--key-file', '-'];
  const made = spawnSync(process.execPath, [LAMINA, 'luks', 'format', image, ...cost], {
    input: 'sesame',
  });
  assert.equal(made.status, 0, String(made.stderr));
  const terminal = new Terminal(t, folder.path);
  terminal.type(`'${process.execPath}' '${LAMINA}' luks test-passphrase '${image}'\n`);
  await terminal.sees(/passphrase.*: /i);
  terminal.type('half a word\x1a');
  await terminal.sees(/Stopped/);
  terminal.type(
    'echo "is $(stty -a | grep -ow -e echo -e -echo -e icanon -e -icanon | tr "\\n" " ")"\n',
  );
  await terminal.sees(/is (?:icanon echo|echo icanon) \r/);
  terminal.type('fg\n');
  assert.doesNotMatch(await terminal.sees(/passphrase.*: /i), /half/);
  // What was typed before the stop does not count.
  terminal.type('sesame\n');
  assert.doesNotMatch(await terminal.sees(/\n/), /sesame/);
  terminal.type('echo "it said $?"\n');
  await terminal.sees(/it said 0/);
});

test('Ctrl-D at a passphrase gives up, nothing is changed; an empty line is an empty passphrase', {
  skip: SKIP,
}, async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  const image = join(folder.path, 'v.img');
  writeFileSync(image, Buffer.alloc(20 << 20));
  const terminal = new Terminal(t, folder.path);
  const cost = '--pbkdf pbkdf2 --pbkdf-force-iterations 1000';
  const type = (verb: string): void => {
    terminal.type(`'${process.execPath}' '${LAMINA}' luks ${verb}\n`);
  };
  const says = async (what: RegExp, status: number): Promise<void> => {
    await terminal.sees(what);
    terminal.type('echo "it said $?"\n');
    await terminal.sees(new RegExp(`it said ${status}\\r`));
  };
  const gaveUp = /no passphrase: the input has ended; nothing is changed\r/;
  const format = `format v.img -q ${cost}`;
  type(format);
  await terminal.sees(/Enter passphrase.*: /);
  terminal.type('\x04');
  await says(gaveUp, 1);
  type(format);
  await terminal.sees(/Enter passphrase.*: /);
  terminal.type('\n');
  await terminal.sees(/Verify passphrase: /);
  terminal.type('\x04');
  await says(gaveUp, 1);
  assert.ok(readFileSync(image).equals(Buffer.alloc(20 << 20)));
  type(format);
  await terminal.sees(/Enter passphrase.*: /);
  terminal.type('\n');
  await terminal.sees(/Verify passphrase: /);
  terminal.type('\n');
  await says(/the new passphrase is empty/, 0);
  type('test-passphrase v.img');
  await terminal.sees(/Enter passphrase.*: /);
  terminal.type('\x04');
  await says(gaveUp, 1);
});
