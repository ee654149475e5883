// The mechanical part of the style: floors, names, sizes, pages, and words that have no place here.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, normalize, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { statusName } from '../src/base/status.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FILES = listFiles();
const SOURCES = FILES.filter((f) => f.startsWith('src/') && f.endsWith('.ts'));
const PRODUCT = SOURCES.filter((f) => !f.endsWith('.test.ts') && !f.startsWith('src/testing/'));

const FLOORS: Readonly<Record<string, number>> = {
  base: 0,
  format: 1,
  io: 1,
  bio: 2,
  codec: 2,
  'persistent-data': 2,
  dm: 3,
  targets: 4,
  backends: 4,
  tools: 5,
  exports: 5,
  frontends: 6,
  daemon: 7,
  testing: 7,
  cli: 8,
  'index.ts': 9,
};

/** Floors whose folders are families: one never imports from another beside it. */
const FENCED = new Set(['targets', 'backends', 'tools', 'frontends']);

/** Who may use DataView getters outside formats: those whose job is wire or kernel structures. */
const DATA_VIEW_FOLDERS = [
  'src/format/',
  'src/frontends/nbd/',
  'src/backends/',
  'src/io/',
  // Compressed data has no alignment.
  'src/codec/',
];

/** What belongs to the project: as git has it, or the tree itself where there is no git. */
function listFiles(): string[] {
  const { status, stdout } = spawnSync('git', ['ls-files'], { cwd: ROOT, encoding: 'utf8' });
  const files = status === 0 ? stdout.split('\n') : walk('');
  return files.filter((f) => f !== '' && existsSync(join(ROOT, f)));
}

/** Files under `folder`, without what is built or installed, and without hidden folders. */
function walk(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (!entry.isDirectory()) return entry.isFile() ? [path] : [];
    const isOurs = !entry.name.startsWith('.') && !/^(?:node_modules|dist)$/.test(entry.name);
    return isOurs ? walk(path) : [];
  });
}

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

function floorOf(file: string): string {
  return file.split('/')[1] ?? '';
}

test('the walk of a tree without git finds what git finds', () => {
  const walked = new Set(walk(''));
  const missed = FILES.filter((f) => !f.startsWith('.') && !walked.has(f));
  assert.deepEqual(missed, []);
});

test('imports go down, or stay in their folder', () => {
  const wrong: string[] = [];
  for (const file of PRODUCT) {
    const own = floorOf(file);
    for (const [, path = ''] of read(file).matchAll(/from '(\.[^']+)'/g)) {
      const target = floorOf(normalize(join(dirname(file), path)));
      if (target === own) continue;
      const [from, to] = [FLOORS[own], FLOORS[target]];
      if (from === undefined || to === undefined || to >= from) wrong.push(`${file} -> ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('a family keeps to itself and to what is below it', () => {
  const wrong: string[] = [];
  for (const file of PRODUCT) {
    const [, floor = '', family = ''] = file.split('/');
    if (!FENCED.has(floor) || family.endsWith('.ts')) continue;
    for (const [, path = ''] of read(file).matchAll(/from '(\.[^']+)'/g)) {
      const [, toFloor, toFamily = ''] = normalize(join(dirname(file), path)).split('/');
      // A file at the top of a floor serves all its families.
      if (toFloor !== floor || toFamily === family || toFamily.endsWith('.ts')) continue;
      wrong.push(`${file} -> ${toFamily}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('names are kebab-case and say what is inside', () => {
  const wrong = SOURCES.filter((file) => {
    const name = basename(file);
    const isKebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.(format|target|backend))?(\.test)?\.ts$/.test(name);
    // A target's file is called as the table line calls the target.
    const isWord = /^[a-z0-9]+([-_][a-z0-9]+)*\.target\.ts$/.test(name);
    return !(isKebab || isWord) || /^(utils?|helpers?|common|misc|types)\./.test(name);
  });
  assert.deepEqual(wrong, []);
});

test('files and lines stay short, every file says what it is', () => {
  const wrong: string[] = [];
  for (const file of SOURCES) {
    const lines = read(file).split('\n');
    const isTest = file.endsWith('.test.ts');
    if (!isTest && lines.length > 501) wrong.push(`${file}: ${lines.length} lines`);
    if (!isTest && !/^(\/\/|\/\*)/.test(lines[0] ?? '')) wrong.push(`${file}: no header comment`);
    for (const [i, line] of lines.entries()) {
      const isPlain = !line.includes("'") && !line.includes('`') && !line.includes('/');
      if (!isTest && isPlain && line.length > 100) wrong.push(`${file}:${i + 1}: ${line.length}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('errno numbers have their names in status.ts only', () => {
  const names = Array.from({ length: 134 }, (_, i) => statusName(i)).filter((n) =>
    /^E[A-Z0-9]+$/.test(n),
  );
  const own = new RegExp(`\\bconst (${names.join('|')}) = \\d`);
  assert.deepEqual(
    SOURCES.filter((file) => own.test(read(file))),
    [],
  );
});

test('what the system refuses is told in words, not by the names of numbers', () => {
  const mayName = new Set(['src/base/status.ts', 'src/cli/errors.ts']);
  assert.deepEqual(
    PRODUCT.filter((file) => !mayName.has(file) && !file.startsWith('src/testing/')).filter(
      (file) => /\bstatusName\b|\(errno \$\{/.test(read(file)),
    ),
    [],
  );
});

test('DataView getters stay with formats', () => {
  const wrong = PRODUCT.filter(
    (file) =>
      !DATA_VIEW_FOLDERS.some((f) => file.startsWith(f)) &&
      !file.endsWith('.format.ts') &&
      /\.get(Uint|Int|BigUint|BigInt)\d+\(/.test(read(file)),
  );
  assert.deepEqual(wrong, []);
});

test('targets touch the world through their host only', () => {
  const wrong = PRODUCT.filter(
    (file) =>
      file.startsWith('src/targets/') &&
      file !== 'src/targets/load-target.ts' &&
      // A table may name a file with the key in it, which is read when the table is loaded.
      file !== 'src/targets/crypt/crypt-options.ts' &&
      /node:fs|Date\.now|Math\.random|setTimeout|setInterval/.test(read(file)),
  );
  assert.deepEqual(wrong, []);
});

test('every target and backend has its page; every target family has a test', () => {
  const wrong: string[] = [];
  for (const file of PRODUCT) {
    const [, floor = '', , name = ''] = file.split('/');
    const word = /^(.+)\.(target|backend)\.ts$/.exec(name)?.[1];
    if (word === undefined) continue;
    if (!existsSync(join(ROOT, 'docs', floor, `${word}.md`))) wrong.push(`${file}: no page`);
    const beside = SOURCES.some((f) => f.startsWith(`${dirname(file)}/`) && f.endsWith('.test.ts'));
    if (!beside) wrong.push(`${file}: no test beside it`);
  }
  assert.deepEqual(wrong, []);
});

test('tables in pages are whole: a blank line inside makes text of the rest', () => {
  const wrong: string[] = [];
  for (const page of FILES.filter((f) => f.endsWith('.md'))) {
    const text = read(page).replaceAll(/^ *```.*?^ *```/gms, (block) =>
      '\n'.repeat(block.split('\n').length - 1),
    );
    const lines = text.split('\n');
    for (const [i, line] of lines.entries()) {
      const isFirst = line.startsWith('|') && lines[i - 1]?.startsWith('|') !== true;
      if (isFirst && !/^\|(?: *:?-+:? *\|)+$/.test(lines[i + 1] ?? ''))
        wrong.push(`${page}:${i + 1}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('links in pages lead somewhere', () => {
  const wrong: string[] = [];
  for (const file of FILES.filter((f) => f.endsWith('.md'))) {
    for (const [, link = ''] of read(file).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:|^#/.test(link)) continue;
      const path = join(ROOT, dirname(file), link.replace(/#.*$/, ''));
      if (!existsSync(path)) wrong.push(`${file}: ${link}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('no unfinished notes, no paths of one machine, no registry hosts', () => {
  const self = relative(ROOT, join(ROOT, 'test/tidy.test.ts'));
  const words = [
    /\bTODO\b/,
    /\bFIXME\b/,
    /\bXXX\b/,
    /\/work\//,
    /registry\.npmjs/,
    /deb\.debian\.org/,
  ];
  const wrong: string[] = [];
  for (const file of FILES.filter((f) => /\.(ts|md|json|yaml|c|sh)$/.test(f) && f !== self)) {
    const text = read(file);
    for (const word of words) if (word.test(text)) wrong.push(`${file}: ${word.source}`);
  }
  assert.deepEqual(wrong, []);
});
