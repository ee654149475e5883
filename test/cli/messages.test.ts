// What every command says when it is called wrongly or given what it cannot use: one line that begins with
// `lamina:`, the promised exit status, no JavaScript stack, no raw text of Node or OpenSSL.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
/** Two cores: more at a time take no less. */
const AT_A_TIME = 3;
const folder = mkdtempSync(join(tmpdir(), 'lamina-messages-'));
after(() => rmSync(folder, { recursive: true }));

writeFileSync(join(folder, 'disk'), '');
truncateSync(join(folder, 'disk'), 1 << 20);
writeFileSync(join(folder, 'empty'), '');
writeFileSync(join(folder, 'junk'), Buffer.alloc(1 << 20, 'x:\x1b[2J\n{'));
mkdirSync(join(folder, 'dir'));
mkdirSync(join(folder, 'creds'));
for (const name of ['ca-cert', 'server-cert', 'server-key']) {
  writeFileSync(join(folder, 'creds', `${name}.pem`), 'no certificate\n');
}
writeFileSync(join(folder, 'locked'), 'x'.repeat(4096));
chmodSync(join(folder, 'locked'), 0);
const KEY = '00112233445566778899aabbccddeeff0011223344556677z899aabbccddeeff';

type Bad = readonly [call: string, status: number, message: RegExp];

const ANY_METADATA: readonly Bad[] = ['pool check', 'pool dump'].flatMap((command): Bad[] => [
  [`${command} missing`, 1, /missing: no such file/],
  [`${command} dir`, 1, /dir: need a file or a block device/],
  [`${command} empty`, 1, /empty: has 0 bytes, need at least 4096/],
  [`${command} disk`, 1, /superblock: checksum/],
  [`${command} junk`, 1, /superblock/],
]);

const ANY_LUKS: readonly Bad[] = ['dump', 'open', 'test-passphrase', 'add-key'].flatMap(
  (command): Bad[] => [
    [`luks ${command} missing`, 1, /missing: no such file/],
    [`luks ${command} dir`, 1, /dir: need a file or a block device/],
    [`luks ${command} disk`, 1, /disk: is not a LUKS device/],
  ],
);

const BAD: readonly Bad[] = [
  // The command line itself.
  ['srve', 2, /unknown command 'srve'\n\(Did you mean serve\?\)/],
  ['serve --nosuch', 2, /unknown option '--nosuch'/],
  ['serve disk extra', 2, /too many arguments/],
  ['pool nosuch', 2, /unknown command 'nosuch'/],
  ['help nosuch', 2, /unknown command 'nosuch'/],
  ['pool help nosuch', 2, /unknown command 'nosuch'/],
  ['luks kill-slot disk x', 2, /'x' is invalid for argument 'slot'/],
  ['completion tcsh', 2, /Allowed choices are bash, zsh, fish/],
  ['rename x', 2, /missing required argument 'new'/],
  ['create', 2, /create: no name: give NAME or --concise SPEC/],
  [
    'message p x words',
    2,
    /message: sector 'x': expected a number, which comes before the words: lamina message p 0 x words/,
  ],
  ['wait p x', 2, /wait: event 'x': expected a number of 0 or more/],
  ['conformance', 2, /give one of DEVICE, --table, --serve, --simulate; found none/],
  ['conformance --simulate --only nosuch', 2, /--only nosuch: no such check/],
  ['replay junk', 2, /give DEVICE, or --list/],
  ['verity format disk', 2, /missing required argument 'hash'/],
  ['luks format disk --type luks9', 2, /Allowed choices are luks1, luks2/],
  // serve: what is served.
  ['serve', 2, /found none/],
  ['serve missing', 1, /missing: cannot open: No such file or directory/],
  ['serve dir', 1, /dir: is a directory/],
  ['serve empty', 1, /has 0 bytes/],
  ['serve disk/x', 1, /disk\/x: cannot open: Not a directory/],
  ['serve /dev/null', 1, /neither a regular file nor a block device/],
  ['serve gopher:x', 1, /unknown scheme 'gopher:'/],
  ['serve --table bad', 1, /expected <start sector> <sectors>/],
  [`serve --table '0 8 crypt aes-xts-plain64 ${KEY} 0 disk 0'`, 1, /64 characters: expected/],
  [`serve --table '0 8 crypt ${KEY} 0 disk 0'`, 1, /Not enough arguments: 4/],
  ['serve --file missing', 1, /missing: cannot read: No such file or directory/],
  ['serve --file dir', 1, /dir: cannot read: Is a directory/],
  ['serve --file junk', 1, /junk:1: /],
  // serve: where, and for whom.
  ["serve disk --unix ''", 2, /the path of a socket is empty/],
  [`serve disk --unix ${'s'.repeat(108)}`, 2, /108 bytes, a socket's path has at most 107/],
  ['serve disk --unix dir', 1, /something that is no socket is there/],
  ['serve disk --unix none/s', 1, /its folder does not exist/],
  ['serve disk --tcp 1x', 2, /expected HOST:PORT/],
  ['serve disk --tcp 192.0.2.1:1 --allow-insecure', 1, /Cannot assign requested address/],
  ['serve disk --grace 0', 2, /expected a number of seconds/],
  ['serve disk --tls require', 2, /give one of --tls-creds DIR and --tls-psk FILE/],
  ['serve disk --tls require --tls-creds dir', 1, /server-cert\.pem: No such file or directory/],
  ['serve disk --tls require --tls-creds creds', 1, /server-cert\.pem: nothing in PEM format/],
  ['serve disk --tls require --tls-psk missing', 1, /cannot read missing: No such file/],
  ['serve disk --tls require --tls-psk junk', 1, /TLS keys junk:1: /],
  // Files of other commands.
  ...ANY_METADATA,
  ...ANY_LUKS,
  ['pool restore missing disk', 1, /missing: cannot open: No such file or directory/],
  ['pool restore dir disk', 1, /dir: is a directory/],
  ['pool restore junk disk', 1, /XML line \d+/],
  ['pool repair disk dir', 1, /dir: need a file or a block device/],
  ['thin diff disk 1 2', 1, /disk: metadata block 0: thin superblock/],
  ['luks header-restore disk missing', 1, /missing: no such file/],
  ['verity dump missing', 1, /missing: cannot open: No such file or directory/],
  ['verity dump dir', 1, /dir: need a file or a block device/],
  ['verity dump disk', 1, /disk: verity superblock/],
  ['replay missing disk', 1, /missing: No such file or directory/],
  ['replay disk junk', 3, /disk: super: magic/],
  ['create x missing', 1, /missing: cannot read: No such file or directory/],
  ['create x dir', 1, /dir: cannot read: Is a directory/],
  ['up missing', 1, /missing: cannot read: No such file or directory/],
  ['up junk', 1, /junk:1: /],
  // Without a daemon.
  ['ls', 1, /no daemon at .*control\.sock .*start one with: lamina daemon/],
  ['export remove x', 1, /no daemon at/],
  ['daemon --tcp x', 2, /--tcp 'x': expected HOST:PORT/],
  ['daemon --unix disk', 1, /something that is no socket is there/],
];

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** As from a shell: a program of its own. */
const DIRECT = `PATH="${dirname(process.execPath)}:$PATH" exec "${LAMINA}"`;

function run(
  call: string,
  before = '',
  program = `exec "${process.execPath}" "${LAMINA}"`,
): Promise<Outcome> {
  // Of its own: another call may be a daemon, or have a disk open.
  const home = mkdtempSync(join(tmpdir(), 'lamina-call-'));
  cpSync(folder, home, { recursive: true });
  const child = spawn('/bin/sh', ['-c', `${before} ${program} ${call}`], {
    cwd: home,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 60_000,
    env: { ...process.env, XDG_RUNTIME_DIR: home, XDG_STATE_HOME: home, LAMINA_TRACE: '' },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => void (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => void (stderr += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status) => {
      rmSync(home, { recursive: true });
      resolve({ status, stdout, stderr });
    });
  });
}

/** What holds for whatever is wrong. */
function check({ stdout, stderr }: Outcome): void {
  const text = `${stdout}${stderr}`;
  assert.doesNotMatch(text, /^\s+at .*[:(]\d+/m, `a stack: ${text}`);
  assert.doesNotMatch(text, /error:0|undefined|\[object|NaN|node:internal/, text);
  assert.doesNotMatch(text, /\bE[A-Z]{3,}: /, `a text of Node: ${text}`);
  assert.doesNotMatch(text.replaceAll('\n', ''), /\p{Cc}/u, 'control characters');
  for (let at = 0; at + 12 <= KEY.length; at++) {
    assert.ok(!text.includes(KEY.slice(at, at + 12)), `a part of a key: ${text}`);
  }
}

test('what is called wrongly or cannot be used is told in a line', {
  concurrency: AT_A_TIME,
}, async (t) => {
  const all = BAD.map(([call, status, message]) =>
    t.test(`lamina ${call.replaceAll(KEY, 'KEY').slice(0, 100)}`, async () => {
      const outcome = await run(call);
      const text = `${outcome.stdout}${outcome.stderr}`;
      assert.match(text, message);
      assert.equal(outcome.status, status, text);
      check(outcome);
      if (outcome.stdout !== '') return;
      const [first = '', ...more] = outcome.stderr.trimEnd().split('\n');
      assert.match(first, /^lamina: /);
      for (const line of more) assert.match(line, /^\(.*\)$/, 'one line, and hints in brackets');
    }),
  );
  await Promise.all(all);
});

test('a wrong call with --json is told as JSON, and nothing else is said', async () => {
  for (const call of [
    'srve --json',
    'ls --nosuch --json',
    'help nosuch --json',
    'rename x --json',
  ]) {
    const { status, stdout, stderr } = await run(call);
    assert.equal(status, 2, call);
    assert.equal(stderr, '', call);
    const { error } = JSON.parse(stdout) as { error: { status: string; message: string } };
    assert.equal(error.status, 'EINVAL');
    assert.match(error.message, /^(?:unknown|missing)/);
  }
});

test('output that cannot be written is an error; a reader that goes away is not', async () => {
  const full = await run('--help >/dev/full');
  assert.equal(full.status, 1);
  assert.match(full.stderr, /^lamina: cannot write to stdout: No space left on device\n$/);
  // A fifo whose reader goes away before the command writes.
  const gone = await run('conformance --list >gone', 'mkfifo gone; (exec 3<gone) & ');
  assert.equal(gone.stderr, '');
  assert.equal(gone.status, 141);
});

test('an error that cannot be printed as JSON is told in a line', async () => {
  for (const [call, status] of [
    ['ls --json', 1],
    ['ls --nosuch --json', 2],
    ['luks dump junk --json', 1],
    ['verity format disk tree --json', 1],
    ['--help --json', 1],
  ] as const) {
    const full = await run(`${call} >/dev/full`);
    assert.match(full.stderr, /^lamina: [^\n]+\n$/, call);
    assert.equal(full.status, status, call);
    check(full);
  }
});

test('what prints its result fails where standard output is closed', async () => {
  const closed = /^lamina: cannot write to stdout: standard output is closed\n$/;
  for (const call of ['--help', '--version', 'verity format disk tree', 'conformance --list']) {
    for (const to of ['>&-', '>&- <&-']) {
      const { status, stderr } = await run(`${call} ${to}`, '', DIRECT);
      assert.match(stderr, closed, call);
      assert.equal(status, 1, call);
    }
  }
  const backup = await run('thin backup load disk - >&-', '', DIRECT);
  assert.notEqual(backup.status, 0);
  // The null device is a place where what nobody wants may go, however it was opened.
  for (const to of ['>/dev/null', '1<>/dev/null', '2>&- >/dev/null']) {
    assert.equal((await run(`--help ${to}`, '', DIRECT)).status, 0, to);
  }
});

test('a limit of files or memory that is too low is told', async () => {
  const few = await run('serve disk --unix few', 'ulimit -n 24;');
  assert.match(few.stderr, /^lamina: .*Too many open files.*ulimit -n/);
  assert.equal(few.status, 1);
  check(few);
});

test('places that cannot be are told by what names them, with the same status', async () => {
  const long = `/${'l'.repeat(100)}`;
  for (const call of ['daemon', 'ls']) {
    const outcome = await run(call, `unset XDG_STATE_HOME; export XDG_RUNTIME_DIR=${long};`);
    assert.match(outcome.stderr, /^lamina: XDG_RUNTIME_DIR: socket .* bytes, at most 107/);
    assert.equal(outcome.status, 1);
  }
  const made = join(folder, 'l'.repeat(90));
  mkdirSync(made);
  const serve = await run('serve disk', `export XDG_RUNTIME_DIR=${made};`);
  assert.match(serve.stderr, /^lamina: XDG_RUNTIME_DIR: socket .* bytes, at most 107/);
  assert.equal(serve.status, 1);
  for (const call of ['daemon', 'serve disk']) {
    const outcome = await run(call, 'umask 777;');
    assert.match(outcome.stderr, /^lamina: umask 777: takes away the server's own rights/);
    assert.equal(outcome.status, 1);
  }
  const gone = await run('serve disk', 'mkdir gone; cd gone; rmdir ../gone;');
  assert.match(gone.stderr, /^lamina: .*the working directory is not there any more/);
  assert.equal(gone.status, 1);
  check(gone);
});
