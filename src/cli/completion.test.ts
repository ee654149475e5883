// Completion as bash does it: the script is sourced, and asked.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const SCRIPT = execFileSync(process.execPath, [LAMINA, 'completion', 'bash'], { encoding: 'utf8' });

test('bash completes commands, options, values and names', { skip: skipped() }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'lamina-complete-'));
  try {
    writeFileSync(join(folder, 'script'), SCRIPT);
    // Names that a shell would like to run.
    const names = "printf '%s\\n' disk 'my disk' '$(touch pwned)' top";
    writeFileSync(join(folder, 'lamina'), `#!/bin/bash\n[[ $1 == __complete ]] && ${names}\n`, {
      mode: 0o755,
    });
    const complete = (...words: readonly string[]): string[] => {
      const list = words.map((word) => `'${word}'`).join(' ');
      const line =
        `PATH=${folder}:$PATH; cd ${folder}; source ./script; COMP_WORDS=(lamina ${list}); ` +
        `COMP_CWORD=${words.length}; _lamina; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const out = execFileSync('bash', ['-c', line], { encoding: 'utf8' });
      return out.split('\n').filter((word) => word !== '');
    };
    assert.deepEqual(complete('ser'), ['serve']);
    assert.deepEqual(complete('rel'), ['reload']);
    assert.deepEqual(complete('export', ''), ['add', 'remove', 'list']);
    assert.deepEqual(complete('export', 'add', '--dev'), ['--device']);
    assert.deepEqual(complete('serve', '--tls-'), [
      '--tls-creds',
      '--tls-psk',
      '--tls-verify-client',
    ]);
    assert.deepEqual(complete('serve', '--engine', ''), ['auto', 'uring', 'node']);
    assert.deepEqual(complete('serve', '--engine', '=', 'n'), ['node']);
    assert.deepEqual(complete('completion', 'z'), ['zsh']);
    const all = ['disk', 'my\\ disk', '\\$\\(touch\\ pwned\\)', 'top'];
    assert.deepEqual(complete('suspend', ''), all);
    assert.deepEqual(complete('suspend', '--noflush', 'di'), ['disk']);
    assert.deepEqual(complete('export', 'add', 'x', '--device', 't'), ['top']);
    assert.deepEqual(complete('reload', 'my'), ['my\\ disk']);
    // Files are the shell's.
    assert.deepEqual(complete('up', ''), []);
    assert.deepEqual(complete('serve', '--tls-creds', ''), []);
    assert.deepEqual(execFileSync('ls', [folder], { encoding: 'utf8' }), 'lamina\nscript\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

function skipped(): string | false {
  try {
    execFileSync('bash', ['-c', 'true']);
    return false;
  } catch {
    return 'there is no bash';
  }
}
