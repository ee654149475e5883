// What pages hold: blocks of a Markdown page or of a command's --help, in the order in which a reader meets
// them. CONTRIBUTING.md tells writers the conventions; nothing else is known about any page.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Every page of the product. */
export const PAGES: readonly string[] = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((f) => f.endsWith('.md'))
    .map((f) => `docs/${f}`)
    .sort(),
];

export type BlockKind = 'shell' | 'output' | 'js' | 'ts' | 'yaml' | 'table' | 'text';

export interface Block {
  readonly kind: BlockKind;
  readonly page: string;
  /** Line of the page on which the block's text begins, from 1. */
  readonly line: number;
  readonly lines: readonly string[];
  /** The paragraph before the block: it may say that the block is for another terminal. */
  readonly lead: string;
}

/** One line for the shell, as long as the shell takes it for one. */
export interface Command {
  readonly page: string;
  readonly line: number;
  readonly text: string;
  /** What the page says is printed; undefined where it says nothing. */
  readonly output: readonly string[] | undefined;
}

const KINDS: Readonly<Record<string, BlockKind>> = {
  sh: 'shell',
  console: 'shell',
  output: 'output',
  js: 'js',
  ts: 'ts',
  yaml: 'yaml',
  table: 'table',
  text: 'text',
};

/** Headings below which an indented block shows how a thing is written. Everywhere else it is for the shell. */
const GRAMMAR = /^(synopsis|table line)$/i;

/** The blocks of a page. Throws when a fence has no word, or one that says nothing. */
export function blocksOf(page: string, path: string): Block[] {
  const lines = readFileSync(path, 'utf8').split('\n');
  const blocks: Block[] = [];
  let heading = '';
  let lead = '';
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i] ?? '';
    const fence = /^ *```(.*)$/.exec(line);
    if (fence !== null) {
      const end = lines.findIndex((l, at) => at > i && /^ *```\s*$/.test(l));
      const kind = KINDS[fence[1] ?? ''];
      if (kind === undefined || end < 0) {
        throw new Error(
          `${page}:${i + 1}: a block of kind '${fence[1]}'; known: ${Object.keys(KINDS).join(', ')}`,
        );
      }
      blocks.push({ kind, page, line: i + 2, lines: lines.slice(i + 1, end), lead });
      i = end;
    } else if (/^ {4}\S/.test(line) && !/^([-*]|\d+\.) /.test(lead)) {
      let end = i;
      while (end < lines.length && /^( {4}|\s*$)/.test(lines[end] ?? '')) end++;
      const text = lines.slice(i, end).map((l) => l.slice(4));
      while (text.at(-1) === '') text.pop();
      const kind = GRAMMAR.test(heading) ? 'text' : 'shell';
      blocks.push({ kind, page, line: i + 1, lines: text, lead });
      i = end - 1;
    } else if (line.startsWith('#')) {
      heading = line.replace(/^#+ */, '');
      lead = '';
    } else if (line !== '') {
      lead = lines[i - 1] === '' ? line : `${lead} ${line}`.trim();
    }
  }
  return blocks;
}

/** The examples of a --help text: behind "Examples:", up to the first line that is not indented. */
export function blocksOfHelp(page: string, help: string): Block[] {
  const lines = help.split('\n');
  const start = lines.findIndex((l) => /^Examples?:/.test(l));
  const blocks: Block[] = [];
  if (start < 0) return blocks;
  let lead = '';
  let text: string[] = [];
  let first = 0;
  const flush = (): void => {
    if (text.length > 0) blocks.push({ kind: 'shell', page, line: first, lines: text, lead });
    text = [];
  };
  for (const [i, line] of lines.slice(start + 1).entries()) {
    if (line !== '' && !line.startsWith('  ')) break;
    if (/^ {2}\S/.test(line) && lines.slice(start + 1).some((l) => /^ {4}\S/.test(l))) {
      // Where commands stand deeper, this is the text above them.
      lead = text.length > 0 ? line.trim() : `${lead} ${line.trim()}`;
      flush();
    } else if (line !== '') {
      if (text.length === 0) first = start + i + 2;
      text.push(line.trimStart());
    }
  }
  flush();
  return blocks;
}

/** Why a block is not run, if its first line says so. */
export function reasonNotToRun(block: Block): string | undefined {
  return /^(?:#|\/\/) Not run in the tests: (.+?)\.?$/.exec(block.lines[0] ?? '')?.[1];
}

/** The name of the file that a block is to be saved as, if its first line is a comment with that name alone. */
export function fileNameOf(block: Block): string | undefined {
  return /^(?:#|\/\/) ([\w./-]+\.\w+)$/.exec(block.lines[0] ?? '')?.[1];
}

/** The commands of a shell block. In a console block each comes behind "$ ", with what it prints below it. */
export function commandsOf(block: Block, isWhole: (text: string) => boolean): Command[] {
  const { page } = block;
  const commands: Command[] = [];
  const isConsole = block.lines.some((l) => l.startsWith('$ '));
  for (let i = 0; i < block.lines.length; i++) {
    const line = block.line + i;
    let text = block.lines[i] ?? '';
    if (isConsole && !text.startsWith('$ ')) {
      throw new Error(`${page}:${line}: no '$ ' before a command`);
    }
    text = isConsole ? text.slice(2) : text;
    if (/^\s*(#.*)?$/.test(text)) continue;
    while (!isWhole(text) && i + 1 < block.lines.length) {
      text += `\n${(block.lines[++i] ?? '').replace(isConsole ? /^> / : /^/, '')}`;
    }
    const output: string[] = [];
    if (isConsole) {
      while (i + 1 < block.lines.length && block.lines[i + 1]?.startsWith('$ ') === false) {
        output.push(block.lines[++i] ?? '');
      }
    }
    commands.push({ page, line, text, output: isConsole ? output : undefined });
  }
  return commands;
}

/** Whether the reader opens another terminal for a block. */
export function isForOtherTerminal(block: Block): boolean {
  return /\banother terminal\b/i.test(block.lead);
}

/** Whether what was printed is what a page shows: `...` stands for anything in a line, or for any lines. */
export function matchesOutput(printed: string, shown: readonly string[]): boolean {
  const pattern = shown
    .map((line) => {
      if (line.trim() === '...') return '(?:.*\\n)*?';
      return `${line.trimEnd().split('...').map(escape).join('.*')}[ \\t]*\\n`;
    })
    .join('');
  const text = printed === '' || printed.endsWith('\n') ? printed : `${printed}\n`;
  return new RegExp(`^${pattern}$`).test(text);
}

/** The text as a pattern that means itself. */
function escape(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
