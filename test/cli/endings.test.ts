// Ends `lamina serve` and `lamina daemon` in every way, at random moments under load: each signal, two of them,
// a closed terminal, a log that nobody reads, SIGKILL, and all of that while they start. Whatever it was: the
// process is gone within seconds, the exit status tells, no socket, folder or lock is left, and what clients
// were promised is there.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { callDaemon } from '../../src/daemon/call-daemon.ts';
import { Status } from '../../src/base/status.ts';
import { lockData } from '../../src/io/data-lock.ts';
import { EndingLoad, LOAD_BLOCK_BYTES } from '../../src/testing/ending-load.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';
import { SEED } from '../../src/testing/seed.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const BLOCKS = 64;
const SECTORS = (BLOCKS * LOAD_BLOCK_BYTES) / 512;
/** However it ends. */
const BOUND_MS = 10_000;
const ENGINES = ['uring', 'node'] as const;
const prng = new Prng(SEED);
const children: ChildProcess[] = [];
after(() => {
  for (const child of children) child.kill('SIGKILL');
});

interface Way {
  readonly name: string;
  /** Exit statuses that are right; null when a signal may have ended the process. */
  readonly statuses: readonly (number | null)[];
  readonly isKilled?: boolean;
  /** How the server's stderr is: read, without a reader, or full. */
  readonly stderr?: 'dead' | 'full';
  end(server: Started): Promise<void>;
}

interface Started {
  readonly child: ChildProcess;
  readonly exited: Promise<{ status: number | null; text: string }>;
  /** The ready line, or undefined when the process ended without one. */
  readonly ready: Promise<string | undefined>;
}

const send = (...signals: readonly NodeJS.Signals[]): Pick<Way, 'name' | 'statuses' | 'end'> => ({
  name: signals.join(' and '),
  statuses: [0],
  end: async ({ child }) => {
    for (const signal of signals) {
      child.kill(signal);
      await sleep(prng.below(50));
    }
  },
});

const WAYS: readonly Way[] = [
  send('SIGTERM'),
  send('SIGINT'),
  send('SIGHUP'),
  send('SIGQUIT'),
  send('SIGINT', 'SIGTERM'),
  send('SIGTERM', 'SIGHUP', 'SIGINT'),
  send('SIGUSR1', 'SIGUSR2', 'SIGPIPE', 'SIGTERM'),
  {
    name: 'two signals far apart',
    // The first may have been enough.
    statuses: [0, 1],
    end: async ({ child }) => {
      child.kill('SIGTERM');
      await sleep(210);
      child.kill('SIGTERM');
    },
  },
  { ...send('SIGTERM'), name: 'SIGTERM, stderr without a reader', stderr: 'dead' },
  { ...send('SIGTERM'), name: 'SIGTERM, stderr full', stderr: 'full' },
  { ...send('SIGKILL'), statuses: [null], isKilled: true },
];

/** Starts it; `stderr` as in Way. */
function start(args: readonly string[], folder: string, stderr?: Way['stderr']): Started {
  const child = spawn(process.execPath, [LAMINA, ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: folder, TMPDIR: folder },
  });
  children.push(child);
  let text = '';
  let out = '';
  if (stderr === 'dead') child.stderr?.destroy();
  // A pipe that is never read is full in the end.
  else if (stderr === undefined)
    child.stderr?.on('data', (d: Buffer) => void (text += d.toString()));
  const ready = new Promise<string | undefined>((resolve) => {
    child.stdout?.on('data', (d: Buffer) => {
      out += d.toString();
      if (out.includes('\n')) resolve(out.slice(0, out.indexOf('\n')));
    });
    child.once('close', () => resolve(undefined));
    child.once('exit', () => setImmediate(resolve, undefined));
  });
  const exited = new Promise<{ status: number | null; text: string }>((resolve) => {
    child.once('exit', (status) => setImmediate(() => resolve({ status, text })));
  });
  return { child, exited, ready };
}

async function withinBound<T>(what: string, promise: Promise<T>, child: ChildProcess): Promise<T> {
  const late = sleep(BOUND_MS, undefined, { ref: false }).then(() => {
    child.kill('SIGKILL');
    assert.fail(`${what}: still there after ${BOUND_MS / 1000} s (LAMINA_SEED=${SEED})`);
  });
  return await Promise.race([promise, late]);
}

/** Clients that hang up at once, so that there is something to log. */
async function rudeClients(socketPath: string, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const socket = connect(socketPath);
    await new Promise<void>((resolve) => {
      socket.once('error', () => resolve());
      socket.once('connect', () => {
        socket.write('rude'.repeat(4));
        socket.end(resolve);
      });
    });
    socket.destroy();
  }
}

async function checkNothingIsLeft(
  folder: string,
  files: readonly string[],
  isKilled: boolean,
): Promise<void> {
  for (const file of files) {
    const fd = openSync(join(folder, file), 'r+');
    // The kernel takes a ring apart behind the back of a process that was killed, and its files with it.
    const until = Date.now() + (isKilled ? BOUND_MS : 0);
    let isFree = lockData(fd, false) === Status.Ok;
    while (!isFree && Date.now() < until) {
      await sleep(5);
      isFree = lockData(fd, false) === Status.Ok;
    }
    assert.ok(isFree, `${file} is locked`);
    closeSync(fd);
  }
  const odd = readdirSync(folder).filter((n) => /^\.nbd-|^lamina-/.test(n) || n.endsWith('.sock'));
  if (!isKilled) assert.deepEqual(odd, [], 'sockets and folders');
  for (const name of odd) rmSync(join(folder, name), { recursive: true });
}

function blockOf(path: string): (i: number) => Buffer {
  const data = readFileSync(path);
  return (i) => data.subarray(i * LOAD_BLOCK_BYTES, (i + 1) * LOAD_BLOCK_BYTES);
}

function makeFolder(): string {
  const folder = makeTestFolder();
  after(() => folder.remove());
  for (const file of ['disk', 'meta', 'data']) {
    writeFileSync(join(folder.path, file), '');
    truncateSync(join(folder.path, file), file === 'meta' ? 1 << 20 : SECTORS * 512 * 2);
  }
  return folder.path;
}

async function endServer(
  way: Way,
  engine: string,
  folder: string,
  load: EndingLoad,
): Promise<void> {
  const socket = join(folder, 'nbd.sock');
  const args = ['serve', 'disk', '--unix', socket, '--engine', engine];
  const server = start(args, folder, way.stderr);
  assert.ok((await server.ready) !== undefined, 'ready');
  await load.start(socket);
  if (way.stderr !== undefined) await rudeClients(socket, 60);
  await sleep(20 + prng.below(80));
  await way.end(server);
  const { status, text } = await withinBound(way.name, server.exited, server.child);
  await load.ended();
  assert.ok(way.statuses.includes(status), `exit status ${status}: ${text}`);
  if (status === 0) assert.equal(text, '', 'nothing to say');
  await checkNothingIsLeft(folder, ['disk'], way.isKilled === true);
  // The kernel has what was acknowledged, whatever became of the process.
  await load.check(blockOf(join(folder, 'disk')), { isKilled: false });
}

for (const engine of ENGINES) {
  test(`serve, engine ${engine}`, async (t) => {
    const folder = makeFolder();
    const load = new EndingLoad(BLOCKS, prng);
    for (const way of WAYS) await t.test(way.name, () => endServer(way, engine, folder, load));
    assert.ok(load.writes > 100 && load.flushes > 20, `${load.writes} writes, LAMINA_SEED=${SEED}`);
  });

  test(`serve, engine ${engine}: a signal while it starts leaves nothing behind`, async () => {
    const folder = makeFolder();
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      const server = start(['serve', 'disk', '--engine', engine], folder);
      await sleep(prng.below(700));
      server.child.kill(signal);
      const { status, text } = await withinBound(signal, server.exited, server.child);
      // Before the program has begun, a signal ends it as it ends every process.
      assert.ok(status === 0 || status === null, `exit status ${status}: ${text}`);
      assert.equal(text, '');
      await checkNothingIsLeft(folder, ['disk'], false);
    }
  });
}

test('serve in a terminal that is closed ends in order', async (t) => {
  if (!existsSync('/usr/bin/script')) {
    t.skip('needs script(1)');
    return;
  }
  const folder = makeFolder();
  const socket = join(folder, 'nbd.sock');
  for (const engine of ENGINES) {
    const call = `exec '${process.execPath}' '${LAMINA}' serve disk --json --unix '${socket}' --engine ${engine}`;
    const terminal = spawn('script', ['-qfc', call, '/dev/null'], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    const pid = await new Promise<number>((resolve) => {
      let out = '';
      terminal.stdout.on('data', (d: Buffer) => {
        out += d.toString();
        const found = /"pid":(\d+)/.exec(out);
        if (found !== null) resolve(Number(found[1]));
      });
    });
    const load = new EndingLoad(BLOCKS, prng);
    await load.start(socket);
    await sleep(50);
    // Who has the terminal goes away: the kernel hangs up on everybody in it.
    terminal.kill('SIGKILL');
    const until = Date.now() + BOUND_MS;
    while (isAlive(pid)) {
      assert.ok(Date.now() < until, `still there after ${BOUND_MS / 1000} s`);
      await sleep(10);
    }
    await load.ended();
    await checkNothingIsLeft(folder, ['disk'], false);
    await load.check(blockOf(join(folder, 'disk')), { isKilled: false });
    writeFileSync(join(folder, 'disk'), Buffer.alloc(SECTORS * 1024));
  }
});

function isAlive(pid: number): boolean {
  try {
    // A zombie that nobody has waited for yet is gone, too.
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

for (const engine of ENGINES) {
  test(`daemon over a thin pool, engine ${engine}`, async () => {
    const folder = makeFolder();
    const at = (name: string): string => join(folder, 'lamina', name);
    const load = new EndingLoad(BLOCKS, prng);
    const all = ['SIGTERM', 'SIGKILL', 'SIGHUP', 'SIGKILL', 'SIGINT'] as const;
    let isKilled = false;
    for (const [round, signal] of all.entries()) {
      const server = start(['daemon', '--engine', engine], folder);
      assert.ok((await server.ready) !== undefined, 'ready');
      if (round === 0) await makeThin(at('control.sock'), folder);
      const devices = await callDaemon(at('control.sock'), 'list');
      const names = devices.map((d) =>
        d.reason === undefined ? d.name : `${d.name}: ${d.reason}`,
      );
      assert.deepEqual(names.toSorted(), ['pool', 'volume']);
      const reader = await NbdClient.connect({ path: at('nbd.sock') }, { exportName: 'volume' });
      const read = (i: number): Promise<Buffer> =>
        reader.read(i * LOAD_BLOCK_BYTES, LOAD_BLOCK_BYTES);
      await load.check(read, { isKilled });
      await reader.disconnect();
      await load.start(at('nbd.sock'), 'volume');
      await sleep(20 + prng.below(150));
      server.child.kill(signal);
      const { status, text } = await withinBound(signal, server.exited, server.child);
      await load.ended();
      isKilled = signal === 'SIGKILL';
      assert.equal(status, isKilled ? null : 0, text);
      await checkNothingIsLeft(folder, ['meta', 'data'], isKilled);
      if (!isKilled) assert.ok(!existsSync(at('control.sock')) && !existsSync(at('nbd.sock')));
    }
    assert.ok(load.writes > 50 && load.flushes > 10, `${load.writes} writes, LAMINA_SEED=${SEED}`);
  });
}

async function makeThin(control: string, folder: string): Promise<void> {
  const pool = `0 ${SECTORS} thin-pool ${join(folder, 'meta')} ${join(folder, 'data')} 128 0`;
  await callDaemon(control, 'create', { name: 'pool', table: pool });
  await callDaemon(control, 'message', 'pool', 0, 'create_thin 1');
  await callDaemon(control, 'create', { name: 'volume', table: `0 ${SECTORS} thin pool 1` });
  await callDaemon(control, 'createExport', { name: 'volume', device: 'volume' });
}
