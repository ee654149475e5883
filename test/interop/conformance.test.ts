// `lamina conformance` from outside: servers that keep their promises pass, servers that do not are found.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { SEED } from '../../src/testing/seed.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const run = promisify(execFile);

interface Result {
  readonly code: number;
  readonly failed: readonly string[];
  readonly passed: readonly string[];
  readonly text: string;
}

async function conformance(...args: string[]): Promise<Result> {
  const all = ['conformance', '--json', '--seed', String(SEED), ...args];
  const { code, stdout, stderr } = await run(LAMINA, all, { timeout: 240_000 }).then(
    (done) => ({ code: 0, ...done }),
    (error: { code: number; stdout: string; stderr: string }) => error,
  );
  const outcomes = stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { check?: string; result?: string });
  const named = (result: string): string[] =>
    outcomes.filter((o) => o.result === result).map((o) => o.check ?? '');
  return { code, failed: named('failed'), passed: named('passed'), text: stdout + stderr };
}

const ALL = ['data', 'edges', 'zeroes', 'extents', 'stable', 'flush', 'fua', 'crash'];

const GOOD = [
  ['nbdkit', 'nbdkit -f -U {socket} nbd {backing}'],
  [
    'nbdkit, its cache filter written through',
    'nbdkit -f -U {socket} --filter=cache nbd {backing} cache=writethrough',
  ],
  ['qemu-nbd', 'qemu-nbd -t -k {socket} -f raw {backing}'],
  ['lamina, uring or node', `'${LAMINA}' serve {backing} --unix {socket}`],
  ['lamina, node', `'${LAMINA}' serve {backing} --engine node --unix {socket}`],
  [
    'lamina, two layers',
    `'${LAMINA}' serve --unix {socket} --table "0 8192 striped 1 8 $(echo {backing}) 0"`,
  ],
  ...['uring', 'node'].map(
    (engine) =>
      [
        `lamina, encrypted, ${engine}`,
        `'${LAMINA}' serve --unix {socket} --engine ${engine === 'uring' ? 'auto' : engine} ` +
          `--table "0 8192 crypt aes-xts-plain64 ${'5a'.repeat(64)} 0 $(echo {backing}) 0"`,
      ] as const,
  ),
] as const;

for (const [name, command] of GOOD) {
  test(`${name} passes, LAMINA_SEED=${SEED}`, async () => {
    const result = await conformance('--serve', command);
    assert.deepEqual(result.passed, ALL, result.text);
    assert.equal(result.code, 0);
  });
}

test(`a server that acknowledges flush without doing it is found, LAMINA_SEED=${SEED}`, async () => {
  const command = 'nbdkit -f -U {socket} --filter=cache nbd {backing} cache=unsafe';
  const result = await conformance('--serve', command);
  assert.equal(result.code, 1);
  assert.ok(result.failed.includes('flush'), result.text);
  assert.ok(result.failed.includes('fua'), result.text);
  assert.deepEqual(
    result.passed.filter((name) => name === 'data' || name === 'edges'),
    ['data', 'edges'],
  );
});

test(`a server that calls what it has in its cache a hole is found, LAMINA_SEED=${SEED}`, async () => {
  // The filter asks what is below the cache, where the data will be after a flush.
  const command = 'nbdkit -f -U {socket} --filter=cache nbd {backing}';
  const load = ['--only', 'extents', '--scale', '160'];
  const result = await conformance(...load, '--serve', command);
  assert.deepEqual(result.failed, ['extents'], result.text);
  assert.match(result.text, /is called empty/);
});

test(`a server that writes through and never flushes is found, LAMINA_SEED=${SEED}`, async () => {
  // The filter drops flush requests and the FUA flag.
  const command = 'nbdkit -f -U {socket} --filter=fua nbd {backing} fuamode=discard';
  const result = await conformance('--serve', command);
  assert.equal(result.code, 1, result.text);
  assert.ok(result.failed.includes('flush') && result.failed.includes('fua'), result.text);
  assert.ok(result.passed.includes('data'), result.text);
});

test(`nbdkit's error filter is found, LAMINA_SEED=${SEED}`, async () => {
  const command = 'nbdkit -f -U {socket} --filter=error memory 8M error-rate=2%';
  const result = await conformance('--serve', command);
  assert.equal(result.code, 1);
  assert.ok(result.failed.includes('data'), result.text);
  // Where it shows up depends on which requests it hits.
  assert.match(result.text, /(ended with EIO|: EIO|: Input\/output error)/);
});

test('a simulated table passes everything, a wrong call changes nothing', async () => {
  const table = ['--table', '0 2048 striped 2 8 sim:a 0 sim:b 0'];
  const result = await conformance(...table, '--disk', 'a=1024', '--disk', 'b=1024');
  assert.equal(result.code, 0, result.text);
  assert.equal(result.failed.length, 0);
  for (const args of [[], ['x.img'], ['--serve', 'nbdkit memory'], ['--only', 'nothing', 'x']]) {
    const refused = await conformance(...args);
    assert.equal(refused.code, 2, refused.text);
    assert.match(
      refused.text,
      /conformance: (give one of|overwrites)|--serve|--only nothing: no such/,
    );
  }
});
