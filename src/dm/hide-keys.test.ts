// No error has a digit of a key in it, whatever is wrong with the line or with the key.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { SEED } from '../testing/seed.ts';
import { hideKeys, hideKeysOf } from './hide-keys.ts';

const KEY = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';

test('a key is hidden by its place, also with a wrong digit in it, or short', () => {
  for (const key of [KEY, `${KEY.slice(0, 7)}g${KEY.slice(8)}`, 'zz', `${KEY}0`, 'Ø'.repeat(40)]) {
    assert.equal(
      hideKeys(`0 8 crypt aes-xts-plain64 ${key} 0 disk.img 0`),
      '0 8 crypt aes-xts-plain64 ... 0 disk.img 0',
    );
    assert.equal(hideKeys(`key set ${key}`), 'key set ...');
    assert.equal(
      hideKeys(`a,,,rw,0 8 crypt aes-xts-plain64 ${key} 0 d 0;b,,,rw,0 8 zero`),
      'a,,,rw,0 8 crypt aes-xts-plain64 ... 0 d 0;b,,,rw,0 8 zero',
    );
  }
});

test('what names a key, and what is no key, stays', () => {
  for (const line of [
    '0 8 crypt aes-xts-plain64 :64:file:/k/disk.key 0 disk.img 0',
    '0 8 crypt cipher_null-ecb - 0 disk.img 0',
    '0 9007199254740991 linear /srv/deadbeefdeadbeef.img 0',
    '0 8 crypto/x',
  ]) {
    assert.equal(hideKeys(line), line);
  }
});

test('a key that another word has pushed from its place is hidden by its looks', () => {
  const bad = `${KEY.slice(0, 20)}x${KEY.slice(21)}`;
  for (const key of [KEY, bad]) {
    assert.doesNotMatch(hideKeys(`0 8 crypt ${key} 0 disk.img 0`), /aabbcc/);
    assert.equal(
      hideKeysOf('crypt', [key, '0', 'disk.img', '0'], `crypt: cipher '${key}': unknown`),
      "crypt: cipher '...': unknown",
    );
  }
});

test('a key with a colon for its first digit is still a key', () => {
  const shown = hideKeys(`0 8 crypt aes-xts-plain64 :${KEY.slice(1)} 0 disk.img 0`);
  assert.equal(shown, '0 8 crypt aes-xts-plain64 ... 0 disk.img 0');
});

test('a random wrong digit anywhere in a key does not show it', () => {
  const prng = new Prng(SEED);
  for (let i = 0; i < 500; i++) {
    const at = prng.below(KEY.length);
    const key = `${KEY.slice(0, at)}${String.fromCodePoint(33 + prng.below(94))}${KEY.slice(at + 1)}`;
    if (/[,;]/.test(key)) continue;
    const shown = hideKeys(`0 8 crypt aes-xts-plain64 ${key} 0 disk.img 0 1 allow_discards`);
    assert.ok(
      !shown.includes(key.slice(0, 8)) && !shown.includes(key.slice(-8)),
      `LAMINA_SEED=${SEED}: ${shown}`,
    );
  }
});
