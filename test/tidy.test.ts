// The mechanical part of the style: floors, names, sizes, pages, and words that have no place here.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, normalize, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FILES = execFileSync('git', ['ls-files'], { cwd: ROOT, encoding: 'utf8' })
  .split('\n')
  .filter((f) => f !== '' && existsSync(join(ROOT, f)));
const SOURCES = FILES.filter((f) => f.startsWith('src/') && f.endsWith('.ts'));
const PRODUCT = SOURCES.filter((f) => !f.endsWith('.test.ts') && !f.startsWith('src/testing/'));

const FLOORS: Readonly<Record<string, number>> = {
  base: 0,
  format: 1,
  io: 1,
  bio: 2,
  'persistent-data': 3,
  dm: 3,
  machinery: 4,
  targets: 5,
  backends: 5,
  frontends: 6,
  daemon: 7,
  testing: 7,
  cli: 8,
  'index.ts': 9,
};

/** Imports that go up or sideways for a reason. */
const FLOOR_EXCEPTIONS = new Set([
  // The core finds targets and backends by their files' names.
  'src/daemon/plane-core.ts -> backends',
]);

/** Who may use DataView getters outside formats: those whose job is wire or kernel structures. */
const DATA_VIEW_FOLDERS = ['src/format/', 'src/frontends/nbd/', 'src/backends/', 'src/io/'];

function read(file: string): string {
  return readFileSync(join(ROOT, file), 'utf8');
}

function floorOf(file: string): string {
  return file.split('/')[1] ?? '';
}

test('imports go down, or stay in their folder', () => {
  const wrong: string[] = [];
  for (const file of PRODUCT) {
    const own = floorOf(file);
    for (const [, path = ''] of read(file).matchAll(/from '(\.[^']+)'/g)) {
      const target = floorOf(normalize(join(dirname(file), path)));
      if (target === own || FLOOR_EXCEPTIONS.has(`${file} -> ${target}`)) continue;
      const [from, to] = [FLOORS[own], FLOORS[target]];
      if (from === undefined || to === undefined || to >= from) wrong.push(`${file} -> ${target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test('names are kebab-case and say what is inside', () => {
  const wrong = SOURCES.filter((file) => {
    const name = basename(file);
    const isKebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.format)?(\.test)?\.ts$/.test(name);
    return !isKebab || /^(utils?|helpers?|common|misc|types)\./.test(name);
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
      /node:fs|Date\.now|Math\.random|setTimeout|setInterval/.test(read(file)),
  );
  assert.deepEqual(wrong, []);
});

/** A page of its own, or the one of the family (`file-sync` is in `file.md`). */
function hasPage(file: string): boolean {
  const name = basename(file, '.ts');
  const folder = join(ROOT, 'docs', floorOf(file));
  return [name, name.replace(/-.*$/, '')].some((page) => existsSync(join(folder, `${page}.md`)));
}

test('every target and backend has its page', () => {
  const helpers = new Set(['open', 'reference', 'bounce']);
  const wrong = PRODUCT.filter((file) => /^src\/(targets|backends)\/[^/]+\.ts$/.test(file))
    .filter((file) => !helpers.has(basename(file, '.ts')))
    .filter((file) => !hasPage(file));
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
