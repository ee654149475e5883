// The JSON of LUKS2 headers in all the dialects that somebody may have written: cryptsetup's verdict is lamina's, and
// the dumps of what both read are the same to the byte.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { afterEach, before, beforeEach, test } from 'node:test';
import { DmError } from '../../src/base/errors.ts';
import { LuksDesk, without } from '../../src/testing/luks-desk.ts';
import { LuksDisk, setMetadata, TEST_KDF, testFormat } from '../../src/testing/luks-disk.ts';
import { formatLuks } from '../../src/tools/luks/format-luks.ts';
import { openLuks } from '../../src/tools/luks/open-luks.ts';

const KIB = 1024;
const HEADER_BYTES = 16 * KIB;
const [ONE, TWO] = [Buffer.from('one'), Buffer.from('two')];
const skip = without('cryptsetup');

let good: Uint8Array;
let json: string;

before(async () => {
  const disk = new LuksDisk(1100 * KIB);
  await formatLuks(disk, ONE, testFormat(2, { dataOffsetBytes: 544 * KIB }));
  good = disk.image;
  json = Buffer.from(good.subarray(4096, HEADER_BYTES)).toString().replaceAll('\0', '');
});

/** Values of a field that nobody knows: one a line. */
const VALUES = String.raw`
+1 01 007 -01 -007 .5 5. 1. 1.e5 1e 1e+ 1e- -1e 0x10 1e400 -0 00 0.0 - -- --1 1-1 1+1 1.5.5 1ee5 1e-5 -1e-5 -.5 -. -.e1
18446744073709551616 99999999999999999999999999 -9223372036854775809 1.0 1E5 -"a" -[] 1_000 1,2
TRUE True true FALSE Null null NULL tru nul undefined inf -Inf -NaN truefalse nulls
'a' 'a\'b' 'a"b' "a'b" '' 'a "a a' 'a\"b' "\q" "\x41" "\t" "\u12" "\u12G4" "\'" "\/" "\ud83d\ude00" "\u0000" "\u0000abc"
"\ud800" "\udc00" "\ud800\u0041" "\ud800x" "\ud83d\ud83d\ude00" "é" "" {"\u0000":1} {"":1} {"a":1,"a":2}
[1,] [,1] [,] [1,,] [,,] {"a":1,} {,} {"a":1,,"b":2} {"a"} {"a":} {"a":,} {a:1} {'a':1} {"a",1} []] {}} [[[]]] ['a',] {'a':'b',}
/**/1 1/**/ /*a*//*b*/1 /*/1 [/**/] [1/**/,/**/2/**/] [1,/**/] {/**/"a"/**/:/**/1/**/} "/*a*/" '//' "//" [1,//]`
  .trim()
  .split(/\s/);
/** With white space or control characters in them. */
const MORE = [
  '// c\n1',
  '# c\n1',
  '1 // c\n',
  '[1, ]',
  '[1 2]',
  '{"a":1 "b":2}',
  '{"a" 1}',
  '["a" ,"b"]',
  '- 1',
  '"\t"',
  '"\n"',
  '"\u0001"',
  '"\u007f"',
  "'\n'",
  '\u00a01',
  '\v1',
  '\f1',
  '1\f',
  '\r\n1',
  '\ufeff1',
  '" "',
  "'a' 'b'",
];
/** Numbers there, and nothing that JSON has a word for: cryptsetup reads them. */
const NOT_HERE = ['NaN', 'nan', 'Infinity', 'infinity', '-Infinity', '[NaN]', '{"a":NaN}'];

type Verdict = 'refused' | 'read';

/** What differs; a test shows all of it. */
let differences: string[] = [];
beforeEach(() => {
  differences = [];
});
afterEach(() => assert.deepEqual(differences, []));

/** What lamina makes of a header, beside cryptsetup; `only`: cryptsetup alone reads it. */
function check(d: LuksDesk, name: string, text: string, isOnlyTheirs = false): Verdict {
  const image = Uint8Array.from(good);
  setMetadata(image, text, HEADER_BYTES);
  const path = d.at('json.img');
  writeFileSync(path, image);
  const theirs = d.run('cryptsetup', ['luksDump', path]);
  let ours: string | undefined;
  let why = '';
  try {
    ours = openLuks(new LuksDisk(image, path), { isDetached: true }).dump();
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    why = error.message;
  }
  const isRead = theirs.status === 0;
  const said = `${name}: ${why === '' ? 'read' : why} beside ${theirs.stderr || 'read'}`;
  if (isOnlyTheirs ? !isRead || why === '' : (why === '') !== isRead) differences.push(said);
  else if (ours !== undefined && ours !== theirs.stdout) differences.push(`${name}: another dump`);
  return ours === undefined ? 'refused' : 'read';
}

/** The header with one field more. */
function withField(value: string): string {
  return json.replace(/}$/, `,"x":${value}}`);
}

test("whatever a field holds: the verdict is cryptsetup's", { skip }, (t) => {
  using d = new LuksDesk({});
  const counts = { read: 0, refused: 0 };
  for (const value of [...VALUES, ...MORE]) counts[check(d, value, withField(value))]++;
  for (const value of NOT_HERE) check(d, value, withField(value), true);
  for (let n = 27; n <= 34; n++) {
    const lists = withField('['.repeat(n) + ']'.repeat(n));
    counts[check(d, `${n} arrays`, lists)]++;
    counts[check(d, `${n} arrays, filled`, lists.replace('[]', '[1]'))]++;
    counts[check(d, `${n} objects`, withField('{"a":'.repeat(n) + '{}' + '}'.repeat(n)))]++;
  }
  t.diagnostic(JSON.stringify(counts));
  assert.ok(counts.read > 40 && counts.refused > 40, JSON.stringify(counts));
});

test("whatever is around and within the known fields: the verdict is cryptsetup's", {
  skip,
}, () => {
  using d = new LuksDesk({});
  const texts: Record<string, string> = {
    'space before': ` ${json}`,
    'space behind': `${json} `,
    'a line end behind': `${json}\n`,
    'a letter behind': `${json}x`,
    'a brace behind': `${json}}`,
    'a comma behind': `${json},`,
    'a comment behind': `${json}/* c */`,
    'an open comment behind': `${json}/* c`,
    'half a comment behind': `${json}//c`,
    'a slash behind': `${json}/`,
    'a space of another kind behind': `${json}\u00a0`,
    twice: json + json,
  };
  const changes: Record<string, readonly [string | RegExp, string]> = {
    'white space': ['{', '{\n\t '],
    'a vertical tab': ['{', '{\v'],
    'a form feed': ['{', '{\f'],
    'a comment': ['{', '{/* a */'],
    'a comment up to the line end': ['{', '{// a\n'],
    'a name in single quotes': ['"keyslots"', "'keyslots'"],
    'a type in single quotes': ['"type":"luks2"', `"type":'luks2'`],
    'a name with an escape': ['"keyslots":{', String.raw`"key\u0073lots":{`],
    'key slots twice, the first empty': [/^\{/, '{"keyslots":{},'],
    'key slots twice, the last empty': [/}$/, ',"keyslots":{}}'],
    'tokens twice': [/^\{/, '{"tokens":{"0":{"type":"x","keyslots":[]}},'],
    'a size as a float': ['"key_size":32', '"key_size":32.0'],
    'a size with a zero': ['"key_size":32', '"key_size":032'],
    'a size with an exponent': ['"key_size":32', '"key_size":3.2e1'],
    'a size with a plus': ['"key_size":32', '"key_size":+32'],
    'a size with a point': ['"key_size":32', '"key_size":32.'],
    'a size of NO': ['"key_size":32', '"key_size":FALSE'],
    'stripes of more than 64 bits': ['"stripes":4000', '"stripes":18446744073709551616'],
    'stripes far below 0': ['"stripes":4000', '"stripes":-99999999999999999999'],
    'a sector size with a zero': ['"sector_size":512', '"sector_size":0512'],
    'a list that goes on': ['"keyslots":["0"]', '"keyslots":["0",]'],
    'an object that goes on': [/}}$/, '},}'],
  };
  for (const [name, [from, to]] of Object.entries(changes)) {
    texts[name] = json.replace(from, to);
    assert.notEqual(texts[name], json, name);
  }
  for (const [name, text] of Object.entries(texts)) check(d, name, text);
});

test("numbers of slots, tokens, digests and segments: the verdict is cryptsetup's", {
  skip,
}, () => {
  using d = new LuksDesk({});
  const digest = '{"type":"pbkdf2","keyslots":[],"segments":[],"hash":"sha256","iterations":1000,';
  for (const id of [
    '1',
    '7',
    '8',
    '31',
    '32',
    '100',
    '4294967296',
    '4294967297',
    '18446744073709551616',
    '01',
    '-1',
    '',
  ]) {
    const rest = `${digest}"salt":"AAAA","digest":"AAAA"},`;
    check(d, `digest ${id}`, json.replace('"digests":{', `"digests":{"${id}":${rest}`));
    const token = `"tokens":{"${id}":{"type":"x","keyslots":[]}`;
    check(d, `token ${id}`, json.replace('"tokens":{', token));
    const slot = json.replace('"keyslots":{"0":', `"keyslots":{"${id}":`);
    check(d, `key slot ${id}`, slot.replaceAll('"keyslots":["0"]', `"keyslots":["${id}"]`));
  }
  for (const count of [2, 7, 8, 9, 31, 32, 33, 40]) {
    const metadata = JSON.parse(json) as { segments: Record<string, object> };
    Object.assign(metadata.segments['0'] as object, { size: '1048576' });
    for (let i = 1; i < count; i++) {
      const offset = String(544 * KIB + i * KIB * KIB);
      metadata.segments[i] = { type: 'linear', offset, size: '1048576' };
    }
    check(d, `${count} segments`, JSON.stringify(metadata));
  }
});

test('a key that is added to a header in another dialect opens it with cryptsetup', {
  skip,
}, async () => {
  using d = new LuksDesk({ two: 'two' });
  const odd = `{'odd':[TRUE,'a"b',007,1.,],/* why */${json.slice(1)}`;
  const disk = new LuksDisk(good, d.at('v.img'));
  setMetadata(disk.image, odd, HEADER_BYTES);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  writeFileSync(d.at('v.img'), disk.image);
  d.sameDump(d.at('v.img'));
  d.cryptsetup('open', '--test-passphrase', '-S', '1', '--key-file', d.at('two'), d.at('v.img'));
  assert.match(d.metadataText(d.at('v.img')), /^\{"odd":\[true,"a\\"b",7,1\.0\],/);
});
