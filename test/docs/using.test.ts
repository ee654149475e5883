// What docs/using.md promises where a page cannot be followed: the service's file, and lamina in another project.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { blocksOf, ROOT } from './pages.ts';

function folderFor(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'using-'));
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 }));
  return folder;
}

test('the unit is one that systemd takes, and what it starts is a daemon that ends well', async (t) => {
  const folder = folderFor(t);
  const env = {
    ...process.env,
    HOME: folder,
    PATH: `${join(ROOT, 'bin')}:${process.env['PATH']}`,
    XDG_RUNTIME_DIR: folder,
    XDG_STATE_HOME: folder,
  };
  const page = blocksOf('docs/using.md', join(ROOT, 'docs/using.md'));
  const block = page.find(({ lines }) => lines.some((l) => l.includes('lamina.service <<')));
  spawnSync('bash', ['-c', (block?.lines ?? []).join('\n')], { env });
  const path = join(folder, '.config/systemd/user/lamina.service');
  const unit = readFileSync(path, 'utf8');
  const verified = spawnSync('systemd-analyze', ['verify', '--user', path], {
    env,
    encoding: 'utf8',
  });
  if (verified.error === undefined) assert.equal(verified.status, 0, verified.stderr);
  else t.diagnostic('not verified: there is no systemd-analyze');
  const value = (name: string): string => new RegExp(`^${name}=(.*)$`, 'm').exec(unit)?.[1] ?? '';
  const [program = '', ...args] = value('ExecStart').split(' ');
  const daemon = spawn(program, args, { env: { ...env, PATH: '/usr/bin:/bin' } });
  t.after(() => daemon.kill('SIGKILL'));
  const [ready] = (await once(daemon.stdout, 'data')) as [Buffer];
  assert.match(String(ready), /^nbd\+unix:/);
  daemon.kill(value('KillSignal') as NodeJS.Signals);
  assert.deepEqual(await once(daemon, 'exit'), [0, null]);
});

test('a project outside the clone that installs it imports both entries', (t) => {
  const project = folderFor(t);
  mkdirSync(join(project, 'src'));
  writeFileSync(join(project, 'package.json'), '{ "name": "other", "type": "module" }\n');
  writeFileSync(
    join(project, 'src', 'try.js'),
    `import { openStack } from 'lamina';
import * as testing from 'lamina/testing';
const stack = await openStack('d,,,rw,0 2048 linear memory:a?size=1M 0');
const disk = await stack.open('d');
console.log(disk.sizeBytes, Object.keys(testing).length > 0);
await disk.close();
await stack.close();
`,
  );
  const run = (program: string, ...args: readonly string[]): string => {
    const done = spawnSync(program, args, { cwd: project, encoding: 'utf8' });
    assert.equal(done.status, 0, done.stderr);
    return done.stdout;
  };
  run('npm', 'install', '--offline', '--no-audit', '--no-fund', ROOT);
  assert.equal(run('node', 'src/try.js'), '1048576 true\n');
  assert.match(run('npx', '--offline', 'lamina', '--version'), /^\d+\.\d+\.\d+\n$/);
});
