// `lamina replay` on logs that the target has written and on logs made by hand: lists, parts of a log,
// checks, crash states, and logs that are none.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { encodeLogHeader, encodeLogSuper, LogFlag } from '../../src/format/log-writes.ts';
import { type Disk, type OpenedStack, openLog, openStack, replay } from '../../src/index.ts';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const MIB = 1 << 20;
const folder = makeTestFolder();
process.on('exit', () => folder.remove());

function at(name: string): string {
  return join(folder.path, name);
}

function sized(name: string, bytes: number): string {
  writeFileSync(at(name), '');
  truncateSync(at(name), bytes);
  return at(name);
}

interface Called {
  readonly status: number | null;
  readonly out: string;
  readonly err: string;
}

function lamina(...args: string[]): Called {
  const done = spawnSync(process.execPath, [LAMINA, 'replay', ...args], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  return { status: done.status, out: done.stdout, err: done.stderr };
}

/** Runs `work` on a device of `bytes` whose changes are logged in `<name>.log`. */
async function logged(
  name: string,
  bytes: number,
  work: (disk: Disk, stack: OpenedStack) => Promise<void>,
): Promise<{ readonly log: string; readonly data: string }> {
  const data = sized(`${name}.data`, bytes);
  const log = sized(`${name}.log`, 8 * MIB);
  const stack = await openStack(`d,,,rw,0 ${bytes / 512} log-writes ${data} ${log}`);
  const disk = await stack.open('d');
  await work(disk, stack);
  await disk.close();
  await stack.close();
  return { log, data };
}

const fill = (value: string, bytes: number): Buffer => Buffer.alloc(bytes, value);

/** A log by hand: what the target would not write. */
interface MadeEntry {
  readonly block: number;
  readonly blocks: number;
  readonly flags: number;
  readonly text?: string;
  readonly data?: Buffer;
}

function madeLog(name: string, blockBytes: number, entries: readonly MadeEntry[]): Buffer {
  const parts: Buffer[] = [Buffer.alloc(blockBytes)];
  const view = (b: Buffer): DataView => new DataView(b.buffer, b.byteOffset, b.byteLength);
  encodeLogSuper(view(parts[0] as Buffer), 0, { entries: entries.length, blockBytes });
  for (const { text = '', data, ...header } of entries) {
    const block = Buffer.alloc(blockBytes);
    encodeLogHeader(view(block), 0, { ...header, textBytes: text.length });
    block.write(text, 32);
    parts.push(block);
    if (data !== undefined) parts.push(data);
  }
  const log = Buffer.concat(parts);
  writeFileSync(at(name), log);
  return log;
}

test('a list, as text and as JSON, and parts of it', async () => {
  const { log } = await logged('list', MIB, async (disk, stack) => {
    await disk.write(4096, fill('a', 1024));
    await disk.discard(8192, 4096);
    await disk.flush();
    await stack.control.message('d', 0, 'mark half');
    await disk.write(0, fill('b', 512), { fua: true });
  });
  const text = lamina(log, '--list');
  assert.equal(text.status, 0, text.err);
  assert.deepEqual(text.out.trimEnd().split('\n'), [
    'entry\tsector\tsectors\tflags\tmark',
    '0\t8\t2\t-',
    '1\t16\t8\tDISCARD',
    '2\t0\t0\tFLUSH',
    '3\t0\t0\tMARK\thalf',
    '4\t0\t1\tFUA',
    '5\t0\t0\tMARK\tdm-log-writes-end',
  ]);
  const json = lamina(log, '--list', '--json', '--from-entry', '1', '--to-mark', 'half');
  assert.deepEqual(JSON.parse(json.out), [
    { entry: 1, sector: 16, sectors: 8, flags: ['discard'] },
    { entry: 2, sector: 0, sectors: 0, flags: ['flush'] },
    { entry: 3, sector: 0, sectors: 0, flags: ['mark'], mark: 'half' },
  ]);
});

test('the whole log, and up to a flush, a mark, an entry; then on from there', async () => {
  const states: Buffer[] = [];
  const { log, data } = await logged('parts', MIB, async (disk, stack) => {
    for (let i = 1; i <= 4; i++) {
      await disk.write(i * 4096, fill(String(i), 8192));
      await disk.zero(i * 4096 + 1024, 512);
      await disk.flush();
      states.push(await disk.read(0, MIB));
      if (i === 2) await stack.control.message('d', 0, 'mark two');
    }
  });
  const device = sized('parts.out', MIB);
  const check = (expected: Buffer | undefined, ...args: string[]): void => {
    const done = lamina(log, device, ...args);
    assert.equal(done.status, 0, done.err);
    assert.ok(expected?.equals(readFileSync(device)), args.join(' '));
  };
  check(states[0], '--to-flush', '1');
  check(states[1], '--from-entry', '3', '--to-mark', 'two');
  check(states[2], '--from-mark', 'two', '--to-entry', '9');
  check(states[3], '--from-entry', '10');
  sized('parts.out', MIB);
  check(readFileSync(data));
  const missing = lamina(log, device, '--to-mark', 'three');
  assert.equal(missing.status, 1);
  assert.match(missing.err, /parts\.log: no mark 'three'/);
  assert.match(lamina(log, device, '--to-flush', '5').err, /no flush 5 \(counted from 1\)/);
  assert.match(lamina(log, device, '--from-entry', '99').err, /no entry 99 \(there are 14/);
});

test('a log of 4096-byte blocks', () => {
  madeLog('big.log', 4096, [
    { block: 1, blocks: 2, flags: LogFlag.Metadata, data: fill('x', 8192) },
    { block: 2, blocks: 1, flags: LogFlag.Discard },
    { block: 0, blocks: 0, flags: LogFlag.Mark, text: 'end' },
  ]);
  const device = sized('big.out', 16384);
  assert.equal(lamina(at('big.log'), device).status, 0);
  const expected = Buffer.concat([Buffer.alloc(4096), fill('x', 4096), Buffer.alloc(8192)]);
  assert.ok(readFileSync(device).equals(expected));
  assert.match(lamina(at('big.log'), '--list').out, /^0\t8\t16\tMETADATA$/m);
});

// Of an application that writes a record of 8192 'D' and then, in block 0, a 'C' that says it is there.
const COMMITTED =
  '[ "$(head -c 1 {})" != C ] || [ "$(tail -c +4097 {} | head -c 8192 | tr -cd D | wc -c)" -eq 8192 ]';

test('crash states find the flush that is missing, and not where it is there', async () => {
  const app = async (name: string, isCareful: boolean): Promise<string> => {
    const { log } = await logged(name, 64 * 1024, async (disk) => {
      await disk.write(4096, fill('D', 8192));
      if (isCareful) await disk.flush();
      await disk.write(0, fill('C', 512));
      await disk.flush();
    });
    return log;
  };
  const careful = await app('careful', true);
  const careless = await app('careless', false);
  const device = sized('app.out', 64 * 1024);
  const check = ['--check', COMMITTED, '--subsets', '24', '--seed', '3', '--tear'];
  const good = lamina(careful, device, ...check);
  assert.equal(good.status, 0, good.err);
  assert.match(good.out, /replayed 5 entries, 2 flushes, 50 states checked, 0 bad/);
  sized('app.out', 64 * 1024);
  const bad = lamina(careless, device, ...check, '--keep-going', '--json');
  assert.equal(bad.status, 1);
  const told = JSON.parse(bad.out) as {
    isComplete: boolean;
    seed: number;
    failures: { entry: number; state: number | null; replay: string }[];
  };
  assert.ok(told.isComplete && told.seed === 3 && told.failures.length > 0, bad.out);
  assert.ok(told.failures.every((f) => f.entry === 2 && typeof f.state === 'number'));
  assert.match(bad.err, /check failed \(exit 1\) at entry 2, crash state \d+ of seed 3/);
  assert.ok(readFileSync(device).subarray(0, 512).equals(fill('C', 512)), 'the device has it all');

  // Each of these states can be made again, and is bad again.
  for (const failure of told.failures.slice(0, 4)) {
    sized('app.out', 64 * 1024);
    const words = failure.replay.split(' ').slice(2);
    assert.equal(lamina(...words).status, 0, failure.replay);
    const again = spawnSync('sh', ['-c', COMMITTED.replaceAll('{}', device)]);
    assert.equal(again.status, 1, failure.replay);
  }
  sized('app.out', 64 * 1024);
  const stopped = lamina(careless, device, ...check);
  assert.equal(stopped.status, 1);
  assert.equal(stopped.err.match(/check failed/g)?.length, 1, 'ends at the first');
});

test('a crash takes nothing back that a flush had promised', async () => {
  const { log } = await logged('epochs', 64 * 1024, async (disk) => {
    for (const value of ['1', '2', '3', '4']) {
      await disk.write(0, fill(value, 4096));
      await disk.flush();
    }
  });
  const device = sized('epochs.out', 64 * 1024);
  const seen = at('epochs.seen');
  const check = ['--check', `head -c 1 {} >> ${seen}`, '--subsets', '12', '--seed', '5'];
  assert.equal(lamina(log, device, ...check).status, 0);
  const states = readFileSync(seen, 'utf8').replaceAll('\0', '0').match(/.{13}/g) ?? [];
  const kinds = states.map((s) => [...new Set(s)].toSorted().join(''));
  assert.deepEqual(kinds, ['01', '12', '23', '34'], states.join(' '));
});

test('where checks are made, on what, and that a check may write', async () => {
  const { log, data } = await logged('where', 64 * 1024, async (disk, stack) => {
    await disk.write(0, fill('1', 512));
    await disk.flush();
    await disk.write(512, fill('2', 512), { fua: true });
    await stack.control.message('d', 0, 'mark m');
    await disk.write(1024, fill('3', 512));
  });
  const seen = at('where.seen');
  const device = sized('where.out', 64 * 1024);
  // Notes what is there, then spoils the copy.
  const check = `head -c 1536 {} | tr -d '\\0' | tr -s 123 >> ${seen}; echo >> ${seen}; echo bad > {}`;
  const statesAt = (point: string): string[] => {
    writeFileSync(seen, '');
    sized('where.out', 64 * 1024);
    const done = lamina(log, device, '--check', check, '--check-at', point);
    assert.equal(done.status, 0, done.err);
    assert.ok(readFileSync(device).equals(readFileSync(data)), 'the device is what the log says');
    return readFileSync(seen, 'utf8').trimEnd().split('\n');
  };
  assert.deepEqual(statesAt('flush'), ['1']);
  assert.deepEqual(statesAt('fua'), ['12']);
  assert.deepEqual(statesAt('mark'), ['12', '123']);
  assert.deepEqual(statesAt('entry'), ['1', '1', '12', '12', '123', '123']);
  const paths = at('where.paths');
  const here = `echo {} >> ${paths}`;
  assert.equal(lamina(log, device, '--check', here, '--in-place').status, 0);
  assert.equal(readFileSync(paths, 'utf8'), `${device}\n`);
  const left = readdirSync(folder.path).filter((f) => f.startsWith('.lamina-replay'));
  assert.deepEqual(left, [], 'no copies are left');
});

const WRONG: readonly (readonly [args: readonly string[], status: number, message: RegExp])[] = [
  [[], 2, /missing required argument 'log'/],
  [['LOG'], 2, /give DEVICE, or --list without it/],
  [['LOG', 'DEV', '--list'], 2, /give DEVICE, or --list/],
  [['LOG', 'DEV', '--subsets', '3'], 2, /--subsets needs --check/],
  [['LOG', 'DEV', '--state', '3'], 2, /--state needs --seed/],
  [['LOG', 'DEV', '--to-entry', '1', '--to-flush', '1'], 2, /cannot be used with/],
  [['LOG', 'DEV', '--to-flush', '0'], 2, /a number of 1 or more/],
  [['LOG', 'DEV', '--check-at', 'x'], 2, /Allowed choices are flush, fua, mark, entry/],
  [['LOG', 'DEV', '--check', 'nosuchcommand {}'], 2, /cannot be run: .*nosuchcommand/],
  [['LOG', 'DEV', '--check', 'true', '--in-place', '--subsets', '1'], 2, /--in-place does not go/],
  [['LOG', 'LOG'], 1, /is the log itself/],
  [['LOG', 'NONE'], 1, /no such file; make it as large/],
  [['NONE', 'DEV'], 1, /none: No such file or directory/],
  [['LOG', 'SMALL'], 1, /has 512 bytes; the log writes up to byte 1024/],
];

for (const [args, status, message] of WRONG) {
  test(`'lamina replay ${args.join(' ')}' is refused with its reason`, () => {
    madeLog('ok.log', 512, [
      { block: 1, blocks: 1, flags: 0, data: fill('x', 512) },
      { block: 0, blocks: 0, flags: LogFlag.Flush },
    ]);
    const names: Record<string, string> = {
      LOG: at('ok.log'),
      DEV: sized('wrong.out', 4096),
      SMALL: sized('small.out', 512),
      NONE: at('none'),
    };
    const done = lamina(...args.map((a) => names[a] ?? a));
    assert.match(done.err, message);
    assert.equal(done.status, status, done.err);
    assert.doesNotMatch(done.err, /\n {4}at /, 'no stack trace');
    assert.ok(readFileSync(at('small.out')).equals(Buffer.alloc(512)), 'nothing was written');
  });
}

const write: MadeEntry = { block: 1, blocks: 1, flags: 0, data: fill('x', 512) };
const u64 = (log: Buffer, off: number, value: bigint): unknown => log.writeBigUInt64LE(value, off);
const BAD: readonly (readonly [name: string, spoil: (log: Buffer) => unknown, message: RegExp])[] =
  [
    ['magic', (l) => u64(l, 0, 7n), /super: magic: found 0x7, expected 0x6a736677736872/],
    ['version', (l) => u64(l, 8, 2n), /super: version: found 2, expected 1/],
    [
      'sectorsize',
      (l) => l.writeUInt32LE(513, 24),
      /super: sectorsize: found 513, expected a power/,
    ],
    ['sectorsize 0', (l) => l.writeUInt32LE(0, 24), /super: sectorsize: found 0, expected/],
    [
      'too many entries',
      (l) => u64(l, 16, 1n << 60n),
      /super: nr_entries: found \d+, expected at most 4/,
    ],
    [
      'entries past the end',
      (l) => u64(l, 16, 4n),
      /entry 2: header at byte 2560: the log has 2560/,
    ],
    ['flags', (l) => u64(l, 1536 + 16, 32n), /entry 1: flags: found 0x20, expected bits 0x1f only/],
    [
      'data_len',
      (l) => u64(l, 1536 + 24, 9n),
      /entry 1: data_len: found 9, expected 0 \(it is no mark/,
    ],
    [
      'data_len of a mark',
      (l) => {
        u64(l, 1536 + 16, 8n);
        u64(l, 1536 + 24, 481n);
      },
      /entry 1: data_len: found 481, expected at most 480/,
    ],
    [
      'nr_sectors',
      (l) => u64(l, 1536 + 8, 2n),
      /entry 1: nr_sectors: found 2, expected at most 1,/,
    ],
    [
      'sector',
      (l) => u64(l, 1536, 1n << 63n),
      /entry 1: sector and nr_sectors: found .* below 2\^53/,
    ],
  ];

for (const [name, spoil, message] of BAD) {
  test(`a bad log is told apart, and nothing is written: ${name}`, () => {
    const log = madeLog('bad.log', 512, [write, { ...write, block: 2 }]);
    spoil(log);
    writeFileSync(at('bad.log'), log);
    const device = sized('bad.out', 4096);
    for (const args of [[device], ['--list']]) {
      const done = lamina(at('bad.log'), ...args);
      assert.match(done.err, message);
      assert.equal(done.status, 3, done.err);
    }
    assert.ok(readFileSync(device).equals(Buffer.alloc(4096)), 'nothing was written');
  });
}

test('a log that is too short for a super', () => {
  writeFileSync(at('short.log'), 'x');
  const done = lamina(at('short.log'), '--list');
  assert.match(done.err, /super: found 1 bytes, expected 28 or more/);
  assert.equal(done.status, 3);
});

test('the library: openLog and replay', async () => {
  const { log, data } = await logged('library', MIB, async (disk) => {
    await disk.write(0, fill('q', 300 * 1024));
    await disk.flush();
  });
  const device = sized('library.out', MIB);
  const reader = openLog(log);
  try {
    const result = await replay(reader, device);
    assert.deepEqual(result, { entries: 4, flushes: 1, states: 0, isComplete: true });
  } finally {
    reader.close();
  }
  assert.ok(readFileSync(device).equals(readFileSync(data)));
});

test('help teaches with examples', () => {
  const help = lamina('--help');
  assert.equal(help.status, 0);
  assert.match(help.out, /Examples:[\s\S]*Exit status:/);
});

function missingTool(...tools: string[]): string | undefined {
  const missing = tools.find((t) => spawnSync('sh', ['-c', `command -v ${t}`]).status !== 0);
  return missing === undefined ? undefined : `not installed: ${missing}`;
}

test('a real ext4 through a server: good at its flush, damaged before it', async (t) => {
  const missing = missingTool('mkfs.ext4', 'e2fsck', 'nbdcopy', 'qemu-io');
  if (missing !== undefined) return t.skip(missing);
  const bytes = 32 * MIB;
  const image = sized('fs.img', bytes);
  execFileSync('mkfs.ext4', [
    '-q',
    '-F',
    '-d',
    fileURLToPath(new URL('.', import.meta.url)),
    image,
  ]);
  const data = sized('fs.data', bytes);
  const log = sized('fs.log', 64 * MIB);
  const table = `0 ${bytes / 512} log-writes ${data} ${log}`;
  const server = await startLamina(['--table', table], at('fs.sock'));
  const copied = spawnSync('nbdcopy', ['--flush', image, server.uri], { encoding: 'utf8' });
  assert.equal(copied.status, 0, copied.stderr);
  // The superblock, gone.
  const steps = ['-c', 'write -P 255 1k 1k', '-c', 'flush'];
  execFileSync('qemu-io', ['-f', 'raw', ...steps, server.uri]);
  assert.equal(await server.stop(), 0, server.stderr());

  const device = sized('fs.out', bytes);
  const good = lamina(log, device, '--to-flush', '1', '--check', 'e2fsck -fn {}');
  assert.equal(good.status, 0, good.err);
  assert.match(good.out, /1 flushes, 1 states checked, 0 bad/);
  assert.ok(readFileSync(device).equals(readFileSync(image)));
  const bad = lamina(log, device, '--check', 'e2fsck -fn {}', '--keep-going');
  assert.equal(bad.status, 1, bad.out);
  assert.match(bad.err, /check failed \(exit \d+\) at entry \d+\n {4}e2fsck 1/);
  assert.ok(readFileSync(device).equals(readFileSync(data)), 'all of it was replayed');
  return undefined;
});
