// Pages and commands know of each other: what a page names exists, and a manual page has what --help has.

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { knownCommands } from './commands.ts';
import { blocksOf, PAGES, ROOT } from './pages.ts';

const KNOWN = knownCommands();
const MAN = readdirSync(join(ROOT, 'docs/man')).filter((f) => f.startsWith('lamina'));

function read(page: string): string {
  return readFileSync(join(ROOT, page), 'utf8');
}

/** What is wrong with a call as a page has it: its command or one of its options does not exist. */
function wrongWith(call: string): string | undefined {
  const words = call.replace(/^(?:npx |bin\/)/, '').split(/[\s|;&]+/);
  let name = 'lamina';
  let at = 1;
  for (; KNOWN.get(name)?.hasSubCommands === true && at < words.length; at++) {
    const word = words[at] ?? '';
    // A word in capitals stands for any; an option ends the words.
    if (!/^[a-z]/.test(word)) break;
    if (word === 'help') return undefined;
    if (!KNOWN.has(`${name} ${word}`)) return `there is no '${name} ${word}'`;
    name = `${name} ${word}`;
  }
  const isCut = name !== 'lamina' && KNOWN.get(name)?.hasSubCommands === true && at < words.length;
  if (isCut && /^[A-Z]/.test(words[at] ?? ''))
    return `'${name}' takes a command, not '${words[at]}'`;
  const unquoted = call.replaceAll(/'[^']*'|"[^"]*"/g, '');
  for (const [, option = ''] of unquoted.matchAll(/(?<=[\s[])(--[a-z][a-z0-9-]*)/g)) {
    if (option === '--help' || KNOWN.get(name)?.options.has(option) === true) continue;
    return `'${name}' has no ${option}`;
  }
  return undefined;
}

test('every command and option that a page or a help text names exists', () => {
  const wrong: string[] = [];
  const look = (where: string, text: string): void => {
    for (const [call] of text.matchAll(/(?<![\w/.-])(?:bin\/)?lamina [a-z_-][^`\n]*/g)) {
      const reason = wrongWith(call);
      if (reason !== undefined) wrong.push(`${where}: ${reason}, in '${call}'`);
    }
  };
  for (const page of PAGES) {
    for (const [span] of read(page).matchAll(/`(?:bin\/|npx )?lamina [^`]+`/g)) {
      look(page, span.slice(1, -1));
    }
    for (const block of blocksOf(page, join(ROOT, page)).filter((b) => b.kind === 'shell')) {
      for (const line of block.lines) {
        look(`${page}:${block.line}`, /^(?:\$ )?(?:bin\/|npx )?lamina .*/.exec(line)?.[0] ?? '');
      }
    }
  }
  for (const { name, help } of KNOWN.values()) {
    for (const line of help.split('\n')) {
      look(`${name} --help`, /^ +((?:bin\/)?lamina .*)/.exec(line)?.[1] ?? '');
      for (const [span] of line.matchAll(/`lamina [^`]+`/g))
        look(`${name} --help`, span.slice(1, -1));
    }
  }
  assert.deepEqual(wrong, []);
});

const SECTIONS = [
  'Name',
  'Synopsis',
  'Description',
  'Options',
  'Exit status',
  'Files',
  'Examples',
  'See also',
];

test('every manual page has the same sections, in the same order', () => {
  const wrong: string[] = [];
  for (const page of MAN) {
    const found = [...read(`docs/man/${page}`).matchAll(/^## (.+)$/gm)].map((m) => m[1] ?? '');
    const known = found.filter((s) => SECTIONS.includes(s));
    if (known.join() !== SECTIONS.join()) wrong.push(`${page}: ${found.join(', ')}`);
  }
  assert.deepEqual(wrong, []);
});

/** The commands that a manual page's name section has, with all that is below them. */
function commandsOfPage(text: string): string[] {
  const name = /^## Name\n(.*?)\n## /ms.exec(text)?.[1] ?? '';
  const named = [...name.matchAll(/`(lamina[^`]*)`/g)].map((m) => m[1] ?? '');
  return [...KNOWN.keys()].filter((command) =>
    named.some((n) => command === n || (n !== 'lamina' && command.startsWith(`${n} `))),
  );
}

test('every command is in one manual page', () => {
  const pages = new Map<string, string[]>();
  for (const page of MAN) {
    for (const command of commandsOfPage(read(`docs/man/${page}`))) {
      pages.set(command, [...(pages.get(command) ?? []), page]);
    }
  }
  const wrong = [...KNOWN.values()]
    .filter(({ name }) => pages.get(name)?.length !== 1 && name !== 'lamina reload')
    .map(({ name }) => `${name}: ${pages.get(name)?.join(' and ') ?? 'no page'}`);
  assert.deepEqual(wrong, []);
});

for (const page of MAN) {
  test(`docs/man/${page} has the options of --help, and no others`, () => {
    const text = read(`docs/man/${page}`);
    const section = /^## Options\n(.*?)\n## /ms.exec(text)?.[1] ?? '';
    // The first cell of a row, or the bold beginning of a list's item.
    const heads = section.matchAll(/^(?:\|((?:[^|\\]|\\.)*)\||- \*\*(.*?)\*\* –)/gm);
    const described = new Set<string>();
    for (const [, cell = '', item = ''] of heads) {
      for (const [, option = ''] of `${cell}${item}`.matchAll(/(?:^|[\s`*])(--[a-z][a-z0-9-]*)/g)) {
        described.add(option);
      }
    }
    const real = new Set<string>();
    for (const command of commandsOfPage(text)) {
      for (const option of KNOWN.get(command)?.options ?? []) {
        if (option.startsWith('--')) real.add(option);
      }
    }
    assert.deepEqual([...described].sort(), [...real].sort());
  });
}

test('defaults in --help are written as one would type them, and none says nothing', () => {
  for (const { name, help } of knownCommands().values()) {
    assert.doesNotMatch(help, /default:\s+(?:\[\]|""|\d{5,})/, name);
  }
  assert.match(knownCommands().get('lamina serve')?.help ?? '', /--buffer.*\(default: 128M\)/);
});
