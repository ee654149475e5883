// What IMAGE of `lamina serve` means, and the name of its device.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { after, test } from 'node:test';
import { parseExports } from '../daemon/stack.ts';
import { imageReference, nameOfImage } from './image-device.ts';

const folder = mkdtempSync(join(tmpdir(), 'lamina-image-'));
after(() => rmSync(folder, { recursive: true }));

test('a bare word is a file here, never a mapped device', () => {
  for (const word of ['disk.img', 'dm-0', '253:0', 'a b', 'a,b;c\\d', '-x', 'ünï']) {
    assert.equal(imageReference(word), resolve(word));
  }
});

test('a path that a table would read as a mapped device is a file: reference', () => {
  assert.equal(imageReference('/dev/mapper/a b?c'), 'file:/dev/mapper/a%20b%3Fc');
  assert.equal(imageReference('/dev/dm-3'), 'file:/dev/dm-3');
  assert.equal(imageReference('/x/a\nb'), 'file:/x/a%0Ab');
});

test('a reference with the scheme of a backend stays as it is; a file of a strange name is a file', () => {
  for (const uri of ['file:x?create=1&size=1G', 'nbd://h/x', 'nbds+unix:///?socket=/s']) {
    assert.equal(imageReference(uri), uri);
  }
  assert.equal(imageReference('gopher:x'), 'gopher:x', 'nothing is there: the scheme is unknown');
  const path = join(folder, 'odd:name');
  writeFileSync(path, '');
  assert.equal(imageReference(path), path);
});

test('the name of the device is the one of the file, as far as a device can have it', () => {
  assert.equal(nameOfImage('/x/disk.img'), 'disk.img');
  assert.equal(nameOfImage(' a\tb\n '), 'a_b_');
  assert.equal(nameOfImage('file:/x/a%20b.img?size=1G'), 'a b.img');
  assert.equal(nameOfImage('nbd+unix:///?socket=/s'), 'image');
  assert.equal(nameOfImage('/..'), 'image');
  assert.equal(nameOfImage('ü'.repeat(200)), 'ü'.repeat(50));
});

test('--export NAME is the device of that name, among several too', () => {
  const two = [{ name: 'a' }, { name: 'b' }];
  assert.deepEqual(parseExports(['b', 'x=a', '=b'], two), [
    { name: 'b', device: 'b' },
    { name: 'x', device: 'a' },
    { name: '', device: 'b' },
  ]);
  assert.deepEqual(parseExports(['x'], [{ name: 'a' }]), [{ name: 'x', device: 'a' }]);
  assert.throws(() => parseExports(['x'], two), /no device has that name \(there are a, b\)/);
});
