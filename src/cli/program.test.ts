// The tree of commands: what is loaded for a call is what the call needs.

import assert from 'node:assert/strict';
import { Command } from 'commander';
import { test } from 'node:test';
import { COMMAND_FILES, makeProgram, programFor } from './program.ts';

function namesOf(program: Command): string[] {
  return program.commands.flatMap((command) => [command.name(), ...command.aliases()]);
}

test('every file adds the commands that it is loaded for, and no others', async () => {
  for (const { names, load } of COMMAND_FILES) {
    const program = new Command();
    (await load())(program);
    assert.deepEqual(namesOf(program).toSorted(), names.toSorted());
  }
});

test('a call loads its own command; help, completion and what is unknown need all', async () => {
  const all = namesOf(await makeProgram());
  assert.deepEqual(namesOf(await programFor(['--version'])), []);
  assert.deepEqual(namesOf(await programFor(['pool', 'dump', 'x'])), ['pool']);
  assert.ok(namesOf(await programFor(['reload', 'x'])).includes('load'));
  for (const argv of [[], ['--help'], ['help', 'pool'], ['completion', 'bash'], ['srve']]) {
    assert.deepEqual(namesOf(await programFor(argv)), all, argv.join(' '));
  }
});

test('every command that ends takes --json; completion prints a script', async () => {
  const without: string[] = [];
  const visit = (command: Command, path: string): void => {
    const isLeaf = command.commands.length === 0;
    if (isLeaf && command.options.every(({ long }) => long !== '--json')) without.push(path);
    for (const child of command.commands) visit(child, `${path} ${child.name()}`.trimStart());
  };
  visit(await makeProgram(), '');
  assert.deepEqual(without, ['completion']);
});
