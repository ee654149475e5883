// Tokens, unbound keys, priorities and labels of LUKS2 headers beside Debian's cryptsetup and systemd-cryptenroll: what
// either of them writes, lamina lists, uses, changes and keeps, and the other way round.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { LuksDesk, without } from '../../src/testing/luks-desk.ts';

const skip = without('cryptsetup');
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

  it('both refuse the same tokens and places, and write nothing', () => {
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
    for (const text of texts) refuse(['import'], text);
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

/** With blanks, escapes, numbers that JavaScript rounds, and names that it would order. */
const ODD_TOKEN = String.raw`{ "type" : "my-token", "keyslots" : [ ],
  "big": 18446744073709551615, "n": 1.50, "text": "\u00e9\/\n\\", "names": { "b": [ 1.0 ], "9": null, "1": {} } }
`;
const PLAIN_TOKEN = String.raw`{"type":"my-token","keyslots":[],"big":18446744073709551615,"n":1.50,"text":"é/\n\\","names":{"b":[1.0],"9":null,"1":{}}}`;

const LISTED = `\
0: luks2-keyring 0 some:key
1: my-token -
5: my-token -
`;
