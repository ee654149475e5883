// Tokens, unbound keys, priorities and labels of LUKS2 headers beside Debian's cryptsetup and systemd-cryptenroll: what
// either of them writes, lamina lists, uses, changes and keeps, and the other way round.

import assert from 'node:assert/strict';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { desk } from '../../src/testing/daemon-desk.ts';
import { LuksDisk } from '../../src/testing/luks-disk.ts';
import { LuksDesk, without } from '../../src/testing/luks-desk.ts';
import { SEED } from '../../src/testing/seed.ts';
import { UserKeys } from '../../src/testing/user-keys.ts';
import { DmError } from '../../src/base/errors.ts';
import { importToken } from '../../src/tools/luks/luks2-tokens.ts';
import { Luks2Volume } from '../../src/tools/luks/luks2-volume.ts';
import { openLuks } from '../../src/tools/luks/open-luks.ts';

const skip = without('cryptsetup');
const MIB = 1024 * 1024;
const FAST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];

function made(): LuksDesk {
  return new LuksDesk({ one: 'one', two: 'two', three: 'three' });
}

/** A volume that cryptsetup made, with the passphrase of `one` in slot 0. */
function formatted(d: LuksDesk, name = 'v.img'): string {
  const file = d.fresh(name);
  d.cryptsetup('luksFormat', '-q', ...FAST, file, d.at('one'));
  return file;
}

describe('LUKS2 tokens with cryptsetup', { skip }, () => {
  it('either adds, imports, exports, replaces, unassigns and removes what the other reads', () => {
    using d = made();
    // One and the same sequence of verbs, by either program: the same metadata in the end.
    const [theirs, ours] = [formatted(d, 'theirs.img'), d.at('ours.img')];
    d.cryptsetup('luksAddKey', '-q', ...FAST, '--key-file', d.at('one'), theirs, d.at('two'));
    writeFileSync(ours, readFileSync(theirs));
    writeFileSync(d.at('t.json'), ODD_TOKEN);
    const steps: readonly (readonly string[])[] = [
      ['add', '--key-description', 'some:key'],
      ['add', '--key-description', 'sömé key', '--token-id', '5', '--key-slot', '1'],
      ['add', '--key-description', 'other', '--token-id', '5', '--token-replace', '--unbound'],
      ['import', '--json-file', d.at('t.json')],
      ['import', '--json-file', d.at('t.json'), '--token-id', '31', '--key-slot', '0'],
      ['import', '--json-file', d.at('t.json'), '--token-id', '5', '--token-replace'],
      ['unassign', '--token-id', '0', '--key-slot', '1'],
      ['remove', '--token-id', '31'],
    ];
    for (const step of steps) {
      d.cryptsetup('token', ...step, theirs);
      d.lamina('token', ...step, ours);
      assert.equal(d.metadataText(ours), d.metadataText(theirs), step.join(' '));
      d.sameDump(ours);
    }
    for (const id of ['0', '1', '5']) {
      for (const file of [theirs, ours]) {
        const text = d.cryptsetup('token', 'export', '--token-id', id, file);
        assert.equal(d.lamina('token', 'export', '--token-id', id, file), text);
      }
    }
    d.lamina('token', 'export', '--token-id', '1', '--json-file', d.at('out.json'), theirs);
    assert.equal(readFileSync(d.at('out.json'), 'utf8'), PLAIN_TOKEN);
    assert.equal(d.lamina('token', 'list', theirs), LISTED);
    const listed = JSON.parse(d.lamina('token', 'list', '--json', theirs)) as unknown[];
    assert.deepEqual(listed[0], {
      id: 0,
      type: 'luks2-keyring',
      keySlots: [0],
      keyDescription: 'some:key',
    });
  });

  it('both refuse the same tokens and places, and write nothing', async () => {
    using d = made();
    const file = formatted(d);
    d.cryptsetup('token', 'add', '--key-description', 'x', '--token-id', '3', file);
    const before = readFileSync(file);
    const deep = (levels: number): string =>
      `{"type":"deep","keyslots":[],"x":${'['.repeat(levels)}${']'.repeat(levels)}}`;
    const texts = [
      '',
      'no json',
      '[]',
      '"text"',
      '{"type":"t"}',
      '{"keyslots":[]}',
      '{"type":"","keyslots":[]}',
      '{"type":7,"keyslots":[]}',
      '{"type":"t","keyslots":{}}',
      '{"type":"t","keyslots":[0]}',
      '{"type":"t","keyslots":["7"]}',
      '{"type":"luks2-other","keyslots":[]}',
      '{"type":"luks2-keyring","keyslots":[]}',
      '{"type":"luks2-keyring","keyslots":[],"key_description":7}',
      '{"type":"luks2-keyring","keyslots":[],"key_description":"x","more":1}',
      deep(40),
    ];
    const refuse = (args: readonly string[], input = ''): void => {
      const said = `${args.join(' ')} ${input}`;
      assert.equal(d.run('cryptsetup', ['token', ...args, file], input).status, 1, said);
      const ours = d.runLamina(['token', ...args, file], input);
      assert.ok(ours.status === 1 || ours.status === 2, `${said}: ${ours.status}`);
      assert.doesNotMatch(ours.stderr, /\n +at /, said);
    };
    for (const text of texts) {
      const theirs = d.run('cryptsetup', ['token', 'import', file], text);
      assert.equal(theirs.status, 1, text);
      const volume = openLuks(new LuksDisk(before));
      assert.ok(volume instanceof Luks2Volume);
      await assert.rejects(importToken(volume, text, {}), DmError, text);
    }
    refuse(['import'], 'no json');
    const token = '{"type":"t","keyslots":[]}';
    refuse(['import', '--token-id', '3'], token);
    refuse(['import', '--token-id', '32'], token);
    refuse(['import', '--key-slot', '1'], token);
    refuse(['add']);
    for (const place of ['--token-id=3', '--token-id=32', '--key-slot=1']) {
      refuse(['add', '--key-description', 'y', place]);
    }
    for (const verb of ['export', 'remove']) {
      refuse([verb]);
      refuse([verb, '--token-id', '0']);
      refuse([verb, '--token-id', '32']);
    }
    refuse(['unassign', '--token-id', '3']);
    refuse(['unassign', '--token-id', '3', '--key-slot', '1']);
    refuse(['unassign', '--token-id', '0', '--key-slot', '0']);
    assert.ok(readFileSync(file).equals(before));
    const luks1 = d.fresh('luks1.img');
    d.cryptsetup('luksFormat', '-q', '--type', 'luks1', ...FAST, luks1, d.at('one'));
    assert.match(d.runLamina(['token', 'list', luks1]).stderr, /LUKS1 has no tokens/);
  });

  it('the keyring has the passphrase: the same token opens the same slot', (t) => {
    using d = made();
    using keys = new UserKeys();
    const description = `lamina-test:${process.pid}:${SEED}`;
    if (!keys.canPut(description, 'two')) return t.skip('the kernel refuses its keyring here');
    const file = formatted(d);
    const key = ['--key-file', d.at('one')];
    d.cryptsetup('luksAddKey', '-q', ...FAST, ...key, file, d.at('two'));
    const unbound = ['--unbound', '--key-size', '256', '-S', '7'];
    d.cryptsetup('luksAddKey', '-q', ...FAST, ...unbound, file, d.at('three'));
    const token = (...args: string[]): string => d.lamina('token', ...args, file);
    token('add', '--key-description', description);
    d.cryptsetup('token', 'import', '--json-file', d.with('t.json', FOREIGN_TOKEN), file);

    /** What opens: the slot, or the exit status in cryptsetup's numbers. */
    const both = (name: string, args: readonly string[], input = ''): string => {
      const open = ['open', '--test-passphrase', '-v', file, ...args];
      const theirs = d.run('cryptsetup', open, input);
      const opened = /Key slot (\d+) unlocked/.exec(theirs.stdout)?.[1];
      const expected = opened === undefined ? `status ${theirs.status}` : `slot ${opened}`;
      const ours = d.runLamina(['test-passphrase', file, ...args], input);
      const slot = /^key slot (\d+) opens$/m.exec(ours.stdout)?.[1];
      // cryptsetup has 2 for a wrong passphrase, and 1 for the rest.
      const status = ours.status === 3 ? 2 : ours.status;
      const said = `${name}: ${theirs.stderr}${ours.stderr}`;
      assert.equal(slot === undefined ? `status ${status}` : `slot ${slot}`, expected, said);
      assert.doesNotMatch(ours.stderr, /\n +at /, said);
      return expected;
    };
    const only = '--token-only';
    assert.equal(both('tried unasked', []), 'slot 1');
    assert.equal(both('only', [only]), 'slot 1');
    assert.equal(both('by number', [only, '--token-id', '0']), 'slot 1');
    assert.equal(both('by type', [only, '--token-type', 'luks2-keyring']), 'slot 1');
    for (const args of [
      ['--token-id', '3'],
      ['--token-id', '1'],
      ['--token-type', 'foreign'],
      ['--token-id', '0', '--token-type', 'foreign'],
    ]) {
      assert.equal(both('none to try', [only, ...args]), 'status 1');
      assert.equal(both('none to try, then a passphrase', args, 'one'), 'slot 0');
    }
    keys.put(description, 'three');
    assert.equal(both('an unbound key opens no data', [only]), 'status 2');
    assert.equal(both('an unbound key', [only, '--unbound']), 'slot 7');
    keys.put(description, 'wrong');
    assert.equal(both('wrong', [only]), 'status 2');
    assert.equal(both('wrong, then a passphrase', ['--token-id', '0'], 'one'), 'slot 0');
    assert.equal(both('wrong, then a passphrase unasked', [], 'one'), 'slot 0');
    keys.put(description, 'two');
    d.cryptsetup('config', '--priority', 'ignore', '-S', '1', file);
    assert.equal(both('an ignored slot', [only]), 'status 2');
    assert.equal(both('an ignored slot by number', [only, '--token-id', '0']), 'slot 1');
    const unlockBy = [...FAST, '--token-id', '0', only, '--new-key-file', d.at('three')];
    d.lamina('add-key', ...unlockBy, '--new-key-slot', '9', file);
    d.cryptsetup('open', '--test-passphrase', '-S', '9', '--key-file', d.at('three'), file);
    token('unassign', '--token-id', '0', '--key-slot', '1');
    assert.equal(both('no slot of the data that opens', [only, '--token-id', '0']), 'status 2');
    keys.end();
    assert.equal(both('no such key', [only]), 'status 2');
    const missing = d.runLamina(['test-passphrase', file, only, '--token-id', '0']);
    assert.match(missing.stderr, /token 0: key 'lamina-test:.*': the kernel's keyring has none/);
  });

  it('open and resize take the passphrase from the keyring, by a token that cryptsetup wrote', async (t) => {
    using l = made();
    using keys = new UserKeys();
    const description = `lamina-test:open:${process.pid}:${SEED}`;
    if (!keys.canPut(description, 'two')) return t.skip('the kernel refuses its keyring here');
    const file = formatted(l);
    l.cryptsetup('luksAddKey', '-q', ...FAST, '--key-file', l.at('one'), file, l.at('two'));
    l.cryptsetup('token', 'add', '--key-description', description, '--key-slot', '1', file);
    l.cryptsetup('open', '--test-passphrase', '--token-only', file);
    const d = desk();
    t.after(async () => await d.end());
    await d.start();
    const size = (): string => /^0 (\d+) crypt/.exec(d.ok(['table', 'v']))?.[1] ?? '';
    for (const [i, how] of [['--token-only'], []].entries()) {
      d.ok(['luks', 'open', file, 'v', ...how]);
      const before = Number(size());
      truncateSync(file, statSync(file).size + MIB);
      d.ok(['luks', 'resize', file, 'v', ...how]);
      assert.equal(Number(size()), before + MIB / 512, `way ${i}`);
      d.ok(['luks', 'close', 'v']);
    }
    // A key that opens nothing: a passphrase still does, unless only the token may.
    keys.put(description, 'wrong');
    d.ok(['luks', 'open', file, 'v', '--token-only'], '', 3);
    d.ok(['luks', 'open', file, 'v'], 'one\n');
    d.ok(['luks', 'resize', file, 'v', '--token-only'], '', 3);
    d.ok(['luks', 'resize', file, 'v'], 'one\n');
    d.ok(['luks', 'close', 'v']);
  });

  it('recovery keys are those of systemd-cryptenroll', {
    skip: without('systemd-cryptenroll'),
  }, () => {
    using d = made();
    const file = formatted(d);
    const enroll = (...args: string[]): string => {
      const done = d.run('systemd-cryptenroll', [...args, file], '', { PASSWORD: 'one' });
      assert.equal(done.status, 0, done.stderr);
      return done.stdout;
    };
    const theirs = enroll('--recovery-key').trim();
    const made_ = d.lamina('add-key', file, '--key-file', d.at('one'), '--recovery');
    const ours = made_.trim();
    assert.equal(made_, `${ours}\n`, 'nothing else on stdout');
    const form = /^(?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$/;
    for (const [slot, key] of [theirs, ours].entries()) {
      assert.match(key, form);
      const name = d.with(`recovery${slot}`, key);
      const said = d.lamina('test-passphrase', file, '--key-file', name);
      assert.equal(said, `key slot ${slot + 1} opens\n`);
      d.cryptsetup('open', '--test-passphrase', '-S', String(slot + 1), '--key-file', name, file);
    }
    assert.match(enroll(), /0 password\s+1 recovery\s+2 recovery/);
    assert.equal(d.lamina('token', 'list', file), '0: systemd-recovery 1\n1: systemd-recovery 2\n');
    d.sameDump(file);
    // The same slot and the same token, but for salts and places.
    const { keyslots, tokens } = JSON.parse(d.metadataText(file)) as {
      keyslots: Record<string, { kdf: { salt: string }; area: { offset: string } }>;
      tokens: Record<string, object>;
    };
    const plain = (slot: string): unknown => {
      const { kdf, area, ...rest } = keyslots[slot] ?? assert.fail(slot);
      return { ...rest, kdf: { ...kdf, salt: '' }, area: { ...area, offset: '' } };
    };
    assert.deepEqual(plain('2'), plain('1'));
    assert.deepEqual({ ...tokens['1'], keyslots: [] }, { ...tokens['0'], keyslots: [] });
    enroll('--wipe-slot=recovery');
    assert.equal(d.lamina('token', 'list', file), '');
    const wrong = d.runLamina(['test-passphrase', file, '--key-file', d.at('recovery1')]);
    assert.equal(wrong.status, 3);
  });

  it('tokens of other programs keep their words through every verb', () => {
    using d = made();
    const file = formatted(d);
    d.cryptsetup(
      'token',
      'import',
      '--token-id',
      '9',
      '--json-file',
      d.with('t.json', ODD_TOKEN),
      file,
    );
    const key = ['--key-file', d.at('one')];
    const verbs: readonly (readonly string[])[] = [
      ['add-key', ...FAST, ...key, '--new-key-file', d.at('two'), file],
      ['change-key', ...FAST, '--key-file', d.at('two'), '--new-key-file', d.at('three'), file],
      ['remove-key', '--key-file', d.at('three'), file],
      ['token', 'add', '--key-description', 'x', '--token-id', '4', file],
      ['token', 'unassign', '--token-id', '4', '--key-slot', '0', file],
      ['token', 'remove', '--token-id', '4', file],
      ['config', '--priority', 'prefer', '--key-slot', '0', '--label', 'l', file],
      ['add-key', ...FAST, '--unbound', '--key-size', '64', '--new-key-file', d.at('two'), file],
      ['add-key', ...key, '--recovery', file],
      ['kill-slot', '-q', file, '2'],
      ['resize', '--device-size', '1M', file],
      ['resize', '--dynamic', file],
    ];
    for (const verb of verbs) {
      d.lamina(...verb);
      const text = d.cryptsetup('token', 'export', '--token-id', '9', file);
      assert.equal(text, PLAIN_TOKEN, verb.join(' '));
    }
    d.sameDump(file);
  });
});

describe('LUKS2 key slots with cryptsetup', { skip }, () => {
  it('priorities, labels and subsystems are what the other program writes', () => {
    using d = made();
    const theirs = formatted(d, 'theirs.img');
    d.cryptsetup('luksAddKey', '-q', ...FAST, '--key-file', d.at('one'), theirs, d.at('two'));
    const ours = d.at('ours.img');
    writeFileSync(ours, readFileSync(theirs));
    for (const step of [
      ['--priority', 'prefer', '-S', '1'],
      ['--priority', 'ignore', '-S', '0'],
      ['--label', 'a läbel', '--subsystem', 'sub'],
      ['--priority', 'normal', '-S', '1'],
      ['--label', 'x'.repeat(47), '--subsystem', 's'],
      ['--label', '', '--subsystem', ''],
    ]) {
      d.cryptsetup('config', ...step, theirs);
      d.lamina('config', ...step, ours);
      assert.equal(d.metadataText(ours), d.metadataText(theirs));
      assert.equal(d.lamina('dump', ours), d.cryptsetup('luksDump', theirs));
    }
    // One of both leaves the other alone; cryptsetup takes it away.
    d.lamina('config', '--label', 'l', ours);
    d.lamina('config', '--subsystem', 's', ours);
    assert.match(d.cryptsetup('luksDump', ours), /^Label: +\tl\nSubsystem: +\ts$/m);
    const before = readFileSync(ours);
    for (const bad of [
      [],
      ['--priority', 'prefer'],
      ['--priority', 'prefer', '-S', '2'],
      ['--priority', 'last', '-S', '0'],
    ]) {
      assert.equal(d.run('cryptsetup', ['config', ...bad, theirs]).status, 1);
      assert.notEqual(d.runLamina(['config', ...bad, ours]).status, 0, bad.join(' '));
    }
    // cryptsetup cuts it.
    assert.match(d.runLamina(['config', '--label', 'x'.repeat(48), ours]).stderr, /longer than 47/);
    assert.ok(readFileSync(ours).equals(before));
  });

  it('unbound keys: made, listed, tested, exported, changed and removed by either', () => {
    using d = made();
    const [theirs, ours] = [formatted(d, 'theirs.img'), d.at('ours.img')];
    writeFileSync(ours, readFileSync(theirs));
    const vk = d.with('vk', 'k'.repeat(32));
    const key = ['--unbound', '--key-size', '256'];
    d.cryptsetup('luksAddKey', '-q', ...FAST, ...key, '-S', '7', theirs, d.at('two'));
    d.lamina('add-key', ...FAST, ...key, '-S', '7', ours, '--new-key-file', d.at('two'));
    const given = [...FAST, ...key, '--volume-key-file', vk];
    d.cryptsetup('luksAddKey', '-q', ...given, theirs, d.at('three'));
    d.lamina('add-key', ...given, ours, '--new-key-file', d.at('three'));
    // A key of 8 bits would be found by one wrong passphrase in 256.
    const small = [...FAST, '--unbound', '--key-size', '64'];
    d.cryptsetup('luksAddKey', '-q', ...small, theirs, d.at('three'));
    d.lamina('add-key', ...small, ours, '--new-key-file', d.at('three'));
    assert.equal(skeleton(d.metadataText(ours)), skeleton(d.metadataText(theirs)));
    for (const file of [theirs, ours]) {
      d.sameDump(file);
      for (const [slot, name] of [
        ['7', 'two'],
        ['1', 'three'],
        ['2', 'three'],
      ] as const) {
        const open = ['-S', slot, '--key-file', d.at(name), file];
        const dumped = d.cryptsetup('luksDump', '-q', '--unbound', ...open);
        assert.equal(d.lamina('dump', '--unbound', ...open), dumped);
        d.cryptsetup('open', '--test-passphrase', '--unbound', ...open);
        assert.equal(d.lamina('test-passphrase', ...open), `key slot ${slot} opens\n`);
      }
      const any = ['test-passphrase', '--unbound', file, '--key-file', d.at('two')];
      assert.equal(d.lamina(...any), 'key slot 7 opens\n');
      const out = d.at(`${file === ours ? 'ours' : 'theirs'}.key`);
      const export_ = ['-S', '1', '--key-file', d.at('three'), '--volume-key-file', out, file];
      assert.match(d.lamina('dump', '--unbound', ...export_), /^Key stored to file .*\.key\.$/m);
      assert.deepEqual(readFileSync(out), readFileSync(vk));
      assert.equal(statSync(out).mode & 0o777, 0o400);
      assert.match(d.runLamina(['dump', '--unbound', ...export_]).stderr, /cannot write: .*exist/);
      neverForTheData(d, file);
      d.lamina(
        'change-key',
        ...FAST,
        '-S',
        '7',
        '--key-file',
        d.at('two'),
        '--new-key-file',
        d.at('three'),
        file,
      );
      d.cryptsetup(
        'luksChangeKey',
        '-q',
        ...FAST,
        '-S',
        '7',
        '--key-file',
        d.at('three'),
        file,
        d.at('two'),
      );
      assert.equal(d.lamina(...any), 'key slot 7 opens\n');
    }
    d.lamina('kill-slot', ours, '7', '--key-file', d.at('one'));
    d.cryptsetup('luksKillSlot', theirs, '7', '--key-file', d.at('one'));
    d.lamina('kill-slot', '-q', ours, '1');
    d.cryptsetup('luksKillSlot', '-q', theirs, '1');
    assert.equal(skeleton(d.metadataText(ours)), skeleton(d.metadataText(theirs)));
    d.sameDump(ours);
    // The last slot of the data, though there is another one.
    const last = d.runLamina(['kill-slot', ours, '0', '--key-file', d.at('one')]);
    assert.match(last.stderr, /the last key slot.*--batch-mode/);
  });

  it('slots are killed and the size is kept as the other program reads it', () => {
    using d = made();
    for (const version of ['luks1', 'luks2']) {
      const file = d.fresh('v.img');
      const key = ['--key-file', d.at('one')];
      d.cryptsetup('luksFormat', '-q', '--type', version, ...FAST, file, d.at('one'));
      for (const slot of ['3', '5']) {
        d.cryptsetup('luksAddKey', '-q', ...FAST, ...key, '-S', slot, file, d.at('two'));
      }
      d.lamina('kill-slot', file, '3', ...key);
      assert.equal(d.run('cryptsetup', ['luksKillSlot', '-q', file, '3']).status, 1);
      d.cryptsetup('luksKillSlot', file, '5', ...key);
      assert.match(d.runLamina(['kill-slot', '-q', file, '5']).stderr, /slot 5 is not in use/);
      const two = ['--key-file', d.at('two'), file];
      assert.equal(d.run('cryptsetup', ['open', '--test-passphrase', ...two]).status, 2);
      assert.equal(d.runLamina(['test-passphrase', ...two]).status, 3);
      d.sameDump(file);
      if (version === 'luks1') continue;
      d.lamina('resize', file, '--device-size', '1M');
      assert.match(d.cryptsetup('luksDump', file), /length: 1048576 \[bytes\]/);
      d.sameDump(file);
      d.lamina('resize', file, '--dynamic');
      assert.match(d.cryptsetup('luksDump', file), /length: \(whole device\)/);
      d.cryptsetup('open', '--test-passphrase', ...key, file);
    }
  });

  it('there is no ninth digest, and no 33rd key slot and token, for either', () => {
    using d = made();
    const file = d.fresh('v.img');
    const large = ['--luks2-metadata-size', '64k'];
    d.cryptsetup('luksFormat', '-q', ...FAST, ...large, file, d.at('one'));
    const refuse = (theirs: readonly string[], ours: readonly string[], why: RegExp): void => {
      assert.equal(d.run('cryptsetup', theirs).status, 1, theirs.join(' '));
      const before = readFileSync(file);
      const { status, stderr } = d.runLamina(ours);
      assert.match(stderr, why);
      assert.equal(status, 1);
      assert.ok(readFileSync(file).equals(before));
    };
    const unbound = [...FAST, '--unbound', '--key-size', '64', file];
    const theirUnbound = ['luksAddKey', '-q', ...unbound, d.at('two')];
    const ourUnbound = ['add-key', ...unbound, '--new-key-file', d.at('two')];
    for (let id = 1; id < 8; id++) {
      if (id % 2 === 0) d.cryptsetup(...theirUnbound);
      else d.lamina(...ourUnbound);
      assert.match(d.cryptsetup('luksDump', file), new RegExp(`^ {2}${id}: pbkdf2$`, 'm'));
    }
    refuse(theirUnbound, ourUnbound, /all digests are in use/);
    const token = ['token', 'add', '--key-description', 'x', file];
    for (let id = 0; id < 32; id++) d.lamina(...token);
    refuse(token, token, /all tokens are in use/);
    const key = ['--key-file', d.at('one'), ...FAST, file];
    const ourAdd = ['add-key', ...key, '--new-key-file', d.at('three')];
    for (let slot = 8; slot < 32; slot++) d.lamina(...ourAdd);
    refuse(['luksAddKey', '-q', ...key, d.at('three')], ourAdd, /all key slots are in use/);
    d.sameDump(file);
    d.cryptsetup('open', '--test-passphrase', '-S', '31', '--key-file', d.at('three'), file);
  });

  it('what makes no unbound key is refused by both', () => {
    using d = made();
    const file = formatted(d);
    const before = readFileSync(file);
    for (const bad of [
      ['--unbound'],
      ['--unbound', '--key-size', '257'],
      ['--unbound', '--key-size', '256', '-S', '0'],
      ['--unbound', '--key-size', '256', '-S', '32'],
      ['--unbound', '--key-size', '128', '--volume-key-file', d.with('vk', 'k'.repeat(32))],
    ]) {
      const theirs = d.run('cryptsetup', ['luksAddKey', '-q', ...FAST, ...bad, file, d.at('two')]);
      const ours = d.runLamina(['add-key', ...FAST, ...bad, file, '--new-key-file', d.at('two')]);
      // A key file that is too long is read in part by cryptsetup.
      if (!bad.includes('128')) assert.equal(theirs.status, 1, bad.join(' '));
      else writeFileSync(file, before);
      assert.ok(ours.status === 1 || ours.status === 2, `${bad.join(' ')}: ${ours.stderr}`);
    }
    for (const slot of ['0', '20']) {
      const dump = ['--unbound', '-S', slot, '--key-file', d.at('one'), file];
      assert.equal(d.run('cryptsetup', ['luksDump', '-q', ...dump]).status, 1);
      assert.match(d.runLamina(['dump', ...dump]).stderr, /does not hold an unbound key/);
    }
    assert.ok(readFileSync(file).equals(before));
  });
});

/** The key of slot 7 opens by number, and neither as the key of the data nor to get at that. */
function neverForTheData(d: LuksDesk, file: string): void {
  const seven = ['-S', '7', '--key-file', d.at('two'), file];
  assert.notEqual(d.run('cryptsetup', ['luksDump', '-q', '--dump-volume-key', ...seven]).status, 0);
  for (const call of [
    ['open', '--table', '--show-keys', ...seven],
    ['dump', '--volume-key', ...seven],
    ['add-key', ...FAST, '--new-key-file', d.at('three'), ...seven],
  ]) {
    const { status, stderr, stdout } = d.runLamina(call);
    assert.match(stderr, /key slot 7 is unbound: its key is not that of the data/);
    assert.deepEqual([status, stdout], [1, '']);
  }
  for (const call of [
    ['remove-key', '--key-file', d.at('two'), file],
    ['kill-slot', '--key-file', d.at('two'), file, '0'],
  ]) {
    assert.equal(d.runLamina(call).status, 3, call.join(' '));
  }
}

/** Metadata without what is random: salts and digests. */
function skeleton(text: string): string {
  return text.replaceAll(/"(salt|digest)":"[^"]*"/g, '"$1":""');
}

/** With blanks, escapes, numbers that JavaScript rounds, and names that it would order. */
const ODD_TOKEN = String.raw`{ "type" : "my-token", "keyslots" : [ ],
  "big": 18446744073709551615, "n": 1.50, "text": "\u00e9\/\n\\", "names": { "b": [ 1.0 ], "9": null, "1": {} } }
`;
const PLAIN_TOKEN = String.raw`{"type":"my-token","keyslots":[],"big":18446744073709551615,"n":1.50,"text":"é/\n\\","names":{"b":[1.0],"9":null,"1":{}}}`;

const FOREIGN_TOKEN = '{"type":"foreign","keyslots":["0"]}';

const LISTED = `\
0: luks2-keyring 0 some:key
1: my-token -
5: my-token -
`;
