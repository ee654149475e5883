// A reader of a page who does what it says, from top to bottom, in a fresh folder.

import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseAllDocuments } from 'yaml';
import { parseTable } from '../../src/dm/table-text.ts';
import {
  type Block,
  type Command,
  commandsOf,
  fileNameOf,
  isForOtherTerminal,
  matchesOutput,
  reasonNotToRun,
  ROOT,
} from './pages.ts';
import { isWhole, sleep, Terminal } from './terminal.ts';

/** Commands that stay in the foreground until Ctrl-C; a reader sees the line that says they are ready. */
const SERVERS =
  /^(?:bin\/)?lamina (?:serve|daemon)\b(?!.*(?:&|--help|--check-config|--stop)\s*$)|^tools\/demo\b/s;

/** A page is followed in a clone of the repository, or in a folder of its own. */
export type Place = 'clone' | 'folder';

export interface Skipped {
  readonly where: string;
  readonly reason: string;
}

/** Follows the blocks in a fresh folder. Returns which were left out; throws what is not as the page has it. */
export async function followPage(
  blocks: readonly Block[],
  place: Place,
): Promise<readonly Skipped[]> {
  const reader = new Reader(place);
  const wrong: string[] = [];
  try {
    await reader.follow(blocks);
  } catch (error) {
    wrong.push(error instanceof Error ? error.message : String(error));
  }
  wrong.push(...(await reader.close()));
  if (wrong.length > 0) throw new Error(wrong.join('\n'));
  return reader.skipped;
}

class Reader {
  readonly folder = mkdtempSync(join(tmpdir(), 'page-'));
  readonly skipped: Skipped[] = [];
  readonly #env: NodeJS.ProcessEnv;
  readonly #terminals = new Map<boolean, Terminal>();

  constructor(place: Place) {
    for (const name of ['home', 'run', 'state', 'work']) {
      mkdirSync(join(this.folder, name), { mode: 0o700 });
    }
    if (place === 'clone') this.#cloneHere();
    else this.#installHere();
    const bin = join(place === 'clone' ? this.work : ROOT, 'bin');
    const path = [bin, join(ROOT, 'node_modules/.bin'), process.env['PATH'] ?? ''];
    this.#env = {
      ...process.env,
      HOME: join(this.folder, 'home'),
      LC_ALL: 'C.UTF-8',
      PATH: path.join(':'),
      XDG_RUNTIME_DIR: join(this.folder, 'run'),
      XDG_STATE_HOME: join(this.folder, 'state'),
    };
    // Pages show what is printed without colours, whatever runs the tests.
    this.#env['NO_COLOR'] = '1';
    delete this.#env['NODE_TEST_CONTEXT'];
    delete this.#env['NODE_OPTIONS'];
  }

  /** Makes the folder a clone that has been built, as tools/demo leaves one. */
  #cloneHere(): void {
    const leftOut = /^(?:\.git|node_modules|demo-data)$/;
    for (const name of readdirSync(ROOT).filter((n) => !leftOut.test(n))) {
      const to = join(this.work, name);
      cpSync(join(ROOT, name), to, { recursive: true, preserveTimestamps: true });
    }
    symlinkSync(join(ROOT, 'node_modules'), join(this.work, 'node_modules'));
  }

  /** Makes the folder one where somebody has called `npm install lamina`, and has a TypeScript compiler. */
  #installHere(): void {
    const modules = join(this.work, 'node_modules');
    mkdirSync(modules);
    symlinkSync(ROOT, join(modules, 'lamina'));
    for (const name of ['@types', 'typescript']) {
      symlinkSync(join(ROOT, 'node_modules', name), join(modules, name));
    }
    mkdirSync(join(modules, '.bin'));
    symlinkSync(join(ROOT, 'node_modules/.bin/tsc'), join(modules, '.bin/tsc'));
    symlinkSync(join(ROOT, 'bin/lamina'), join(modules, '.bin/lamina'));
  }

  get work(): string {
    return join(this.folder, 'work');
  }

  /** Does what the blocks say. Throws at the first thing that is not as the page has it. */
  async follow(blocks: readonly Block[]): Promise<void> {
    for (const [i, block] of blocks.entries()) {
      const reason = reasonNotToRun(block);
      const where = `${block.page}:${block.line}`;
      if (reason !== undefined) this.skipped.push({ where, reason });
      else if (block.kind === 'shell') {
        const next = blocks[i + 1];
        await this.#shell(block, next?.kind === 'output' ? next : undefined);
      } else if (block.kind === 'js' || block.kind === 'ts') await this.#code(block);
      else if (block.kind === 'yaml') this.#yaml(block);
      else if (block.kind === 'table') checkTable(block);
    }
  }

  /** Closes the terminals, the last one first. Returns what did not end as it should. */
  /** Closes the terminals, the last one first. Returns what did not end as it should. */
  async close(): Promise<string[]> {
    const wrong: string[] = [];
    for (const terminal of [...this.#terminals.values()].toReversed()) {
      wrong.push(...(await terminal.close()));
    }
    // What was killed may still be at its last write.
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    return wrong;
  }

  async #shell(block: Block, shown: Block | undefined): Promise<void> {
    const isOther = isForOtherTerminal(block);
    let all = '';
    const commands = commandsOf(block, isWhole);
    for (const command of commands) {
      const isShown = shown !== undefined && command === commands.at(-1);
      const toRun = isShown ? { ...command, output: shown.lines } : command;
      all += await this.#command(toRun, this.#terminal(isOther), isShown ? all : '');
    }
  }

  #terminal(isOther: boolean): Terminal {
    let terminal = this.#terminals.get(isOther);
    if (terminal === undefined) {
      terminal = new Terminal(this.work, this.#env);
      this.#terminals.set(isOther, terminal);
    }
    return terminal;
  }

  /** Runs one command. The page shows what it prints behind `before`. */
  async #command(command: Command, terminal: Terminal, before: string): Promise<string> {
    const { text, output: shown } = command;
    const where = `${command.page}:${command.line}: ${text}`;
    if (terminal.isBusy) {
      const { status, output } = await terminal.interrupt();
      if (status !== 0) throw new Error(`${where}\nbefore it, Ctrl-C: status ${status}\n${output}`);
    }
    const isAsShown = (output: string): boolean =>
      shown === undefined || matchesOutput(`${before}${output}`, shown);
    terminal.start(text);
    let output: string;
    if (SERVERS.test(text.replace(/\s+#[^'"]*$/, ''))) {
      output = await terminal.printed((o) =>
        shown === undefined ? o.includes('\n') : isAsShown(o),
      );
      if (!output.includes('\n'))
        throw new Error(`${where}\nnot ready in time; printed:\n${output}`);
    } else {
      const ended = await terminal.wait();
      output = ended.output;
      if (ended.status !== 0)
        throw new Error(`${where}\nexit status ${ended.status}; printed:\n${output}`);
      // A job in the background prints when it comes to it.
      if (/&\s*$/.test(text)) output = await patiently(ended.soFar, isAsShown);
    }
    if (!isAsShown(output)) {
      throw new Error(`${where}\nprinted:\n${output}\nthe page shows:\n${shown?.join('\n')}`);
    }
    return output;
  }

  /** Saves code under the name it has; code without one is run right away, TypeScript compiled before. */
  async #code(block: Block): Promise<void> {
    const name = fileNameOf(block) ?? `example-${block.line}.${block.kind === 'ts' ? 'ts' : 'mjs'}`;
    const path = join(this.work, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${block.lines.join('\n')}\n`);
    if (fileNameOf(block) !== undefined) return;
    const terminal = this.#terminal(false);
    let text = `node ${name}`;
    if (block.kind === 'ts') {
      if (!existsSync(join(this.work, 'package.json'))) {
        writeFileSync(join(this.work, 'package.json'), '{ "type": "module" }\n');
      }
      text = `tsc --strict --module nodenext --target es2023 --types node ${name} && node ${name.replace(/\.ts$/, '.js')}`;
    }
    const { status, output } = await terminal.run(text);
    if (status !== 0) {
      throw new Error(
        `${block.page}:${block.line}: ${text}\nexit status ${status}; printed:\n${output}`,
      );
    }
  }

  #yaml(block: Block): void {
    const text = `${block.lines.join('\n')}\n`;
    const [error] = parseAllDocuments(text).flatMap((d) => ('errors' in d ? d.errors : []));
    if (error !== undefined) throw new Error(`${block.page}:${block.line}: ${error.message}`);
    const name = fileNameOf(block);
    if (name !== undefined) writeFileSync(join(this.work, name), text);
  }
}

/** Reads until what is read is enough, or ten seconds are over. */
async function patiently(read: () => string, isEnough: (text: string) => boolean): Promise<string> {
  for (let left = 500; left > 0 && !isEnough(read()); left--) await sleep(20);
  return read();
}

/** Table lines that stand alone must at least be lines. */
function checkTable(block: Block): void {
  const lines = block.lines.filter((l) => !/^\s*(#.*)?$/.test(l));
  parseTable(lines.join('\n'));
}
