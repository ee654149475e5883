// Errors of Node and OpenSSL in words.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { test } from 'node:test';
import { DmError, errorText, failedCall } from './errors.ts';
import { errnoAdvice, errnoText, isSystemError, systemErrorText } from './system-error.ts';

function thrown(run: () => void): Error {
  try {
    run();
  } catch (error) {
    return error as Error;
  }
  throw new Error('nothing was thrown');
}

test('a system error is its reason, and where nobody says of what, the call and the path', () => {
  const error = thrown(() => readFileSync('/nonexistent/x'));
  assert.equal(errorText(error), 'No such file or directory');
  assert.equal(systemErrorText(error), 'open /nonexistent/x: No such file or directory');
  assert.equal(systemErrorText(thrown(() => readFileSync('/'))), 'read: Is a directory');
  assert.ok(isSystemError(error));
  assert.ok(!isSystemError(new Error('x')));
  assert.ok(!isSystemError(undefined));
});

test('what can be done about an error of the system is said with it, once', () => {
  assert.match(errnoAdvice(28), /^No space left on device \(make room there, .*\)$/);
  assert.equal(errnoAdvice(22), 'Invalid argument');
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), {
    errno: -28,
    code: 'ENOSPC',
    syscall: 'write',
  });
  const told = failedCall('a.img', 'write block 7', full);
  assert.equal(told.status, 28);
  assert.equal(told.message, `a.img: cannot write block 7: ${errnoAdvice(28)}`);
  assert.equal(systemErrorText(full), `write: ${errnoAdvice(28)}`);
  const refusal = new DmError(16, 'a.img: is in use');
  assert.equal(failedCall('a.img', 'open', refusal), refusal);
});

test('every errno that Node knows on Linux by a usual name has a text', () => {
  assert.equal(errnoText(-28), 'No space left on device');
  for (const code of ['EACCES', 'EMFILE', 'ENOTDIR', 'EADDRINUSE', 'ELOOP', 'EROFS', 'EPIPE']) {
    const [errno] = [...getSystemErrorMap()].find(([, [name]]) => name === code) ?? [0];
    assert.doesNotMatch(errnoText(errno), /^error /, code);
  }
  assert.equal(errnoText(4711), 'error 4711');
});

test("OpenSSL's errors lose their numbers and the names of functions", () => {
  const text = 'error:0480006C:PEM routines::no start line';
  assert.equal(errorText(new Error(text)), 'nothing in PEM format is in it');
  assert.equal(
    errorText(new Error('error:0A000126:SSL routines::some new reason')),
    'some new reason',
  );
});
