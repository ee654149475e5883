// Table and status lines and refusals, asked of the real kernel and of lamina.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { builtInTargets, makeLab } from '../../src/testing/index.ts';
import { inKernel } from './vm.ts';

/** 4 MiB disks a and b: /dev/vda and /dev/vdb there, `test:a` and `test:b` here. */
const GOOD = [
  '0 8192 linear A 0',
  '0 100 linear A 10\n100 50 linear B 0',
  '0 8192 striped 2 8 A 0 B 0',
  '0 4096 striped 1 128 A 4096',
  '0 100 zero',
  '0 100 error',
  '0 8192 delay A 0 5',
  '0 4096 delay A 0 5 B 8 10',
  '0 4096 delay A 0 5 B 8 10 A 16 1',
  '0 8192 flakey A 0 5 5',
  '0 8192 flakey A 0 5 5 1 drop_writes',
  '0 8192 flakey A 0 5 5 1 error_writes',
  '0 8192 flakey A 0 5 5 5 corrupt_bio_byte 32 r 1 0',
  '0 8192 flakey A 0 5 5 6 drop_writes corrupt_bio_byte 32 r 1 0',
  '0 8192 log-writes A B',
] as const;

const BAD = [
  '0 8192 nosuch A 0',
  '0 8 linear A',
  '0 8 linear A x',
  '0 8 linear A 0 0',
  '0 8 linear A 8192',
  '0 8 zero x',
  '0 8 striped 2',
  '0 8 striped 0 8 A 0',
  '0 8 striped x 8 A 0',
  '0 8 striped 2 0 A 0 B 0',
  '0 9 striped 2 4 A 0 B 0',
  '0 20 striped 2 4 A 0 B 0',
  '0 16 striped 2 4 A 0',
  '0 8 delay A 0',
  '0 8 delay A x 5',
  '0 8 delay A 0 x',
  '0 8 flakey A 0 5',
  '0 8 flakey A x 5 5',
  '0 8 flakey A 0 x 5',
  '0 8 flakey A 0 5 x',
  '0 8 flakey A 0 0 0',
  '0 8 flakey A 0 5 5 1 sing',
  '0 8 flakey A 0 5 5 2 drop_writes drop_writes',
  '0 8 flakey A 0 5 5 2 drop_writes error_writes',
  '0 8 flakey A 0 5 5 1 corrupt_bio_byte',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 0 r 1 0',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 1 x 1 0',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 1 r 1 z',
  '0 8 flakey A 0 5 5 6 error_writes corrupt_bio_byte 1 w 1 0',
  '0 8 flakey A 0 5 5 9 drop_writes',
  '0 8 flakey A 0 5 5 5 corrupt_bio_byte 1 r 256 0',
  '0 8 flakey A 0 5 5 6 drop_writes corrupt_bio_byte 1 w 1 0',
  '0 8 log-writes A',
  '0 8 log-writes A nosuch',
] as const;

/** What is different here, and why. */
const OTHER_TEXT: Readonly<Record<string, string>> = {
  // The kernel names the device and the numbers in another order.
  '0 8 linear A 8192': 'too small for target',
  // The kernel means the down interval and says the other one.
  '0 8 flakey A 0 5 x': 'Invalid down interval',
};

interface Answer {
  readonly table: string;
  readonly info: string;
  readonly error: string;
}

const kernel = new Map<string, Answer>();

function onlyKnown(lines: readonly string[]): string[] {
  const known = new Set(builtInTargets());
  return lines.filter((line) =>
    line.split('\n').every((l) => known.has(l.split(' ')[2] ?? '') || l.includes('nosuch')),
  );
}

const LINES = onlyKnown([...GOOD, ...BAD]);

before(async () => {
  const asks = LINES.map((line) => {
    const table = line.replaceAll(/\bA\b/g, '/dev/ram0').replaceAll(/\bB\b/g, '/dev/ram1');
    return `echo "== ask"; dmesg -c >/dev/null
printf '%s\\n' ${table
      .split('\n')
      .map((l) => `'${l}'`)
      .join(' ')} | dmsetup --noudevsync create d >/dev/null 2>&1 || true
echo "-- table"; dmsetup table d 2>/dev/null || true
echo "-- info"; dmsetup status d 2>/dev/null || true
echo "-- error"; dmesg | grep device-mapper || true
dmsetup --noudevsync remove d >/dev/null 2>&1 || true`;
  });
  const script = `modprobe brd rd_nr=2 rd_size=4096
for m in dm-zero dm-log-writes dm-flakey dm-delay; do modprobe $m; done
echo 7 >/proc/sys/kernel/printk
${asks.join('\n')}`;
  const output = await inKernel({ script });
  const answers = output.split('== ask\n').slice(1);
  assert.equal(answers.length, LINES.length, output);
  for (const [i, text] of answers.entries()) {
    const [, table = '', info = '', error = ''] = text.split(/-- (?:table|info|error)\n/);
    kernel.set(LINES[i] as string, { table, info, error });
  }
});

after(() => kernel.clear());

async function ask(line: string): Promise<Answer> {
  const lab = makeLab({ seed: 1 });
  for (const name of ['a', 'b']) {
    lab.addDisk({ name: `test:${name}`, lenSectors: 8192, limits: { physicalBlockBytes: 4096 } });
  }
  const table = line.replaceAll(/\bA\b/g, 'test:a').replaceAll(/\bB\b/g, 'test:b');
  try {
    await lab.dm.create({ name: 'd', table });
  } catch (error) {
    return { table: '', info: '', error: (error as Error).message };
  }
  const lines = async (kind: 'table' | 'status'): Promise<string> =>
    (await lab.dm[kind]('d'))
      .map((l) => `${l.startSector} ${l.lenSectors} ${l.type} ${l.params}\n`)
      .join('');
  const answer = { table: await lines('table'), info: await lines('status'), error: '' };
  await lab.dm.close();
  return answer;
}

/** Devices by one name, spaces at the end of lines gone. */
function normal(text: string): string {
  return text
    .replaceAll(/\b1:0\b|test:a\b/g, 'A')
    .replaceAll(/\b1:1\b|test:b\b/g, 'B')
    .replaceAll(/[ \t]+$/gm, '');
}

for (const line of onlyKnown(GOOD)) {
  test(`the kernel and lamina print '${line.replaceAll('\n', ' | ')}' alike`, async () => {
    const there = kernel.get(line) as Answer;
    const here = await ask(line);
    assert.notEqual(there.table, '', `the kernel refused it: ${there.error}`);
    assert.equal(normal(here.table), normal(there.table));
    assert.equal(normal(here.info), normal(there.info));
  });
}

for (const line of onlyKnown(BAD)) {
  test(`the kernel and lamina refuse '${line}' in the same words`, async () => {
    const there = kernel.get(line) as Answer;
    const here = await ask(line);
    assert.equal(there.table, '', 'the kernel took it');
    assert.notEqual(here.error, '', 'lamina took it');
    // `device-mapper: table: 254:0: striped: Invalid chunk_size (-EINVAL)`
    const said = /device-mapper: table: [\d:]+: (?:[\w-]+: )?(.*?)(?: \(-E\w+\))?$/m.exec(
      there.error,
    )?.[1];
    if (said === undefined) return;
    const expected = (OTHER_TEXT[line] ?? said).toLowerCase();
    assert.ok(
      here.error.toLowerCase().includes(expected),
      `kernel: ${said}\nlamina: ${here.error}`,
    );
  });
}
