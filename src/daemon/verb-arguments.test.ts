import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { DmError } from '../base/errors.ts';
import { SEED } from '../testing/seed.ts';
import { ARGUMENTS, checkArguments, type VerbName } from './verb-arguments.ts';
import { VERBS, verbEntry, verbNamed } from './verbs.ts';

const NAMES = Object.keys(ARGUMENTS) as VerbName[];

function refusal(verb: VerbName, ...args: readonly unknown[]): string {
  try {
    checkArguments(verb, args);
  } catch (error) {
    assert.ok(error instanceof DmError, String(error));
    return error.message;
  }
  return assert.fail(`${verb} took ${JSON.stringify(args)}`);
}

test('a refusal names the verb, the field, what was found and what was expected', () => {
  const cases: readonly [string, VerbName, ...unknown[]][] = [
    ['suspend: noflush: expected a boolean, found 3', 'suspend', 'a', { noflush: 3 }],
    ['info: name: missing; expected a string', 'info'],
    ['info: found 2 arguments, expected 1 (name)', 'info', 'a', 'b'],
    ['list: found 1 arguments, expected 0', 'list', 'a'],
    ['create: options: expected an object, found "disk"', 'create', 'disk'],
    ['create: name: missing; expected a string', 'create', {}],
    [
      "create: options: unknown field 'nmae'; did you mean 'name'?",
      'create',
      { name: 'a', nmae: 'b' },
    ],
    ['create: minor: expected a whole number, found 1.5', 'create', { name: 'a', minor: 1.5 }],
    ['message: sector: Too small: expected number to be >=0, found -1', 'message', 'a', -1, 'x'],
    [
      'rename: newName: expected a string, found ["long","long","long","long","long","lon...',
      'rename',
      'a',
      Array(9).fill('long'),
    ],
  ];
  for (const [text, verb, ...args] of cases) assert.equal(refusal(verb, ...args), text);
});

test('what may be left out may be null, which is how JSON has undefined', () => {
  assert.deepEqual(checkArguments('wait', ['a', null]), ['a', undefined]);
  assert.deepEqual(checkArguments('load', ['a', '0 8 zero']), ['a', '0 8 zero', undefined]);
});

test('anything that JSON can say is taken as it is or refused by a DmError', () => {
  const value = fc.oneof(fc.jsonValue(), fc.string(), fc.constant({ name: 'a' }), fc.integer());
  fc.assert(
    fc.property(fc.constantFrom(...NAMES), fc.array(value, { maxLength: 4 }), (verb, args) => {
      let checked: readonly unknown[];
      try {
        checked = checkArguments(verb, args);
      } catch (error) {
        assert.ok(error instanceof DmError && error.message.startsWith(`${verb}: `), String(error));
        return;
      }
      for (const [i, arg] of checked.entries()) assert.deepEqual(arg, args[i] ?? undefined);
      // Whose turn it takes can be told of every call that is let in.
      const { devices, exports } = verbEntry(verb);
      for (const name of [
        ...(devices?.(checked as never) ?? []),
        ...(exports?.(checked as never) ?? []),
      ]) {
        assert.equal(typeof name, 'string');
      }
    }),
    { seed: SEED, numRuns: 2000 },
  );
});

test('a verb is one that the table has itself, not what every object has', () => {
  for (const name of ['__proto__', 'constructor', 'toString', '']) {
    assert.equal(verbNamed(name), undefined);
  }
  assert.deepEqual(Object.keys(VERBS).sort(), [...NAMES].sort());
});
