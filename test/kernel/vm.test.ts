// The harness of these tests: what goes wrong in the kernel is not overlooked.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inKernel, runInKernel } from './vm.ts';

test('output, exit status and lines as they come', async () => {
  const lines: string[] = [];
  const { output, status } = await runInKernel({
    script: 'uname -s; echo two; exit 3',
    onLine: (line) => lines.push(line),
  });
  assert.equal(output, 'Linux\ntwo\n');
  assert.equal(status, 3);
  assert.deepEqual(lines, ['Linux', 'two', 'exit status 3']);
});

test('a command that fails ends the script, and is an error', async () => {
  await assert.rejects(
    inKernel({ script: 'echo before; false; echo after' }),
    /exit status 1:\nbefore\n$/,
  );
});

test('a kernel that panics is an error with the end of its console', async () => {
  await assert.rejects(
    runInKernel({ script: 'echo before; echo c >/proc/sysrq-trigger; sleep 60' }),
    /before[^]*console: [^]*Kernel panic/,
  );
});

test('a kernel that complains is an error, even if the script ends well', async () => {
  await assert.rejects(
    runInKernel({ script: 'echo "<0>BUG: of the test" >/dev/kmsg; sleep 1' }),
    /complains: BUG: /,
  );
});

test('a script that does not end is stopped', async () => {
  await assert.rejects(
    runInKernel({ script: 'echo before; sleep 1000', timeoutSeconds: 25 }),
    /no end in 25 s\nbefore/,
  );
});
