// Backups and restores where something runs out: the file's space, standard output's, the pool's, the process's life. And
// backups of a volume that is written to and snapshotted meanwhile.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  linkSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';
import { SEED } from '../../src/testing/seed.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const MIB = 1024 * 1024;

const XML =
  '<superblock uuid="" time="0" transaction="1" data_block_size="128" nr_data_blocks="100">\n' +
  '</superblock>\n';

async function withVolume(work: (d: Desk) => Promise<void>): Promise<void> {
  const d = desk();
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '16M']);
    d.ok(['export', 'add', 'vol']);
    await work(d);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
}

/** What a shell does with `lamina` in it, which is to fail: its standard error. */
function refusedBy(d: Desk, script: string): string {
  const env = { ...process.env, XDG_RUNTIME_DIR: d.path, XDG_STATE_HOME: d.path };
  const whole = `lamina() { "${process.execPath}" "${LAMINA}" "$@"; }; ${script}`;
  const done = spawnSync('bash', ['-c', whole], { env, cwd: d.path, encoding: 'utf8' });
  assert.equal(done.status, 1, `${script}: ${done.stdout}${done.stderr}`);
  return done.stderr;
}

function devices(d: Desk): string[] {
  const lines = d.ok(['ls']).trim().split('\n');
  return lines.map((line) => line.split('\t')[0] ?? '').sort();
}

function uriOf(d: Desk, name: string): string {
  return `nbd+unix:///${name}?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
}

function contents(d: Desk, name: string): Buffer {
  d.ok(['export', 'add', 'look', '--device', name, '--read-only']);
  const path = join(d.path, 'copy');
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uriOf(d, 'look'), path]);
  d.ok(['export', 'remove', 'look']);
  return readFileSync(path);
}

function mappedBytes(d: Desk, pool: string): number {
  const listed = JSON.parse(d.ok(['thin', 'list', pool, '--json'])) as { mappedBytes: number }[];
  return listed.reduce((sum, volume) => sum + volume.mappedBytes, 0);
}

test('what does not fit is an error that leaves nothing, and a restore goes on later', async () => {
  await withVolume(async (d) => {
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 6M', '-c', 'flush', uriOf(d, 'vol')]);
    const limited = 'ulimit -f 1024; lamina thin';
    assert.match(refusedBy(d, `${limited} backup vol full`), /^lamina: full: .*too large/m);
    assert.match(
      refusedBy(d, 'lamina thin backup vol - >/dev/full'),
      /standard output: .*No space left/,
    );
    // Tools of metadata say what, where and why, too.
    writeFileSync(join(d.path, 'pool.xml'), XML);
    writeFileSync(join(d.path, 'out'), '');
    truncateSync(join(d.path, 'out'), 16 * MIB);
    assert.match(
      refusedBy(d, 'ulimit -f 4; lamina pool restore pool.xml out'),
      /^lamina: out: cannot write block \d+: File too large \(.*ulimit -f.*\)$/m,
    );
    for (const name of ['full', 'full.partial']) assert.ok(!existsSync(join(d.path, name)), name);
    assert.deepEqual(devices(d), ['p', 'vol']);

    d.ok(['thin', 'backup', 'vol', 'full']);
    const expected = contents(d, 'vol');
    const made = refusedBy(d, `${limited} restore full ./made.img`);
    assert.match(made, /made.img.partial: .*too large/);
    for (const name of ['made.img', 'made.img.partial']) {
      assert.ok(!existsSync(join(d.path, name)), name);
    }
    writeFileSync(join(d.path, 'half.img'), '');
    truncateSync(join(d.path, 'half.img'), 16 * MIB);
    assert.match(refusedBy(d, `${limited} restore full ./half.img`), /half.img/);
    d.ok(['thin', 'restore', 'full', './half.img', '--resume']);
    assert.ok(readFileSync(join(d.path, 'half.img')).equals(expected));

    const files = ['--data', 'data2', '--metadata', 'meta2', '--error-if-no-space'];
    d.ok(['pool', 'create', 'q', ...files, '--size', '4M']);
    d.ok(['thin', 'create', 'q', 'r', '--size', '16M']);
    assert.match(
      d.refused(['thin', 'restore', 'full', 'r']),
      /^lamina: device r: cannot (write|flush).*: No space left on device \(make room there/m,
    );
    assert.match(d.refused(['thin', 'restore', 'full', 'r']), /holds something/);
    d.ok(['pool', 'grow', 'q', '--size', '32M']);
    d.ok(['thin', 'restore', 'full', 'r', '--resume']);
    assert.ok(contents(d, 'r').equals(expected));
  });
});

test('a restore that is killed is resumed, and its export goes', async () => {
  await withVolume(async (d) => {
    execFileSync('qemu-io', ['-f', 'raw', '-c', 'write -P 7 0 6M', '-c', 'flush', uriOf(d, 'vol')]);
    d.ok(['thin', 'backup', 'vol', 'full']);
    d.ok(['thin', 'create', 'p', 'again', '--size', '16M']);
    const before = mappedBytes(d, 'p');
    const killed = d.begin(['thin', 'restore', '-', 'again']);
    killed.stdin.on('error', () => undefined);
    killed.stdin.write(readFileSync(join(d.path, 'full')).subarray(0, 4 * MIB));
    while (mappedBytes(d, 'p') === before) await sleep(50);
    killed.kill('SIGKILL');
    await once(killed, 'exit');
    assert.match(d.ok(['export', 'list']), /lamina-restore-/);
    d.ok(['thin', 'restore', 'full', 'again', '--resume']);
    assert.doesNotMatch(d.ok(['export', 'list']), /lamina-restore-/);
    assert.ok(contents(d, 'again').equals(contents(d, 'vol')));
  });
});

const PIECE = 4096;
const PIECES = 1024;

/** Writes one piece after the other, each with its number, until it is stopped. */
class Writer {
  /** Where the writes went, in order. */
  readonly places: number[] = [];
  ended = 0;
  readonly #client: NbdClient;
  readonly #prng: Prng;
  readonly #work: Promise<void>;
  #isStopped = false;

  constructor(client: NbdClient, prng: Prng) {
    this.#client = client;
    this.#prng = prng;
    this.#work = this.#run();
    this.#work.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#work;
    await this.#client.disconnect();
  }

  async #run(): Promise<void> {
    while (!this.#isStopped) {
      const place = this.#prng.below(PIECES);
      this.places.push(place);
      const data = new Uint32Array(PIECE / 4).fill(this.places.length);
      await this.#client.write(place * PIECE, new Uint8Array(data.buffer));
      this.ended++;
    }
  }

  /** How many writes the image has; it must be the first ones, all of them whole. */
  writesIn(image: Buffer): number {
    const numbers = new Uint32Array(PIECES);
    for (let place = 0; place < PIECES; place++) {
      const piece = image.subarray(place * PIECE, (place + 1) * PIECE);
      const number = piece.readUInt32LE();
      const whole = new Uint32Array(PIECE / 4).fill(number);
      assert.ok(piece.equals(new Uint8Array(whole.buffer)), `piece ${place} is torn`);
      numbers[place] = number;
    }
    const count = Math.max(...numbers);
    const expected = new Uint32Array(PIECES);
    for (let i = 0; i < count; i++) expected[this.places[i] ?? 0] = i + 1;
    assert.deepEqual(numbers, expected, `the first ${count} writes, and nothing else`);
    return count;
  }
}

/** Runs a command while the writer goes on; answers how many writes had ended, and begun, around it. */
async function beside(
  d: Desk,
  writer: Writer,
  args: readonly string[],
): Promise<{ readonly least: number; readonly most: number }> {
  const least = writer.ended;
  const child = d.begin(args);
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  child.stdout.resume();
  const [status] = (await once(child, 'close')) as [number];
  assert.equal(status, 0, `${args.join(' ')}: ${said}`);
  return { least, most: writer.places.length };
}

test(`backups of a volume in use have it as it was at one moment, LAMINA_SEED=${SEED}`, async () => {
  await withVolume(async (d) => {
    const path = join(d.path, 'lamina', 'nbd.sock');
    const client = await NbdClient.connect({ path }, { exportName: 'vol' });
    const writer = new Writer(client, new Prng(SEED));
    const bounds = [];
    bounds.push(await beside(d, writer, ['thin', 'backup', 'vol', '0', '--keep', 's0']));
    await beside(d, writer, ['thin', 'snapshot', 'vol', 'other']);
    const [first] = await Promise.all([
      beside(d, writer, ['thin', 'backup', 'vol', '1', '--since', 's0', '--keep', 's1']),
      beside(d, writer, ['thin', 'snapshot', 'vol', 'third']),
      beside(d, writer, ['thin', 'diff', 's0', 'vol']),
    ]);
    bounds.push(first);
    await beside(d, writer, ['thin', 'delete', 'other']);
    bounds.push(await beside(d, writer, ['thin', 'backup', 'vol', '2', '--since', 's1']));
    await writer.stop();
    for (const [i, { least, most }] of bounds.entries()) {
      const chain = ['0', '1', '2'].slice(0, i + 1);
      d.ok(['thin', 'restore', ...chain, `./${i}.img`]);
      const count = writer.writesIn(readFileSync(join(d.path, `${i}.img`)));
      assert.ok(count >= least && count <= most, `${count} writes, of ${least} to ${most}`);
    }
    assert.ok((bounds[2]?.least ?? 0) > (bounds[0]?.least ?? 0), 'it was written to meanwhile');
  });
});

test('neither a file in use nor the backup itself is overwritten, not even by force', async () => {
  await withVolume(async (d) => {
    linkSync(join(d.path, 'meta'), join(d.path, 'link'));
    for (const file of ['meta', 'data', 'link']) {
      const said = d.refused(['thin', 'backup', 'vol', file, '--force']);
      assert.match(said, new RegExp(`${file}: .*is open elsewhere: lamina daemon \\(PID`));
    }
    d.ok(['thin', 'backup', 'vol', 'full']);
    const before = readFileSync(join(d.path, 'full'));
    symlinkSync('full', join(d.path, 'same'));
    for (const to of ['full', 'same']) {
      assert.match(d.refused(['thin', 'restore', 'full', to, '--force']), /is the backup itself/);
    }
    assert.match(refusedBy(d, 'lamina thin restore - full --force <full'), /is the backup itself/);
    assert.ok(readFileSync(join(d.path, 'full')).equals(before));
    d.ok(['thin', 'backup', 'vol', 'full', '--force']);
    assert.deepEqual(devices(d), ['p', 'vol']);
  });
});
