// lamina conformance: the checks of lamina's own crash lab, for any device.

import type { Command } from 'commander';
import pc from 'picocolors';
import { Prng } from '../base/prng.ts';
import { parseSize, SECTOR_BYTES } from '../base/units.ts';
import {
  BackendSubject,
  builtInTargets,
  CHECKS,
  drawStack,
  type Outcome,
  RECIPES,
  runSuite,
  ServerSubject,
  StackSubject,
  type Subject,
  TableSubject,
} from '../testing/index.ts';
import { EXIT_FAILED, WrongCall } from './errors.ts';
import { positive, repeated } from './option-values.ts';
import { print } from './output.ts';

interface ConformanceOptions {
  readonly table: string[];
  readonly disk: string[];
  readonly serve?: string;
  readonly export: string;
  readonly size: string;
  readonly simulate?: boolean;
  readonly target: string[];
  readonly stacks: number;
  readonly only: string[];
  readonly seed?: number;
  readonly scale?: number;
  readonly timeout: number;
  readonly overwrite?: boolean;
  readonly list?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
What is checked (--list tells each check): data against a model under overlapping I/O, edges,
zeroes and discards, progress and memory with reserves of one, flush and FUA across power cuts,
crashes at any moment, errors and whom they reach, suspending, table swaps, limits, buffers, pools.

Examples:
  A server that runs somewhere; its export is overwritten:
    nbdkit -f -U "$PWD/disk.sock" memory 64M &
    lamina conformance 'nbd+unix:///?socket=disk.sock' --overwrite --only data

  A server that the suite may kill. Its data is on {backing}, an NBD disk that forgets what was
  not flushed:
    lamina conformance --serve 'nbdkit -f -U {socket} nbd {backing}' --only crash
    lamina conformance --serve 'qemu-nbd -t -k {socket} -f raw {backing}' --only flush

  A table of lamina's own over devices as they are, and one over simulated disks, which sees more:
    lamina conformance --table '0 4096 striped 2 8 memory:a?size=1M 0 memory:b?size=1M 0' --overwrite
    lamina conformance --table '0 4096 striped 2 8 sim:a 0 sim:b 0' --disk a=2048 --disk b=2048

  Two random stacks of lamina's targets, each with striped on top:
    lamina conformance --simulate --stacks 2 --target striped

Exit status: 0 everything passed, 1 something failed, 2 for a wrong call. --seed repeats a run.`;

export function addConformance(program: Command): void {
  program
    .command('conformance')
    .summary('check that a device keeps its promises')
    .description(
      'Runs a suite of checks on a device: an NBD export, an image, a server under its control, a table,\n' +
        'or random stacks over simulated disks. What fails is shown with a seed that repeats it and the\n' +
        'smallest load that was found to fail.',
    )
    .argument('[device]', 'a path or URI; its content is overwritten')
    .option('--table <line>', 'a table line; repeat it for more lines', repeated, [])
    .option('--disk <name=sectors>', 'a simulated disk that --table calls sim:NAME', repeated, [])
    .option('--serve <command>', 'a server to start, with {socket} and {backing} or {file}')
    .option('--export <name>', 'export of that server', '')
    .option('--size <size>', 'size of {backing} and {file}', '8M')
    .option('--simulate', "random stacks of lamina's targets over simulated disks")
    .option('--target <name>', 'with --simulate: target at the top; repeatable', repeated, [])
    .option('--stacks <n>', 'with --simulate: how many', positive, 20)
    .option('--only <check>', 'run this check; repeatable', repeated, [])
    .option('--seed <n>', 'repeat a run', positive)
    .option(
      '--scale <n>',
      'length of the loads; 1 in simulations, 4 elsewhere if not given',
      positive,
    )
    .option('--timeout <seconds>', 'what takes longer has failed', positive, 60)
    .option('--overwrite', 'yes, the content of the device may be overwritten')
    .option('--list', 'list the checks')
    .option('--json', 'print outcomes as JSON, one a line')
    .addHelpText('after', EXAMPLES)
    .action(async (device: string | undefined, options: ConformanceOptions) => {
      if (options.list === true) list(options.json === true);
      else if (!(await run(device, options))) process.exitCode = EXIT_FAILED;
    });
}

function list(isJson: boolean): void {
  const width = Math.max(...CHECKS.map((c) => c.name.length));
  for (const { name, about, needs = [] } of CHECKS) {
    const where = needs.length > 0 ? ` (${needs.join(', ')})` : '';
    const line = isJson
      ? JSON.stringify({ name, about, needs })
      : `${name.padEnd(width)}  ${about}${where}`;
    print(`${line}\n`);
  }
}

/** True when nothing has failed. */
async function run(device: string | undefined, options: ConformanceOptions): Promise<boolean> {
  checkNames(options);
  const seed = options.seed ?? (Date.now() & 0x7fffffff) + 1;
  const subjects = chooseSubjects(device, options, seed);
  const printer = new Printer(options.json === true, seed);
  let index = 0;
  for (const subject of subjects) {
    printer.begin(subject);
    try {
      await runSuite(subject, {
        seed: seed + index++,
        scale: options.scale ?? (subject.isSimulated ? 1 : 4),
        shrinkRuns: subject.isSimulated ? 100 : 12,
        ...(options.only.length > 0 ? { only: options.only } : {}),
        onOutcome: (outcome) => printer.outcome(outcome),
      });
    } finally {
      if (subject instanceof ServerSubject) await subject.close();
    }
  }
  return printer.end();
}

function checkNames(options: ConformanceOptions): void {
  for (const name of options.only) {
    if (!CHECKS.some((c) => c.name === name)) {
      throw new WrongCall(
        `--only ${name}: no such check; there are ${CHECKS.map((c) => c.name).join(', ')}`,
      );
    }
  }
  for (const name of options.target) {
    if (!(name in RECIPES) || !builtInTargets().includes(name)) {
      const known = Object.keys(RECIPES).filter((t) => builtInTargets().includes(t));
      throw new WrongCall(`--target ${name}: no such target; there are ${known.join(', ')}`);
    }
  }
}

function chooseSubjects(
  device: string | undefined,
  options: ConformanceOptions,
  seed: number,
): Iterable<Subject> {
  const given = [
    device === undefined ? '' : 'DEVICE',
    options.table.length > 0 ? '--table' : '',
    options.serve === undefined ? '' : '--serve',
    options.simulate === true ? '--simulate' : '',
  ].filter((s) => s !== '');
  if (given.length !== 1) {
    const found = given.length === 0 ? 'none' : given.join(' and ');
    throw new WrongCall(
      `conformance: give one of DEVICE, --table, --serve, --simulate; found ${found}`,
    );
  }
  const real = { timeoutMs: options.timeout * 1000 };
  if (options.serve !== undefined) return [serverSubject(options, options.serve)];
  if (options.simulate === true) return randomStacks(options, seed);
  const table = options.table.join('\n');
  if (/(^|\s)sim:/.test(table)) return [simulatedTable(table, options.disk)];
  if (options.overwrite !== true) {
    throw new WrongCall(
      'conformance: overwrites the device; say --overwrite if that is what you want',
    );
  }
  return [device === undefined ? new TableSubject(table, real) : new BackendSubject(device, real)];
}

function serverSubject(options: ConformanceOptions, command: string): ServerSubject {
  if (!command.includes('{socket}')) {
    throw new WrongCall(`--serve '${command}': has no {socket}, where it would have to listen`);
  }
  const sizeBytes = parseSize(options.size);
  if (sizeBytes === undefined || sizeBytes < 65536 || sizeBytes % 4096 !== 0) {
    throw new WrongCall(
      `--size ${options.size}: expected a multiple of 4k, 64k or more, such as 8M`,
    );
  }
  const timeoutMs = options.timeout * 1000;
  return new ServerSubject({ command, exportName: options.export, sizeBytes, timeoutMs });
}

function* randomStacks(options: ConformanceOptions, seed: number): Generator<Subject> {
  const targets = Object.keys(RECIPES).filter((t) => builtInTargets().includes(t));
  for (let i = 0; i < options.stacks; i++) {
    const topTarget = options.target[i % Math.max(1, options.target.length)];
    const spec = drawStack(new Prng(seed + i), {
      targets,
      ...(topTarget === undefined ? {} : { topTarget }),
    });
    yield new StackSubject(`stack ${i + 1} of ${options.stacks}`, spec);
  }
}

function simulatedTable(table: string, disks: readonly string[]): Subject {
  const specs = disks.map((text) => {
    const match = /^([^=]+)=(\d+)$/.exec(text);
    const lenSectors = Number(match?.[2]);
    if (match === null || lenSectors === 0 || lenSectors * SECTOR_BYTES > 1 << 30) {
      throw new WrongCall(`--disk ${text}: expected NAME=SECTORS, such as a=2048, up to 1 GiB`);
    }
    return { name: `sim:${match[1] ?? ''}`, lenSectors };
  });
  return new StackSubject('table', {
    disks: specs,
    devices: [{ name: 'device', table }],
    top: 'device',
  });
}

class Printer {
  readonly #isJson: boolean;
  readonly #seed: number;
  readonly #started = performance.now();
  readonly #counts = { passed: 0, failed: 0, 'not applicable': 0 };
  #subject: Subject | null = null;

  constructor(isJson: boolean, seed: number) {
    this.#isJson = isJson;
    this.#seed = seed;
  }

  begin(subject: Subject): void {
    this.#subject = subject;
    if (!this.#isJson) print(`${pc.bold(subject.name)}: ${subject.description}\n`);
  }

  outcome(outcome: Outcome): void {
    this.#counts[outcome.result]++;
    if (this.#isJson) {
      const device = this.#subject?.description;
      print(`${JSON.stringify({ ...outcome, device })}\n`);
      return;
    }
    const about = CHECKS.find((c) => c.name === outcome.check)?.about ?? '';
    if (outcome.result === 'passed') {
      print(`  ${pc.green('ok')}      ${outcome.check}\n`);
    } else if (outcome.result === 'failed') {
      print(
        `  ${pc.red('FAILED')}  ${outcome.check}: ${about}\n` +
          `          ${outcome.failure ?? ''}\n` +
          `          again with: --seed ${outcome.seed} --only ${outcome.check}\n`,
      );
      const load = outcome.load ?? [];
      if (load.length > 0) print(`          load: ${load.join('; ')}\n`);
    }
  }

  /** True when nothing has failed. */
  end(): boolean {
    const { passed, failed } = this.#counts;
    const seconds = (performance.now() - this.#started) / 1000;
    if (this.#isJson) {
      const summary = { summary: true, passed, failed, seed: this.#seed, seconds };
      print(`${JSON.stringify(summary)}\n`);
    } else {
      const skipped = this.#counts['not applicable'];
      const more = skipped > 0 ? `, ${skipped} not possible from outside (--list tells why)` : '';
      const what = failed > 0 ? pc.red(`${failed} failed`) : pc.green('none failed');
      print(`${passed} passed, ${what}${more}; ${seconds.toFixed(1)} s, seed ${this.#seed}\n`);
    }
    return failed === 0;
  }
}
