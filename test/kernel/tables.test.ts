// Table and status lines and refusals, asked of the real kernel and of lamina: lines that were thought of,
// and lines drawn by a seed, most of them nearly right.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { builtInTargets, makeLab } from '../../src/testing/index.ts';
import { inKernel } from './vm.ts';
import { SEED } from '../../src/testing/seed.ts';

const DRAWN = Number(process.env['LAMINA_LINES'] ?? 150);
const DISK_SECTORS = 8192;

/** A and B are disks of 4 MiB: /dev/ram0 and /dev/ram1 there, `test:a` and `test:b` here. */
const GOOD = [
  '0 8192 linear A 0',
  '0 1 linear A 8191',
  '0 8 linear A 010',
  '0 100 linear A 10\n100 50 linear B 0',
  '0 8 linear A 0\n8 8 linear A 4\n16 8 zero\n24 1 error',
  '0 8192 striped 2 8 A 0 B 0',
  '0 4096 striped 1 128 A 4096',
  '0 24 striped 3 8 A 0 B 0 A 4096',
  '0 12 striped 2 3 A 7 B 9',
  '0 100 zero',
  '0 100 error',
  '0 100 error whatever 1 2',
  '0 8192 delay A 0 5',
  '0 4096 delay A 0 5 B 8 10',
  '0 4096 delay A 0 5 B 8 10 A 16 1',
  '0 8192 delay A 0 0',
  '0 8192 flakey A 0 5 5',
  '0 8192 flakey A 0 5 5 0',
  '0 8192 flakey A 0 0 5',
  '0 8192 flakey A 0 5 0',
  '0 8192 flakey A 0 5 5 1 drop_writes',
  '0 8192 flakey A 0 5 5 1 DROP_WRITES',
  '0 8192 flakey A 0 5 5 1 error_writes',
  '0 8192 flakey A 0 5 5 5 corrupt_bio_byte 32 r 1 0',
  '0 8192 flakey A 0 5 5 5 corrupt_bio_byte 32 w 255 32',
  '0 8192 flakey A 0 5 5 6 drop_writes corrupt_bio_byte 32 r 1 0',
  '0 8192 flakey A 0 5 5 5 corrupt_bio_byte 32 R 1 0',
  '0 8192 log-writes A B',
  '0 16 log-writes A B',
  `0 8192 crypt aes-xts-plain64 ${'5a'.repeat(64)} 0 A 0`,
  `0 64 crypt aes-xts-plain64 ${'5a'.repeat(64)} 0 A 0 0`,
  `0 64 crypt aes-cbc-essiv:sha256 ${'5A'.repeat(32)} 7 A 10`,
  `0 64 crypt aes ${'5a'.repeat(16)} 0 A 0`,
  `0 64 crypt aes-plain ${'5a'.repeat(16)} 0 A 0`,
  `0 64 crypt aes-ecb ${'5a'.repeat(16)} 0 A 0`,
  `0 64 crypt aes-ecb-nosuch ${'5a'.repeat(16)} 0 A 0`,
  `0 64 crypt aes-ecb-eboiv ${'5a'.repeat(16)} 0 A 0`,
  `0 64 crypt aes:2-cbc-plain ${'5a'.repeat(32)} 0 A 0`,
  `0 64 crypt capi:xts(aes)-plain64 ${'5a'.repeat(32)} 0 A 0`,
  '0 64 crypt cipher_null-ecb - 0 A 0',
  `0 64 crypt aes-xts-plain64 ${'5a'.repeat(32)} 8 A 8 2 sector_size:4096 iv_large_sectors`,
  `0 64 crypt aes-xts-plain64 ${'5a'.repeat(32)} 8 A 8 3 iv_large_sectors sector_size:1024 allow_discards`,
  `0 64 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 1 sector_size:512`,
  `0 64 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 5 no_write_workqueue submit_from_crypt_cpus ` +
    'no_read_workqueue SAME_CPU_CRYPT allow_discards',
] as const;

const BAD = [
  '0 8192 nosuch A 0',
  '0 8 linear',
  '0 8 linear A',
  '0 8 linear A x',
  '0 8 linear A 1x',
  '0 8 linear A -1',
  '0 8 linear A 0 0',
  '0 8 linear A 8192',
  '0 8 linear A 8185',
  '0 8 linear nosuch 0',
  '0 8 linear A 0\n16 8 linear B 0',
  '0 8 linear A 0\n4 8 linear B 0',
  '8 8 linear A 0',
  '0 8 linear A 0\n8 8 linear B x',
  '0 8 zero x',
  '0 8 striped',
  '0 8 striped 2',
  '0 8 striped 2 8',
  '0 8 striped 0 8 A 0',
  '0 8 striped x 8 A 0',
  '0 8 striped 2 0 A 0 B 0',
  '0 8 striped 2 x A 0 B 0',
  '0 8 striped 4294967296 8 A 0',
  '0 8 striped 1 4294967296 A 0',
  '0 9 striped 2 4 A 0 B 0',
  '0 20 striped 2 4 A 0 B 0',
  '0 16 striped 2 4 A 0',
  '0 16 striped 2 4 A 0 B 0 A 0',
  '0 16 striped 2 4 A 0 B x',
  '0 16 striped 2 4 A 0 nosuch 0',
  '0 16 striped 2 4 A 0 B 8189',
  '0 8 delay',
  '0 8 delay A 0',
  '0 8 delay A x 5',
  '0 8 delay A 0 x',
  '0 8 delay nosuch 0 5',
  '0 8 delay A 0 5 B',
  '0 8 delay A 0 5 B x 5',
  '0 8 delay A 8192 5',
  '0 8 flakey A 0 5',
  '0 8 flakey A x 5 5',
  '0 8 flakey A 0 x 5',
  '0 8 flakey A 0 5 x',
  '0 8 flakey A 0 0 0',
  '0 8 flakey nosuch 0 5 5',
  '0 8 flakey A 0 4294967295 1',
  '0 8 flakey A 0 5 5 1 sing',
  '0 8 flakey A 0 5 5 x drop_writes',
  '0 8 flakey A 0 5 5 2 drop_writes drop_writes',
  '0 8 flakey A 0 5 5 2 error_writes error_writes',
  '0 8 flakey A 0 5 5 2 drop_writes error_writes',
  '0 8 flakey A 0 5 5 2 error_writes drop_writes',
  '0 8 flakey A 0 5 5 1 corrupt_bio_byte',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 0 r 1 0',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 1 x 1 0',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 1 r 1 z',
  '0 8 flakey A 0 5 5 6 error_writes corrupt_bio_byte 1 w 1 0',
  '0 8 flakey A 0 5 5 9 drop_writes',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 1 r 256 0',
  '0 8 flakey A 0 5 5 6 drop_writes corrupt_bio_byte 1 w 1 0',
  '0 8 log-writes',
  '0 8 log-writes A',
  '0 8 log-writes nosuch A',
  '0 8 log-writes A nosuch',
  '0 8 crypt',
  '0 8 crypt aes-xts-plain64 00 0 A',
  '0 8 crypt nosuch-xts-plain64 5a5a 0 A 0',
  '0 8 crypt aes-nosuch-plain64 5a5a 0 A 0',
  `0 8 crypt aes-xts ${'5a'.repeat(32)} 0 A 0`,
  `0 8 crypt aes-xts-nosuch ${'5a'.repeat(32)} 0 A 0`,
  `0 8 crypt aes-cbc-essiv ${'5a'.repeat(32)} 0 A 0`,
  `0 8 crypt aes-cbc-essiv:nosuch ${'5a'.repeat(32)} 0 A 0`,
  `0 8 crypt aes-ecb-essiv:sha256 ${'5a'.repeat(32)} 0 A 0`,
  `0 8 crypt aes:3-cbc-plain ${'5a'.repeat(48)} 0 A 0`,
  `0 8 crypt aes:x-cbc-plain ${'5a'.repeat(48)} 0 A 0`,
  '0 8 crypt aes(x)-cbc-plain 5a 0 A 0',
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(15)} 0 A 0`,
  `0 8 crypt aes-xts-plain64 ${'xy'.repeat(32)} 0 A 0`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} x A 0`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 4 A 0 1 sector_size:4096`,
  `0 12 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 1 sector_size:4096`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 1 sector_size:8192`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 1 sector_size:1000`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 nosuch 0`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A x`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 1 nosuch`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 2 allow_discards`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 9 allow_discards`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 x`,
  `0 8 crypt aes-xts-plain64 ${'5a'.repeat(32)} 0 A 0 1 integrity:0:none`,
  `0 8 crypt aes-cbc-lmk ${'5a'.repeat(100)} 0 A 0`,
  `0 8 crypt aes:64-cbc-lmk ${'5a'.repeat(1024)} 0 A 0 1 sector_size:4096`,
  `0 8 crypt aes-cbc-tcw ${'5a'.repeat(64)} 0 A 0 1 sector_size:4096`,
] as const;

/** What is said otherwise here, and why: the kernel's words, and ours. */
const OTHER_WORDS: readonly (readonly [RegExp, RegExp])[] = [
  // The kernel has the numbers as start=, len=, dev_size=, of the device's own name.
  [/too small for target/, /too small for target/],
  // The kernel looks at it before or after it sees that sizes do not go together.
  [/caused an alignment inconsistency/, /too small for target/],
  // Here it is the reason why there is no such device.
  [/^Device lookup failed$/, /device \S*\/nosuch: /],
  // To the kernel every start that is not the last end is a gap.
  [/^Gap in table$/, /Overlap in table/],
  // Here the reason is the number, not the device.
  [/^Couldn't parse stripe destination$/, /stripe \d+: start sector/],
  // The kernel means the down interval and says the other one.
  [/^Invalid up interval$/, /Invalid down interval/],
  // The kernel's sum has 32 bits.
  [/^Total \(up \+ down\) interval is zero$/, /Interval overflow/],
];

/**
 * Our reasons to refuse what the kernel takes: it does not look at words behind the last that it wants,
 * takes a plus sign, and cuts numbers to 32 bits.
 */
const STRICTER = [
  /log-writes: Invalid argument count: .*found [3-9]/,
  /flakey: Invalid number of feature args: /,
  /: '\+\d+': expected a number/,
  /delay: Invalid delay: '4294967296'/,
  /crypt: Error decoding and setting key: \d+ characters: /,
  /crypt: Too many feature arguments: /,
  /crypt: Integrity profile not supported: /,
  // The log would be written over the data.
  /log-writes: Log device lookup failed: .* is the device itself/,
] as const;

/** What we take as newer kernels do: more words for flakey's features. */
const NEWER = /^0 \d+ flakey (?:\S+ ){4}(?:8|9|10|11) /;

const KERNEL_TARGETS = [
  'linear',
  'striped',
  'zero',
  'error',
  'delay',
  'flakey',
  'log-writes',
  'crypt',
];

function drawLine(rng: Prng): string {
  const device = (): string => rng.pick(['A', 'B']);
  const start = (): number => rng.pick([0, 0, 1, 8, 4096, rng.below(DISK_SECTORS)]);
  const type = rng.pick(KERNEL_TARGETS);
  const stripes = rng.between(1, 4);
  const chunk = rng.pick([1, 3, 8, 128]);
  const len = type === 'striped' ? stripes * chunk * rng.between(1, 6) : rng.between(1, 4096);
  const words: (string | number)[] = [];
  const place = (): void => void words.push(device(), start());
  switch (type) {
    case 'linear':
      place();
      break;
    case 'striped':
      words.push(stripes, chunk);
      for (let i = 0; i < stripes; i++) place();
      break;
    case 'delay':
      for (let i = rng.between(1, 3); i > 0; i--) {
        place();
        words.push(rng.below(100));
      }
      break;
    case 'flakey':
      place();
      words.push(rng.below(3), rng.below(3), ...drawFeatures(rng));
      break;
    case 'log-writes':
      words.push(
        ...rng.pick([
          ['A', 'B'],
          ['B', 'A'],
        ]),
      );
      break;
    case 'crypt':
      words.push(...drawCrypt(rng));
      place();
      words.push(...drawCryptOptions(rng));
      break;
    default:
  }
  if (rng.chance(0.75)) spoil(rng, words);
  return `0 ${len} ${type} ${words.join(' ')}`.trimEnd();
}

function drawFeatures(rng: Prng): (string | number)[] {
  const words: (string | number)[] = [];
  for (let i = rng.below(3); i > 0; i--) {
    words.push(
      ...rng.pick<readonly (string | number)[]>([
        ['drop_writes'],
        ['error_writes'],
        ['corrupt_bio_byte', rng.below(600), rng.pick(['r', 'w', 'R']), rng.below(300), 0],
      ]),
    );
  }
  return words.length === 0 && rng.chance(0.5) ? [] : [words.length, ...words];
}

function drawCrypt(rng: Prng): (string | number)[] {
  const cipher = rng.pick(['aes', 'aes', 'aes:2', 'nosuch']);
  const mode = rng.pick(['xts', 'cbc', 'ecb', 'nosuch']);
  const iv = rng.pick(['plain', 'plain64', 'essiv:sha256', 'null', 'benbi', 'nosuch']);
  const key = '5a'.repeat(rng.pick([16, 32, 32, 64, 20]));
  return [`${cipher}-${mode}-${iv}`, key, rng.pick([0, 0, 4, 8])];
}

function drawCryptOptions(rng: Prng): (string | number)[] {
  const all = [
    'allow_discards',
    'same_cpu_crypt',
    'iv_large_sectors',
    'sector_size:1024',
    'nosuch',
  ];
  const words = all.filter(() => rng.chance(0.2));
  return words.length === 0 ? [] : [words.length, ...words];
}

/** One thing is made different; often that is wrong, and sometimes it is not. */
function spoil(rng: Prng, words: (string | number)[]): void {
  const at = rng.below(words.length + 1);
  const odd = rng.pick(['x', '-1', '+1', '01', '0x8', '1.5', '8k', 'A', 'nosuch', '4294967296']);
  const way = rng.below(4);
  if (way === 0) words.splice(at, 1);
  else if (way === 1) words.splice(at, 0, odd);
  else if (way === 2 && at < words.length) words[at] = odd;
  else words.splice(at, 0, ...words.slice(at, at + 1));
}

interface Answer {
  readonly table: string;
  readonly info: string;
  readonly error: string;
}

const rng = new Prng(SEED);
const DRAWN_LINES = Array.from({ length: DRAWN }, () => drawLine(rng));
const kernel = new Map<string, Answer>();

before(async () => {
  const lines = [...new Set([...GOOD, ...BAD, ...DRAWN_LINES])];
  const asks = lines.map((line) => {
    const table = line.replaceAll(/\bA\b/g, '/dev/ram0').replaceAll(/\bB\b/g, '/dev/ram1');
    return `ask ${table
      .split('\n')
      .map((l) => `'${l}'`)
      .join(' ')}`;
  });
  const script = `modprobe brd rd_nr=2 rd_size=4096
for m in dm-zero dm-log-writes dm-flakey dm-delay dm-crypt; do modprobe $m; done
ask() {
  echo "== ask"; dmesg -c >/dev/null
  printf '%s\\n' "$@" | dmsetup --noudevsync create d >/dev/null 2>&1 || true
  echo "-- table"; dmsetup table --showkeys d 2>/dev/null || true
  echo "-- info"; dmsetup status d 2>/dev/null || true
  echo "-- error"; dmesg | grep device-mapper || true
  dmsetup --noudevsync remove d >/dev/null 2>&1 || true
}
${asks.join('\n')}`;
  const output = await inKernel({ script, timeoutSeconds: 900 });
  const answers = output.split('== ask\n').slice(1);
  assert.equal(answers.length, lines.length, output);
  for (const [i, text] of answers.entries()) {
    const [, table = '', info = '', error = ''] = text.split(/-- (?:table|info|error)\n/);
    kernel.set(lines[i] as string, { table, info, error });
  }
});

test('every target of the list is in this kernel and in lamina', () => {
  for (const type of KERNEL_TARGETS) {
    assert.ok(builtInTargets().includes(type), `lamina has no ${type}`);
    const taken = [...kernel].filter(([line]) => line.split(' ')[2] === type);
    assert.ok(
      taken.some(([, answer]) => answer.table !== ''),
      `the kernel takes no ${type}`,
    );
  }
});

for (const line of GOOD) {
  test(`the kernel and lamina print '${line.replaceAll('\n', ' | ')}' alike`, async () => {
    const there = kernel.get(line) as Answer;
    const here = await ask(line);
    assert.notEqual(there.table, '', `the kernel refused it: ${there.error}`);
    assert.equal(here.error, '');
    assert.equal(normal(here.table), normal(there.table));
    assert.equal(normal(here.info), normal(there.info));
  });
}

for (const line of BAD) {
  test(`the kernel and lamina refuse '${line.replaceAll('\n', ' | ')}' in the same words`, async () => {
    const there = kernel.get(line) as Answer;
    const here = await ask(line);
    assert.equal(there.table, '', 'the kernel took it');
    assert.notEqual(here.error, '', 'lamina took it');
    const said = kernelSaid(there);
    assert.ok(said !== undefined, `the kernel gave no reason: '${there.error}'`);
    const other = OTHER_WORDS.find(([kernels]) => kernels.test(said))?.[1];
    const isSame = here.error.toLowerCase().includes(said.toLowerCase());
    assert.ok(isSame || other?.test(here.error) === true, `kernel: ${said}\nlamina: ${here.error}`);
  });
}

test(`${DRAWN} drawn lines: taken or refused alike, printed alike, LAMINA_SEED=${SEED}`, async () => {
  const different: string[] = [];
  let taken = 0;
  for (const line of DRAWN_LINES) {
    const there = kernel.get(line) as Answer;
    const here = await ask(line);
    const isTaken = there.table !== '';
    if (isTaken) taken++;
    if (isTaken && STRICTER.some((words) => words.test(here.error))) continue;
    if (!isTaken && NEWER.test(line)) continue;
    const isSame =
      isTaken === (here.error === '') &&
      normal(here.table) === normal(there.table) &&
      normal(here.info) === normal(there.info);
    if (!isSame) {
      different.push(
        `${line}\n  kernel: ${there.table}${there.info}${there.error}\n` +
          `  lamina: ${here.table}${here.info}${here.error}`,
      );
    }
  }
  assert.deepEqual(different, []);
  assert.ok(taken > DRAWN / 10 && taken < (DRAWN * 9) / 10, `the kernel takes ${taken}`);
  process.stdout.write(`    ${DRAWN} drawn lines, the kernel takes ${taken}\n`);
});

async function ask(line: string): Promise<Answer> {
  const lab = makeLab({ seed: 1 });
  for (const name of ['a', 'b']) {
    lab.addDisk({
      name: `test:${name}`,
      lenSectors: DISK_SECTORS,
      limits: { physicalBlockBytes: 4096 },
    });
  }
  const table = line.replaceAll(/\bA\b/g, 'test:a').replaceAll(/\bB\b/g, 'test:b');
  try {
    await lab.dm.create({ name: 'd', table });
  } catch (error) {
    return { table: '', info: '', error: (error as Error).message };
  }
  const lines = async (kind: 'table' | 'status'): Promise<string> =>
    (await lab.dm[kind]('d', { showKeys: true }))
      .map((l) => `${l.startSector} ${l.lenSectors} ${l.type} ${l.params}\n`)
      .join('');
  const answer = { table: await lines('table'), info: await lines('status'), error: '' };
  await lab.dm.close();
  return answer;
}

/** Of `device-mapper: table: 254:0: striped: Invalid chunk_size (-EINVAL)` the last part. */
function kernelSaid(answer: Answer): string | undefined {
  return /device-mapper: table: [\d:]+: (?:[\w-]+: )?(.*?)(?: \(-E\w+\))?$/m.exec(
    answer.error,
  )?.[1];
}

/** Devices by one name, spaces at the end of lines gone. */
function normal(text: string): string {
  return text
    .replaceAll(/\b1:0\b|test:a\b/g, 'A')
    .replaceAll(/\b1:1\b|test:b\b/g, 'B')
    .replaceAll(/[ \t]+$/gm, '');
}
