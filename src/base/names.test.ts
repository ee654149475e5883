import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nameFault, printable } from './names.ts';

test('a name has no control characters and no blanks at its ends', () => {
  for (const name of ['', 'disk', 'my disk', 'ä-ß', '日本', 'a/b', "it's"]) {
    assert.equal(nameFault(name), undefined, name);
  }
  assert.equal(nameFault('a\nb'), String.raw`has the control character \n at 1`);
  assert.equal(nameFault('\u001b[2J'), String.raw`has the control character \x1b at 0`);
  for (const bad of ['\t', 'x\u007f', 'x\u0085', 'a\u2028b', 'a\0', ' a', 'a ']) {
    assert.notEqual(nameFault(bad), undefined, JSON.stringify(bad));
  }
});

test('what is printed moves no cursor, begins no line and does not turn around', () => {
  assert.equal(printable('plain ä'), 'plain ä');
  assert.equal(
    printable('a\u001b[31m\r\n\tb\u009b\u2028\u202e'),
    String.raw`a\x1b[31m\r\n\tb\x9b\u2028\u202e`,
  );
});
