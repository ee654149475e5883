import assert from 'node:assert/strict';
import { test } from 'node:test';
import { depthOf, plainJsonText, readJsonText, writeJsonText } from './json-text.ts';

/** Written without a change. */
function again(text: string): string {
  return writeJsonText(JSON.parse(text), readJsonText(text));
}

test('values keep their words, whatever JavaScript would make of them', () => {
  const texts = [
    '{"big":18446744073709551615,"n":1.50,"e":1E+2,"zero":-0,"huge":1e999}',
    '{"b":1,"a":2,"10":3,"9":4}',
    String.raw`{"u":"\u00e9\/\"\\","\u006bey":"]}{["}`,
    '{"__proto__":{"x":1},"constructor":[]}',
    '[[],{},[[1,2],{"a":[null,true,false]}],"",-1.0]',
    '"alone"',
    '12345678901234567890',
  ];
  for (const text of texts) assert.equal(again(text), text);
  assert.equal(again(' { "a" : [ 1.0 ,\n2 ] } '), '{"a":[1.0,2]}');
  assert.equal(again('{"a":1,"a":2.0}'), '{"a":2.0}');
});

test('what changed is written anew, and the rest beside it stays', () => {
  const text = '{"t":{"9":{"n":1.50,"x":[1.0,2.0]},"1":{"n":2.50}},"big":18446744073709551615}';
  const value = JSON.parse(text) as {
    t: Record<string, { n: number; x?: number[] }>;
    big: number;
    more?: unknown;
  };
  const nine = value.t['9'];
  assert.ok(nine !== undefined);
  nine.x = [1, 3, 4];
  delete value.t['1'];
  value.t['2'] = { n: 0.5 };
  value.more = { a: undefined, b: null };
  const expected =
    '{"t":{"9":{"n":1.50,"x":[1.0,3,4]},"2":{"n":0.5}},"big":18446744073709551615,"more":{"b":null}}';
  assert.equal(writeJsonText(value, readJsonText(text)), expected);
  assert.equal(writeJsonText(value), JSON.stringify(value));
});

test('plain text has the shortest words for strings only; depth is counted', () => {
  const text = String.raw`{"\u0061":"\u00e9\/","n":1.50}`;
  const plain = '{"a":"é/","n":1.50}';
  assert.equal(writeJsonText(JSON.parse(text), plainJsonText(readJsonText(text))), plain);
  assert.equal(depthOf('1'), 0);
  assert.equal(depthOf('[[[]]]'), 2);
  assert.equal(depthOf('[[[1]]]'), 3);
  assert.equal(depthOf('{"a":[["]]]"]],"b":{}}'), 3);
});
