// `lamina luks` against Debian's cryptsetup and qemu-img, by their command lines: each opens, changes, backs up
// and converts what the other made. Nothing of it needs the kernel's device mapper.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createCipheriv, createDecipheriv } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { convertToLuks2 } from '../../src/tools/luks/convert.ts';
import { WrongPassphrase } from '../../src/tools/luks/luks-error.ts';
import { LuksFile } from '../../src/tools/luks/luks-io.ts';
import { Luks1Volume } from '../../src/tools/luks/luks1-volume.ts';
import { openLuks } from '../../src/tools/luks/open-luks.ts';
import { desk } from '../../src/testing/daemon-desk.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { LuksDisk, setMetadata } from '../../src/testing/luks-disk.ts';
import { fuzzLuks } from '../../src/testing/luks-fuzz.ts';
import { SEED } from '../../src/testing/seed.ts';
import { type Ran, WarmLamina } from '../../src/testing/warm-lamina.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const CRYPT_TARGET = fileURLToPath(
  new URL('../../src/targets/crypt/crypt.target.js', import.meta.url),
);
const PATHS = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)];
const ENV = { ...process.env, PATH: PATHS.join(delimiter) };
const absent = ['cryptsetup', 'qemu-img', 'python3'].filter(
  (tool) => !PATHS.some((folder) => existsSync(join(folder, tool))),
);
const skip = absent.length > 0 && `not installed: ${absent.join(', ')}`;
const MIB = 1024 * 1024;
/** Of each version; luks-fuzz.test.ts does more of them with headers of its own. */
const FUZZ_ROUNDS = Number(process.env['LAMINA_FUZZ_ROUNDS'] ?? 60);
/** Exit status of a passphrase that opens nothing. */
const NO_KEY = 3;
const CRYPTSETUP_NO_KEY = 2;
const FAST1 = ['--pbkdf-force-iterations', '1000'];
const FAST2 = ['--pbkdf-force-iterations', '4', '--pbkdf-memory', '64'];

let folder: ReturnType<typeof makeTestFolder>;
let warm: WarmLamina | undefined;

before(() => {
  folder = makeTestFolder();
  writeFileSync(at('one'), 'one');
  writeFileSync(at('two'), 'two');
  writeFileSync(at('three'), 'three');
});
after(() => {
  warm?.[Symbol.dispose]();
  folder.remove();
});

function at(name: string): string {
  return join(folder.path, name);
}

function run(command: string, args: readonly string[], input: string | Buffer = ''): Ran {
  const done = spawnSync(command, args, { env: ENV, input, maxBuffer: 2 ** 28, timeout: 120_000 });
  return { status: done.status, stdout: String(done.stdout), stderr: String(done.stderr) };
}

function good(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(command, args);
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

/** For a program that fails by chance, and then says so: five times at most. */
function goodAtLast(command: string, args: readonly string[], chance: RegExp): void {
  for (let left = 5; left > 1; left--) {
    const { status, stderr } = run(command, args);
    if (status === 0) return;
    assert.match(stderr, chance);
  }
  good(command, ...args);
}

function cryptsetup(...args: string[]): string {
  return good('cryptsetup', ...args);
}

function lamina(...args: string[]): string {
  const { status, stdout, stderr } = runLamina(args);
  assert.equal(status, 0, `lamina luks ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

function runLamina(args: readonly string[], input: string | Buffer = ''): Ran {
  warm ??= new WarmLamina(ENV);
  return warm.run(['luks', ...args], input);
}

function fresh(name: string, sizeBytes = 20 * MIB): string {
  const file = at(name);
  rmSync(file, { force: true });
  writeFileSync(file, '');
  truncateSync(file, sizeBytes);
  return file;
}

async function withFile<T>(
  file: string,
  use: (volume: ReturnType<typeof openLuks>) => Promise<T>,
): Promise<T> {
  const io = LuksFile.open(file, { isReadOnly: true });
  try {
    return await use(openLuks(io, { isDetached: true }));
  } finally {
    io.close();
  }
}

/** What either program says of a key file: does it open? */
async function bothOpen(file: string, key: string): Promise<boolean> {
  const theirs = run('cryptsetup', ['open', '--test-passphrase', file, '--key-file', key]);
  const isOpen = theirs.status === 0;
  assert.equal(theirs.status, isOpen ? 0 : CRYPTSETUP_NO_KEY, theirs.stderr);
  const ours = ourKey(file, key).then(
    () => true,
    (error: unknown) => {
      if (error instanceof WrongPassphrase) return false;
      throw error;
    },
  );
  assert.equal(await ours, isOpen, file);
  return isOpen;
}

async function sameDump(file: string): Promise<void> {
  const ours = await withFile(file, async (volume) => await Promise.resolve(volume.dump()));
  assert.equal(ours, cryptsetup('luksDump', file));
}

function theirKey(file: string, key: string): string {
  const text = cryptsetup('luksDump', '-q', '--dump-volume-key', '--key-file', key, file);
  const hex = /MK dump:([\s0-9a-f]+)/.exec(text)?.[1] ?? '';
  return hex.replaceAll(/\s/g, '');
}

async function ourKey(file: string, key: string): Promise<string> {
  return await withFile(file, async (volume) => {
    const { volumeKey } = await volume.unlock(readFileSync(key));
    return volumeKey.toString('hex');
  });
}

describe('LUKS with cryptsetup and qemu-img', { skip }, async () => {
  const kinds: readonly (readonly string[])[] = [
    ['--type', 'luks1', ...FAST1],
    ['--type', 'luks1', '-c', 'aes-cbc-essiv:sha256', '-s', '256', '--hash', 'sha1', ...FAST1],
    ['--type', 'luks1', '-c', 'aes-cbc-plain64', '-s', '128', '--hash', 'ripemd160', ...FAST1],
    ['--type', 'luks1', '-c', 'aes-xts-plain', '-s', '256', '--hash', 'sha512', ...FAST1],
    ['--type', 'luks1', '-c', 'aes-xts-benbi', '--hash', 'blake2b-512', ...FAST1],
    ['--type', 'luks1', '--hash', 'whirlpool', ...FAST1],
    ['--type', 'luks2', '--pbkdf', 'pbkdf2', '--hash', 'sha512-256', ...FAST1],
    ['--type', 'luks2', ...FAST2, '--label', 'a label', '--subsystem', 'sub'],
    ['--type', 'luks2', '--pbkdf', 'argon2i', ...FAST2, '--pbkdf-parallel', '1'],
    ['--type', 'luks2', '--pbkdf', 'pbkdf2', ...FAST1, '--hash', 'sha512', '--sector-size', '512'],
    ['--type', 'luks2', '--pbkdf', 'pbkdf2', ...FAST1, '-c', 'aes-cbc-essiv:sha256', '-s', '192'],
    ['--type', 'luks2', ...FAST2, '-c', 'aes-ecb', '-s', '128', '--sector-size', '2048'],
    [
      '--type',
      'luks2',
      ...FAST2,
      '--keyslot-cipher',
      'aes-cbc-plain64',
      '--keyslot-key-size',
      '128',
    ],
    [
      '--type',
      'luks2',
      ...FAST2,
      '-c',
      'aes-xts-eboiv',
      '-s',
      '256',
      '--hash',
      'sha3-256',
      '-S',
      '9',
    ],
    [
      '--type',
      'luks2',
      ...FAST2,
      '--offset',
      '8192',
      '--uuid',
      '12345678-9abc-4def-8123-456789abcdef',
    ],
  ];

  for (const kind of kinds) {
    it(`either opens what the other made: ${kind.join(' ')}`, async () => {
      const theirs = fresh('theirs.img');
      cryptsetup('luksFormat', '-q', ...kind, theirs, at('one'));
      await sameDump(theirs);
      assert.equal(await ourKey(theirs, at('one')), theirKey(theirs, at('one')));
      assert.equal(await bothOpen(theirs, at('two')), false);

      const ours = fresh('ours.img');
      lamina('format', '-q', ...kind, ours, '--key-file', at('one'));
      await sameDump(ours);
      assert.equal(await ourKey(ours, at('one')), theirKey(ours, at('one')));
      assert.equal(await bothOpen(ours, at('two')), false);
      const skeleton = (file: string): string =>
        cryptsetup('luksDump', file)
          .replaceAll(/([0-9a-f]{2} ){4,}/g, '')
          .replaceAll(/(UUID:|Epoch:).*|[\t ]+|^LUKS header.*/gm, '');
      assert.equal(skeleton(ours), skeleton(theirs));

      for (const file of [theirs, ours]) {
        const isLuks1 = kind.includes('luks1');
        const fast = isLuks1 ? FAST1 : ['--pbkdf', 'pbkdf2', ...FAST1];
        lamina('add-key', file, '--key-file', at('one'), '--new-key-file', at('two'), ...fast);
        assert.equal(await bothOpen(file, at('two')), true);
        cryptsetup('luksAddKey', '-q', ...fast, file, at('three'), '--key-file', at('two'));
        assert.equal(await bothOpen(file, at('three')), true);
        await sameDump(file);
        lamina('remove-key', file, '--key-file', at('one'));
        cryptsetup('luksRemoveKey', '-q', file, at('two'));
        assert.equal(await bothOpen(file, at('one')), false);
        assert.equal(await bothOpen(file, at('two')), false);
        lamina('change-key', file, '--key-file', at('three'), '--new-key-file', at('one'), ...fast);
        assert.equal(await bothOpen(file, at('one')), true);
        assert.equal(await bothOpen(file, at('three')), false);
        await sameDump(file);
      }
    });
  }

  it('headers of other sizes, theirs and ours', async () => {
    for (const size of ['16k', '32k', '128k', '1m', '4m']) {
      const sizes = (a: string, b: string): string[] => [`--${a}`, size, `--${b}`, '4m'];
      const theirs = fresh('theirs.img', 40 * MIB);
      const names = sizes('luks2-metadata-size', 'luks2-keyslots-size');
      cryptsetup('luksFormat', '-q', ...FAST2, ...names, theirs, at('one'));
      const ours = fresh('ours.img', 40 * MIB);
      const own = sizes('metadata-size', 'keyslots-size').map((s) => s.replace(/^(\d+.)$/, '$1'));
      lamina('format', '-q', ...FAST2, ...own, ours, '--key-file', at('one'));
      for (const file of [theirs, ours]) {
        await sameDump(file);
        assert.equal(await bothOpen(file, at('one')), true);
      }
      // The secondary alone; theirs mends it by itself.
      const fd = openSync(ours, 'r+');
      writeSync(fd, Buffer.alloc(4096), 0, 4096, 0);
      closeSync(fd);
      assert.match(runLamina(['dump', ours]).stderr, /the secondary one is used/);
      assert.equal(await bothOpen(ours, at('one')), true);
      assert.equal(runLamina(['dump', ours]).stderr, '');
    }
  });

  it('tokens, priorities, unbound keys and flags look the same and survive changes', async () => {
    const file = fresh('theirs.img');
    cryptsetup('luksFormat', '-q', ...FAST2, file, at('one'));
    const add = ['luksAddKey', '-q', ...FAST2, '--key-file', at('one'), '-S'];
    cryptsetup(...add, '5', file, at('two'));
    cryptsetup(...add, '7', '--unbound', '--key-size', '256', file, at('three'));
    cryptsetup('config', '--priority', 'prefer', '-S', '5', file);
    cryptsetup('token', 'add', '--key-description', 'some:key', file);
    const token = '{"type":"mine","keyslots":["5"],"x":{"deep":[1,2.5,null]}}';
    assert.equal(run('cryptsetup', ['token', 'import', file], token).status, 0);
    await sameDump(file);
    assert.equal(await bothOpen(file, at('three')), false);
    assert.match(lamina('test-passphrase', file, '-S', '7', '--key-file', at('three')), /slot 7/);
    lamina('add-key', file, ...FAST2, '--key-file', at('two'), '--new-key-file', at('three'));
    lamina('kill-slot', file, '0', '--key-file', at('two'));
    await sameDump(file);
    assert.equal(await bothOpen(file, at('two')), true);
    lamina('kill-slot', file, '7', '-q');
    await sameDump(file);
    const kept = JSON.parse(cryptsetup('token', 'export', '--token-id', '1', file)) as object;
    assert.deepEqual(kept, JSON.parse(token));
    cryptsetup('config', '--priority', 'ignore', '-S', '5', file);
    assert.equal(await bothOpen(file, at('two')), false);
    lamina('test-passphrase', file, '-S', '5', '--key-file', at('two'));
  });

  it('passphrases and key files end where theirs do', async () => {
    const file = fresh('theirs.img');
    cryptsetup('luksFormat', '-q', '--pbkdf', 'pbkdf2', ...FAST1, file, at('one'));
    const files = {
      line: 'two\n',
      lines: 'two\nmore\n',
      nul: 'a\0b',
      offset: 'xxxtwoyyy',
      empty: '',
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(at(name), text);
    const fast = ['--pbkdf', 'pbkdf2', ...FAST1];
    cryptsetup('luksAddKey', '-q', ...fast, '--key-file', at('one'), file, at('two'));
    const cases: [readonly string[], string | Buffer][] = [
      [[], 'two'],
      [[], 'two\n'],
      [[], 'two\nmore'],
      [[], 'two\r\n'],
      [[], '\n'],
      [[], ''],
      [[], Buffer.from('a\0b')],
      [['--key-file', '-'], 'two'],
      [['--key-file', '-'], 'two\n'],
      [['--key-file', at('line')], ''],
      [['--key-file', at('line'), '--keyfile-size', '3'], ''],
      [['--key-file', at('line'), '--keyfile-size', '5'], ''],
      [['--key-file', at('offset'), '--keyfile-offset', '3', '--keyfile-size', '3'], ''],
      [['--key-file', at('offset'), '--keyfile-offset', '3'], ''],
      [['--key-file', at('offset'), '--keyfile-offset', '99'], ''],
      [['--key-file', at('empty')], ''],
      [['--key-file', at('none')], ''],
    ];
    const judge = (accepted: string): void => {
      for (const [args, input] of cases) {
        const theirs = run('cryptsetup', ['open', '--test-passphrase', file, ...args], input);
        const ours = runLamina(['test-passphrase', file, ...args], input);
        const name = `${accepted}: ${args.join(' ')} ${JSON.stringify(String(input))}`;
        const isOpen = theirs.status === 0;
        assert.equal(ours.status === 0, isOpen, `${name}: ${theirs.stderr}${ours.stderr}`);
        const isWrong = theirs.status === CRYPTSETUP_NO_KEY;
        assert.equal(ours.status === NO_KEY, isWrong, `${name}: ${theirs.stderr}${ours.stderr}`);
      }
    };
    judge('two');
    for (const name of ['line', 'nul', 'empty']) {
      cryptsetup('luksChangeKey', '-q', ...fast, '--key-file', at('two'), file, at(name));
      judge(name);
      cryptsetup('luksChangeKey', '-q', ...fast, '--key-file', at(name), file, at('two'));
    }
    // Old and new are two lines; an environment variable is as it is.
    const two = run(
      process.execPath,
      [LAMINA, 'luks', 'add-key', file, ...fast],
      'two\nfrom a line\n',
    );
    assert.equal(two.status, 0, two.stderr);
    const env = { ...ENV, SECRET: 'from a line', OTHER: 'from a line\n' };
    for (const [name, status] of [
      ['SECRET', 0],
      ['OTHER', NO_KEY],
      ['ABSENT', 1],
    ] as const) {
      const args = [LAMINA, 'luks', 'test-passphrase', file, '--passphrase-env', name];
      assert.equal(spawnSync(process.execPath, args, { env }).status, status, name);
    }
  });

  it('empty passphrases open by Argon2, too', async () => {
    writeFileSync(at('empty'), '');
    const theirs = fresh('theirs.img');
    cryptsetup('luksFormat', '-q', ...FAST2, theirs, at('empty'));
    assert.equal(await bothOpen(theirs, at('empty')), true);
    assert.equal(await bothOpen(theirs, at('one')), false);
  });

  it('sectors of 4096 bytes that leave a rest of the device are refused by both', () => {
    for (const [bytes, sector, isWhole] of [
      [20 * MIB, '4096', true],
      [20 * MIB + 512, '4096', false],
      [20 * MIB + 2048, '2048', true],
      [20 * MIB + 2048, '4096', false],
      [20 * MIB + 512, '512', true],
    ] as const) {
      const args = ['-q', ...FAST2, '--sector-size', sector, fresh('sectors.img', bytes)];
      const theirs = run('cryptsetup', ['luksFormat', ...args, at('one')]);
      fresh('sectors.img', bytes);
      const ours = runLamina(['format', ...args, '--key-file', at('one')]);
      assert.equal(theirs.status === 0, isWhole, theirs.stderr);
      assert.equal(ours.status === 0, isWhole, ours.stderr);
      if (!isWhole) assert.match(ours.stderr, /sector size .* left over/);
    }
    // Unasked, 512 are taken.
    lamina('format', '-q', ...FAST2, fresh('sectors.img', 20 * MIB + 512), '--key-file', at('one'));
  });

  it('a measured cost follows from the time that is asked for', async () => {
    for (const kind of [
      ['--pbkdf', 'pbkdf2'],
      ['--pbkdf', 'argon2id', '--pbkdf-memory', '65536'],
    ]) {
      const costs: number[] = [];
      for (const ms of ['1', '400']) {
        const file = fresh('ours.img');
        lamina('format', '-q', file, '--key-file', at('one'), '--iter-time', ms, ...kind);
        const { metadata } = JSON.parse(lamina('dump', file, '--json')) as {
          metadata: { keyslots: Record<string, { kdf: Record<string, number> }> };
        };
        const { iterations, time = 0, memory = 0 } = metadata.keyslots['0']?.kdf ?? {};
        costs.push(iterations ?? time * memory);
        assert.equal(await bothOpen(file, at('one')), true);
      }
      // Whatever else the machine has to do meanwhile.
      const [least = 0, more = 0] = costs;
      assert.ok(least > 0 && more > 5 * least, `${kind.join(' ')}: ${costs.join()}`);
    }
  });

  it('backups are the same bytes, and each restores those of the other', async () => {
    for (const kind of [['--type', 'luks1', ...FAST1], FAST2]) {
      const file = fresh('theirs.img');
      cryptsetup('luksFormat', '-q', ...kind, file, at('one'));
      for (const name of ['theirs.bak', 'ours.bak']) rmSync(at(name), { force: true });
      cryptsetup('luksHeaderBackup', file, '--header-backup-file', at('theirs.bak'));
      lamina('header-backup', file, at('ours.bak'));
      assert.ok(readFileSync(at('ours.bak')).equals(readFileSync(at('theirs.bak'))));
      assert.equal(runLamina(['header-backup', file, at('ours.bak')]).status, 1, 'it exists');
      await sameDump(at('ours.bak'));
      const change = [file, '--key-file', at('one'), '--new-key-file', at('two')];
      lamina('change-key', ...change, ...(kind === FAST2 ? FAST2 : FAST1));
      assert.equal(await bothOpen(file, at('one')), false);
      const refused = runLamina(['header-restore', file, at('theirs.bak')]);
      assert.match(refused.stderr, /--batch-mode/);
      assert.equal(await bothOpen(file, at('two')), true);
      lamina('header-restore', '-q', file, at('theirs.bak'));
      assert.equal(await bothOpen(file, at('one')), true);
      assert.equal(await bothOpen(file, at('two')), false);
      const fd = openSync(file, 'r+');
      writeSync(fd, Buffer.alloc(2 * MIB), 0, 2 * MIB, 0);
      closeSync(fd);
      cryptsetup('luksHeaderRestore', '-q', file, '--header-backup-file', at('ours.bak'));
      assert.equal(await bothOpen(file, at('one')), true);
      const other = fresh('other.img');
      cryptsetup('luksFormat', '-q', ...kind, '--offset', '65536', fresh('b', 64 * MIB), at('one'));
      const before = readFileSync(at('b'));
      const misfit = runLamina(['header-restore', '-q', at('b'), at('ours.bak')]);
      assert.match(misfit.stderr, /does not fit .*data offset/);
      assert.ok(readFileSync(at('b')).equals(before));
      lamina('header-restore', '-q', other, at('ours.bak'));
      assert.equal(await bothOpen(other, at('one')), true);
    }
  });

  it('headers become the other version by either program, with all their keys', async () => {
    const file = fresh('c.img');
    const add = [file, '--key-file', at('one'), '--new-key-file'];
    lamina('format', '-q', '--type', 'luks1', ...FAST1, file, '--key-file', at('one'));
    lamina('add-key', ...add, at('two'), ...FAST1, '--new-key-slot', '7');
    const key = await ourKey(file, at('one'));
    const by = ['convert', '-q', file, '--type'];
    const steps: (() => string)[] = [
      () => lamina(...by, 'luks2'),
      () => lamina(...by, 'luks1'),
      () => lamina(...by, 'luks2'),
      () => cryptsetup(...by, 'luks1'),
      () => cryptsetup(...by, 'luks2'),
      () => lamina(...by, 'luks1'),
      () => cryptsetup(...by, 'luks2'),
      () => cryptsetup(...by, 'luks1'),
    ];
    for (const step of steps) {
      step();
      await sameDump(file);
      assert.equal(await ourKey(file, at('one')), key);
      assert.equal(await ourKey(file, at('two')), key);
      assert.equal(theirKey(file, at('two')), key);
    }
    lamina(...by, 'luks2');
    lamina('add-key', ...add, at('three'), ...FAST2);
    const before = readFileSync(file);
    const refused = runLamina([...by, 'luks1']);
    assert.match(refused.stderr, /key slot 1: derives its key by argon2id; change it to pbkdf2/);
    assert.ok(readFileSync(file).equals(before));
  });

  it('a conversion that was cut opens with cryptsetup', async () => {
    const file = fresh('c.img', 3 * MIB);
    lamina('format', '-q', '--type', 'luks1', ...FAST1, file, '--key-file', at('one'));
    const disk = new LuksDisk(readFileSync(file));
    const volume = openLuks(disk);
    assert.ok(volume instanceof Luks1Volume);
    disk.mark();
    await convertToLuks2(volume, false);
    const prng = new Prng(SEED);
    for (const [after, event] of disk.events.entries()) {
      if (event !== 'flush') continue;
      for (let i = 0; i < 3; i++) {
        writeFileSync(file, disk.crashed(after, i === 0 ? undefined : prng));
        assert.equal(
          await bothOpen(file, at('one')),
          true,
          `LAMINA_SEED=${SEED}, cut after ${after}`,
        );
      }
    }
  });

  it('detached headers', async () => {
    for (const kind of [['--type', 'luks1', ...FAST1], FAST2]) {
      const data = fresh('data.img', 4 * MIB);
      const before = readFileSync(data);
      for (const name of ['theirs.hdr', 'ours.hdr']) rmSync(at(name), { force: true });
      cryptsetup('luksFormat', '-q', ...kind, '--header', at('theirs.hdr'), data, at('one'));
      lamina('format', '-q', ...kind, '--header', at('ours.hdr'), data, '--key-file', at('one'));
      assert.ok(readFileSync(data).equals(before));
      for (const header of [at('theirs.hdr'), at('ours.hdr')]) {
        await sameDump(header);
        lamina('test-passphrase', data, '--header', header, '--key-file', at('one'));
        assert.equal(await bothOpen(header, at('one')), true);
        const add = ['--key-file', at('one'), '--new-key-file', at('two'), '--header', header];
        lamina('add-key', data, ...add, ...(kind === FAST2 ? FAST2 : FAST1));
        assert.equal(await bothOpen(header, at('two')), true);
        const sector = kind === FAST2 ? ' 1 sector_size:4096' : '';
        const table = `0 8192 crypt aes-xts-plain64 KEY 0 ${data} 0${sector}\n`;
        assert.equal(lamina('open', data, '--header', header, '--table'), table);
        assert.match(
          runLamina(['open', header, '--table']).stderr,
          /header of another device|the header, which/,
        );
      }
    }
  });

  it('what is known is not overwritten unless forced; without a terminal nobody is asked', async () => {
    const file = fresh('ours.img');
    const format = ['format', file, '--key-file', at('one'), ...FAST2];
    assert.match(runLamina(format).stderr, /overwrites data.*--batch-mode/);
    assert.ok(readFileSync(file).equals(Buffer.alloc(20 * MIB)));
    good('mkfs.ext4', '-q', '-F', file);
    const before = readFileSync(file);
    const refused = runLamina([...format, '-q']);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /holds ext2\/ext3\/ext4; --force overwrites/);
    assert.ok(readFileSync(file).equals(before));
    lamina(...format, '-q', '--force');
    assert.equal(await bothOpen(file, at('one')), true);
    assert.equal(runLamina(['format']).status, 2, 'called wrongly');
  });

  it('a header that is being re-encrypted can be looked at and nothing else', async () => {
    const file = fresh('theirs.img', 40 * MIB);
    cryptsetup('luksFormat', '-q', ...FAST2, file, at('one'));
    cryptsetup('reencrypt', '-q', '--init-only', '--key-file', at('one'), ...FAST2, file);
    const before = readFileSync(file);
    assert.match(lamina('dump', file), /Requirements:\tonline-reencrypt/);
    const add = ['add-key', file, '--key-file', at('one'), '--new-key-file', at('two')];
    for (const args of [add, ['test-passphrase', file, '--key-file', at('one')]]) {
      assert.match(runLamina(args).stderr, /being re-encrypted: finish that with cryptsetup/);
    }
    assert.ok(readFileSync(file).equals(before));
  });

  it('data that qemu-img encrypted is decrypted by the key, and the other way round', async () => {
    const plain = Buffer.alloc(MIB);
    new Prng(7).fill(plain);
    writeFileSync(at('plain'), plain);
    const secret = ['--object', `secret,id=s,file=${at('one')}`];
    rmSync(at('qemu.img'), { force: true });
    const options = 'key-secret=s,iter-time=10';
    const make = ['convert', ...secret, '-f', 'raw', '-O', 'luks', '-o', options];
    goodAtLast('qemu-img', [...make, at('plain'), at('qemu.img')], /accurate CPU usage/);
    await sameDump(at('qemu.img'));
    assert.equal(await bothOpen(at('qemu.img'), at('one')), true);
    const theirs = decrypt(at('qemu.img'), await ourKey(at('qemu.img'), at('one')), MIB);
    assert.ok(theirs.equals(plain));

    const file = fresh('ours.img', 3 * MIB);
    lamina('format', '-q', '--type', 'luks1', ...FAST1, file, '--key-file', at('one'));
    const table = lamina('open', file, '--table', '--show-keys', '--key-file', at('one'));
    const [, sectors, , cipher, hex = '', ivOffset, , offset] = table.trim().split(' ');
    assert.deepEqual([sectors, cipher, ivOffset, offset], ['2048', 'aes-xts-plain64', '0', '4096']);
    const fd = openSync(file, 'r+');
    writeSync(fd, sectorsOf(plain, hex, { isEncrypting: true }), 0, MIB, 4096 * 512);
    closeSync(fd);
    const image = `driver=luks,key-secret=s,file.filename=${file}`;
    rmSync(at('out'), { force: true });
    good('qemu-img', 'convert', ...secret, '--image-opts', image, '-O', 'raw', at('out'));
    assert.ok(readFileSync(at('out')).equals(plain));
  });

  it('typed passphrases are not shown, are verified, and may be mistyped', async () => {
    const file = fresh('ours.img');
    const typed = (
      args: readonly string[],
      script: readonly (readonly [string, string])[],
    ): string => {
      const command = [process.execPath, LAMINA, 'luks', ...args];
      const input = JSON.stringify({ command, script });
      const { status, stdout, stderr } = run('python3', ['-c', TYPIST], input);
      assert.equal(status, 0, stderr);
      return stdout;
    };
    const ask = 'Enter passphrase';
    const format = ['format', file, ...FAST2];
    assert.match(typed(format, [['YES', 'no\n']]), /not confirmed.*exit 1/s);
    const differ = [
      ['Are you sure', 'YES\n'],
      [ask, 'geheim\n'],
      ['Verify', 'anders\n'],
    ] as const;
    assert.match(typed(format, differ), /not the same.*exit 1/s);
    assert.ok(readFileSync(file).equals(Buffer.alloc(20 * MIB)));
    const same = [
      ['Are you sure', 'YES\n'],
      [ask, 'gehX\x7feim\n'],
      ['Verify', 'geheim\n'],
    ] as const;
    const made = typed(format, same);
    assert.match(made, /exit 0/);
    assert.doesNotMatch(made, /geheim/);
    writeFileSync(at('typed'), 'geheim');
    assert.equal(await bothOpen(file, at('typed')), true);
    const test = ['test-passphrase', file];
    const wrong = [
      [ask, 'falsch\n'],
      [ask, 'geheim\n'],
    ] as const;
    assert.match(typed(test, wrong), /slot 0 does not open.*key slot 0 opens.*exit 0/s);
    assert.match(typed([...test, '-T', '1'], [[ask, 'falsch\n']]), /slot 0 does not open.*exit 3/s);
    assert.match(typed(test, [[ask, '\x03']]), /given up.*exit 1/s);
  });

  it('damaged and absurd headers of theirs are refused in time, and stay as they are', async () => {
    const file = fresh('theirs.img');
    cryptsetup('luksFormat', '-q', ...FAST2, file, at('one'));
    const good = readFileSync(file);
    const test = ['test-passphrase', file, '--key-file', at('one'), '--max-time', '1'];
    const metadata = good.toString('latin1', 4096, 16384).replaceAll('\0', '');
    const seal = join(folder.path, 'sealed');
    for (const [from, to, why] of [
      ['"memory":64', '"memory":4294967295', /Argon2 needs 4\.0 TiB of memory/],
      ['"time":4', '"time":4294967295', /takes more than 1 s/],
      ['"iterations":1000', '"iterations":4294967295', /need less than 2\^31/],
      ['"iterations":1000', '"iterations":2147483647', /takes more than 1 s/],
      ['"offset":"32768"', '"offset":"16777216"', /expected within/],
    ] as const) {
      const disk = new LuksDisk(good);
      disk.image.set(good);
      setText(disk.image, metadata.replace(from, to));
      writeFileSync(seal, disk.image);
      // What is paid after all takes hours, and the call is ended.
      const { status, stderr } = runLamina(test.map((a) => (a === file ? seal : a)));
      assert.equal(status, 1, stderr);
      assert.match(stderr, why);
      assert.ok(readFileSync(seal).equals(disk.image));
    }
    // Read-only files can be looked at.
    copyFileSync(file, seal);
    chmodSync(seal, 0o400);
    assert.match(lamina('dump', seal), /Version: +\t2/);
  });

  it('damage to headers of theirs is refused or does not matter', async () => {
    for (const kind of [
      ['--type', 'luks1', ...FAST1],
      ['--type', 'luks2', '--pbkdf', 'pbkdf2', ...FAST1],
    ]) {
      const file = fresh('theirs.img', 3 * MIB);
      const small = ['-c', 'aes-cbc-plain64', '-s', '128', '--offset', '4096'];
      cryptsetup('luksFormat', '-q', ...kind, ...small, file, at('one'));
      cryptsetup('luksAddKey', '-q', ...kind.slice(2), '--key-file', at('one'), file, at('two'));
      const passphrase = Buffer.from('two');
      const image = readFileSync(file);
      const counts = await fuzzLuks({ image, passphrase, seed: SEED, rounds: FUZZ_ROUNDS });
      assert.ok(counts.refused > 0 && counts.unlocked > 0, `LAMINA_SEED=${SEED}`);
    }
  });

  const noTarget = !existsSync(CRYPT_TARGET) && 'there is no crypt target';
  it('an opened volume is a device of the daemon', { skip: noTarget }, async () => {
    const d = desk();
    try {
      await d.start();
      const [file, key] = [join(d.path, 'v.img'), at('one')];
      writeFileSync(file, '');
      truncateSync(file, 3 * MIB);
      d.ok(['luks', 'format', '-q', '--type', 'luks1', ...FAST1, file, '--key-file', key]);
      d.ok(['luks', 'open', file, 'v', '--key-file', key]);
      d.ok(['export', 'add', 'v']);
      const uri = `nbd+unix:///v?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
      good('qemu-io', '-f', 'raw', '-c', 'write -P 7 0 64k', '-c', 'flush', uri);
      assert.match(d.refused(['luks', 'open', file, 'w', '--key-file', key]), /is open already/);
      // Keys come and go while it is open.
      const add = ['--key-file', key, '--new-key-file', at('two'), ...FAST1];
      d.ok(['luks', 'add-key', file, ...add]);
      assert.match(lamina('dump', file), /Key Slot 1: ENABLED/);
      assert.match(d.refused(['luks', 'convert', '-q', file, '--type', 'luks2']), /is in use/);
      // It grows with the file.
      const lenSectors = (): number => {
        const [line] = JSON.parse(d.ok(['table', 'v', '--json'])) as {
          lines: { lenSectors: number }[];
        }[];
        return line?.lines[0]?.lenSectors ?? 0;
      };
      assert.equal(lenSectors(), (MIB * 1) / 512);
      truncateSync(file, 5 * MIB);
      d.ok(['luks', 'resize', file, 'v', '--key-file', key]);
      assert.equal(lenSectors(), (MIB * 3) / 512);
      d.ok(['export', 'remove', 'v']);
      const hex = await ourKey(file, at('two'));
      assert.ok(!readFileSync(join(d.path, 'lamina', 'state.json'), 'utf8').includes(hex));
      d.ok(['luks', 'close', 'v']);
      const secret = ['--object', `secret,id=s,file=${at('two')}`];
      const image = `driver=luks,key-secret=s,file.filename=${file}`;
      good('qemu-img', 'convert', ...secret, '--image-opts', image, '-O', 'raw', at('out'));
      assert.ok(readFileSync(at('out')).subarray(0, 65536).equals(Buffer.alloc(65536, 7)));
    } finally {
      await d.end();
    }
  });

  it('an opened LUKS2 volume of theirs has sectors of 4096 bytes', { skip: noTarget }, async () => {
    const d = desk();
    try {
      await d.start();
      const file = fresh('theirs.img', 17 * MIB);
      cryptsetup('luksFormat', '-q', ...FAST2, '--sector-size', '4096', file, at('one'));
      d.ok(['luks', 'open', file, 'v', '--key-file', at('one'), '--allow-discards']);
      d.ok(['export', 'add', 'v']);
      const uri = `nbd+unix:///v?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
      good('qemu-io', '-f', 'raw', '-c', 'write -P 7 64k 8k', '-c', 'flush', uri);
      d.ok(['export', 'remove', 'v']);
      d.ok(['luks', 'close', 'v']);
      const start = 16 * MIB + 65536;
      const written = readFileSync(file).subarray(start, start + 8192);
      const plain = sectorsOf(written, await ourKey(file, at('one')), {
        isEncrypting: false,
        sectorBytes: 4096,
        firstSector: 128,
      });
      assert.ok(plain.equals(Buffer.alloc(8192, 7)));
    } finally {
      await d.end();
    }
  });
});

/** Types into a pseudo terminal: each text when its prompt has come. */
const TYPIST = `
import json, os, pty, sys, time
task = json.load(sys.stdin)
pid, fd = pty.fork()
if pid == 0:
    os.execv(task["command"][0], task["command"])
seen = b""
done = 0
def read():
    global seen
    try:
        data = os.read(fd, 65536)
    except OSError:
        data = b""
    seen += data
    return len(data) > 0
for prompt, text in task["script"]:
    while prompt.encode() not in seen[done:]:
        if not read():
            break
    done = len(seen)
    time.sleep(0.2)
    os.write(fd, text.encode())
while read():
    pass
status = os.waitpid(pid, 0)[1]
sys.stdout.write(seen.decode() + "exit %d" % os.waitstatus_to_exitcode(status))
`;

function setText(image: Uint8Array, text: string): void {
  setMetadata(image, text, 16384);
}

/** aes-xts-plain64 by Node; its IVs count 512 bytes, whatever the sector size. */
function sectorsOf(
  data: Buffer,
  hex: string,
  options: {
    readonly isEncrypting: boolean;
    readonly sectorBytes?: number;
    readonly firstSector?: number;
  },
): Buffer {
  const key = Buffer.from(hex, 'hex');
  const { isEncrypting, sectorBytes = 512, firstSector = 0 } = options;
  const make = isEncrypting ? createCipheriv : createDecipheriv;
  const out: Buffer[] = [];
  for (let at = 0; at < data.length; at += sectorBytes) {
    const iv = Buffer.alloc(16);
    iv.writeBigUInt64LE(BigInt(firstSector + at / 512));
    out.push(
      make(`aes-${key.length * 4}-xts`, key, iv).update(data.subarray(at, at + sectorBytes)),
    );
  }
  return Buffer.concat(out);
}

function decrypt(file: string, hex: string, sizeBytes: number): Buffer {
  const { payloadOffsetSectors } = JSON.parse(lamina('dump', file, '--json')) as {
    payloadOffsetSectors: number;
  };
  const start = payloadOffsetSectors * 512;
  return sectorsOf(readFileSync(file).subarray(start, start + sizeBytes), hex, {
    isEncrypting: false,
  });
}
