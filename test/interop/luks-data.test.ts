// The data of volumes, with cryptsetup as the judge of every byte: what it has encrypted, `luks open` shows as plain;
// what is written there, also behind a `luks resize`, is plain again when cryptsetup has decrypted it. cryptsetup
// does that offline, by re-encryption, without the kernel's device mapper.

import assert from 'node:assert/strict';
import { copyFileSync, existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { desk } from '../../src/testing/daemon-desk.ts';
import { LuksDesk, without } from '../../src/testing/luks-desk.ts';
import { SEED } from '../../src/testing/seed.ts';

const MIB = 1024 * 1024;
const PLAIN_BYTES = 3 * MIB;
/** What `luks resize` adds. */
const MORE_BYTES = MIB;
/** Half of what an attached header takes from the device at first; the other half stays free behind the data. */
const HEADER_BYTES = 2 * MIB;
const FORMAT = ['-q', '--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000', '-s', '256'];
const OFFLINE = ['-q', '--force-offline-reencrypt'];

interface Form {
  readonly type: 'luks1' | 'luks2';
  readonly sectorBytes: 512 | 4096;
  readonly isDetached: boolean;
}

const FORMS: readonly Form[] = [
  { type: 'luks1', sectorBytes: 512, isDetached: false },
  { type: 'luks1', sectorBytes: 512, isDetached: true },
  { type: 'luks2', sectorBytes: 4096, isDetached: false },
  { type: 'luks2', sectorBytes: 512, isDetached: true },
];

interface Volume {
  readonly device: string;
  readonly at: readonly string[];
}

/** cryptsetup encrypts `plain`; undefined where the kernel has no ciphers for it. */
function encrypted(
  d: LuksDesk,
  form: Form,
  plain: Buffer,
  key: readonly string[],
): Volume | undefined {
  const device = d.at('device');
  writeFileSync(device, plain);
  const header = d.at('header');
  if (!form.isDetached) truncateSync(device, PLAIN_BYTES + 2 * HEADER_BYTES);
  const where = form.isDetached
    ? ['--header', header]
    : ['--reduce-device-size', String((2 * HEADER_BYTES) / MIB) + 'M'];
  const sector = ['--sector-size', String(form.sectorBytes)];
  const args = ['reencrypt', '--encrypt', ...OFFLINE, ...FORMAT, ...sector, ...key, ...where];
  if (d.run('cryptsetup', [...args, device]).status !== 0) return undefined;
  if (form.type === 'luks1') {
    d.cryptsetup('convert', '-q', '--type', 'luks1', form.isDetached ? header : device);
  }
  return { device, at: form.isDetached ? ['--header', header] : [] };
}

/** What cryptsetup finds in the volume. */
function decrypted(d: LuksDesk, form: Form, volume: Volume, key: readonly string[]): Buffer {
  const { device } = volume;
  const copy = d.at('copy');
  copyFileSync(device, copy);
  const header = form.isDetached ? d.at('header') : copy;
  if (form.type === 'luks1') d.cryptsetup('convert', '-q', '--type', 'luks2', header);
  // An attached header goes to a file of its own first.
  const where = form.isDetached ? header : d.at('taken');
  d.cryptsetup('reencrypt', '--decrypt', ...OFFLINE, ...key, '--header', where, copy);
  return readFileSync(copy);
}

for (const form of FORMS) {
  const how = form.isDetached ? 'detached' : 'attached';
  const name = `${form.type}, ${how}, sectors of ${form.sectorBytes}: the data is what cryptsetup says`;
  test(name, { skip: without('cryptsetup', 'qemu-io', 'qemu-img') }, async (t) => {
    await life(t, form);
  });
}

async function life(t: TestContext, form: Form): Promise<void> {
  t.diagnostic(`LAMINA_SEED=${SEED}`);
  using l = new LuksDesk({ one: 'one' });
  const d = desk();
  t.after(async () => await d.end());
  const key = ['--key-file', l.at('one')];
  const plain = Buffer.alloc(PLAIN_BYTES);
  new Prng(SEED).fill(plain);
  const volume = encrypted(l, form, plain, key);
  if (volume === undefined) return t.skip('cryptsetup cannot encrypt here');
  const { device, at } = volume;
  await d.start();
  const uri = `nbd+unix:///v?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
  const write = (byte: number, from: number, bytes: number): void => {
    d.ok(['export', 'add', 'v']);
    l.good('qemu-io', '-f', 'raw', '-c', `write -P ${byte} ${from} ${bytes}`, '-c', 'flush', uri);
    d.ok(['export', 'remove', 'v']);
    expected.fill(byte, from, from + bytes);
  };

  // What cryptsetup encrypted is plain.
  d.ok(['luks', 'open', device, 'v', '--readonly', ...at, ...key]);
  d.ok(['export', 'add', 'v', '--read-only']);
  l.good('qemu-img', 'convert', '-f', 'raw', '-O', 'raw', uri, l.at('out'));
  d.ok(['export', 'remove', 'v']);
  const shown = readFileSync(l.at('out'));
  assert.ok(
    shown.subarray(0, PLAIN_BYTES).equals(plain),
    'lamina decrypts what cryptsetup encrypted',
  );
  d.ok(['luks', 'close', 'v']);

  // What is written is plain for cryptsetup, also in what a resize has added.
  const expected = Buffer.alloc(shown.length + MORE_BYTES);
  shown.copy(expected);
  d.ok(['luks', 'open', device, 'v', ...at, ...key]);
  write(0x5a, 4096, 12_288);
  write(0x00, PLAIN_BYTES - 8192, 8192);
  const deviceBytes = readFileSync(device).length;
  truncateSync(device, deviceBytes + MORE_BYTES);
  d.ok(['luks', 'resize', device, 'v', ...at, ...key]);
  write(0xa5, shown.length, MORE_BYTES);
  d.ok(['luks', 'close', 'v']);
  assert.match(d.refused(['luks', 'close', 'v']), /v/);
  assert.ok(!existsSync(l.at('copy')));
  const found = decrypted(l, form, volume, key);
  assert.equal(found.subarray(0, expected.length).compare(expected), 0);
}
