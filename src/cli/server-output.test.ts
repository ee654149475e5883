// Lines of a server: whoever reads them, or does not, they never wait and never throw.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ServerOutput } from './server-output.ts';

const folder = mkdtempSync(join(tmpdir(), 'lamina-output-'));
after(() => rmSync(folder, { recursive: true }));

/** A pipe by name: both ends, the reading one non-blocking. */
function pipe(name: string): { readonly reader: number; readonly writer: number } {
  const path = join(folder, name);
  execFileSync('mkfifo', [path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return { reader, writer: openSync(path, constants.O_WRONLY) };
}

function readAll(fd: number): string {
  const buffer = Buffer.alloc(1 << 20);
  let length = 0;
  for (;;) {
    try {
      const n = readSync(fd, buffer, length, buffer.length - length, null);
      if (n === 0) break;
      length += n;
    } catch (error) {
      assert.equal((error as { code?: string }).code, 'EAGAIN');
      break;
    }
  }
  return buffer.toString('utf8', 0, length);
}

test('a line for people is one line, shown and not sent to the terminal', () => {
  const path = join(folder, 'log');
  const fd = openSync(path, 'a');
  new ServerOutput(fd).log('client a\u001b[2J\nb');
  assert.equal(readFileSync(path, 'utf8'), 'lamina: client a\\x1b[2J\\nb\n');
  closeSync(fd);
});

test('a pipe that nobody reads loses lines, never part of one, and says how many', () => {
  const { reader, writer } = pipe('full');
  const output = new ServerOutput(writer);
  const line = 'x'.repeat(1000);
  for (let i = 0; i < 100; i++) output.log(line);
  assert.ok(output.lost > 0);
  const { lost } = output;
  const got = readAll(reader).trimEnd().split('\n');
  assert.equal(got.length + lost, 100);
  for (const text of got) assert.equal(text, `lamina: ${line}`);
  output.log('again');
  assert.equal(readAll(reader), `lamina: ${lost} lines before this one were lost\nlamina: again\n`);
  assert.equal(output.lost, 0);
  closeSync(writer);
  closeSync(reader);
});

test('a pipe whose reader has gone, a full disk and a closed descriptor lose every line', async () => {
  const { reader, writer } = pipe('dead');
  closeSync(reader);
  const closed = openSync('/dev/null', 'w');
  closeSync(closed);
  const full = openSync('/dev/full', 'w');
  for (const fd of [writer, full, closed]) {
    const output = new ServerOutput(fd);
    output.log('one');
    output.log('two');
    assert.equal(output.lost, 2);
    assert.equal(await output.deliver('ready\n'), false);
  }
  closeSync(writer);
  closeSync(full);
});

test('what a program waits for is delivered whole to a reader that takes its time', async () => {
  const { reader, writer } = pipe('slow');
  const text = `${'y'.repeat(200_000)}\n`;
  const delivered = new ServerOutput(writer).deliver(text);
  let got = '';
  while (got.length < text.length) {
    got += readAll(reader);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(got, text);
  assert.equal(await delivered, true);
  closeSync(writer);
  closeSync(reader);
});

test('a line is cut to what a pipe takes at once', () => {
  const { reader, writer } = pipe('long');
  new ServerOutput(writer).log('z'.repeat(10_000));
  const got = readAll(reader);
  assert.equal(got.length, 4096);
  assert.ok(got.endsWith('z...\n'));
  closeSync(writer);
  closeSync(reader);
});
