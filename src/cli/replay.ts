// lamina replay: what a log of dm-log-writes holds, and the device as it was anywhere in it.

import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { invalid } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { logFlagNames } from '../format/log-writes.ts';
import { type LogEntry, LogError, type LogReader, openLog } from '../tools/replay/log-reader.ts';
import {
  CHECK_POINTS,
  type CheckPoint,
  findRange,
  type LogPoint,
  replay,
  type ReplayOptions,
  type ReplayState,
} from '../tools/replay/replayer.ts';
import { runCheck } from './check-command.ts';
import { EXIT_FAILED, reportError } from './errors.ts';
import { notNegative, positive } from './option-values.ts';
import { print, tell } from './output.ts';
import { Progress } from './progress.ts';

const EXIT_BAD_LOG = 3;
/** Of what a failed check has printed; --json gives more. */
const SHOWN_LINES_MAX = 20;

interface Flags {
  readonly list?: boolean;
  readonly json?: boolean;
  readonly fromEntry?: number;
  readonly fromMark?: string;
  readonly toEntry?: number;
  readonly toMark?: string;
  readonly toFlush?: number;
  readonly check?: string;
  readonly checkAt: CheckPoint;
  readonly subsets: number;
  readonly seed?: number;
  readonly tear?: boolean;
  readonly state?: number;
  readonly inPlace?: boolean;
  readonly scratch?: string;
  readonly keepGoing?: boolean;
  readonly stopOnFailure?: boolean;
}

const EXAMPLES = `
Examples:
  Make a log:
    truncate -s 64M disk.img copy.img
    truncate -s 1G log.img
    lamina serve --table '0 131072 log-writes disk.img log.img' --unix disk.sock

  Do something, in another terminal:
    qemu-io -f raw -c 'write -P 7 1M 1M' -c flush -c 'write -P 8 2M 1M' 'nbd+unix:///?socket=disk.sock'

  Ctrl-C ends the server; then, what the log holds:
    lamina replay log.img --list

  A device as it was at the first flush:
    lamina replay log.img copy.img --to-flush 1

  Check every state that a flush promised, and 5 states that a crash before it may leave. For
  a file system: --check 'e2fsck -E journal_only -y {}; e2fsck -fn {}'. Any command will do:
    truncate -s 0 copy.img && truncate -s 64M copy.img
    lamina replay log.img copy.img --subsets 5 --seed 1 --check 'test -s {}'

Exit status: 0 all good, 1 a check failed or something was refused, 2 for a wrong call, 3 a bad log.`;

export function addReplay(program: Command): void {
  const command = program
    .command('replay')
    .summary('replay a log of dm-log-writes, and check the states on the way')
    .description(
      'Replays LOG, which the target log-writes has written, onto DEVICE (a file or a block device),\n' +
        'which must hold what the logged device held before. Entries count from 0, flushes from 1.',
    )
    .argument('<log>', 'the log: a file or a block device')
    .argument('[device]', 'what it is replayed onto')
    .option('--list', 'print the entries; no device is needed')
    .option('--json', 'print JSON')
    .addOption(
      new Option('--from-entry <n>', 'begin with this entry')
        .argParser(notNegative)
        .conflicts('fromMark'),
    )
    .option('--from-mark <name>', 'begin behind this mark')
    .addOption(
      new Option('--to-entry <n>', 'end with this entry')
        .argParser(notNegative)
        .conflicts(['toMark', 'toFlush']),
    )
    .addOption(new Option('--to-mark <name>', 'end with this mark').conflicts('toFlush'))
    .option('--to-flush <n>', 'end with this flush', positive)
    .option('--check <command>', 'run this on the states on the way; {} is the path of a copy')
    .addOption(
      new Option('--check-at <point>', 'where to check').choices(CHECK_POINTS).default('flush'),
    )
    .option('--subsets <n>', 'crash states to check at each point besides', notNegative, 0)
    .option('--seed <s>', 'which crash states (default: a new one each time)', notNegative)
    .option('--tear', 'crash states may have part of a write, by 512-byte sectors')
    .addOption(
      new Option('--state <k>', 'leave DEVICE in this crash state of the last entry')
        .argParser(notNegative)
        .conflicts(['check', 'subsets']),
    )
    .option('--in-place', 'check DEVICE itself, not a copy; the check must only read it')
    .option('--scratch <folder>', 'where copies are made (default: beside DEVICE)')
    .addOption(new Option('--keep-going', 'go on when a check fails').conflicts('stopOnFailure'))
    .option('--stop-on-failure', 'end at the first check that fails (the default)')
    .addHelpText('after', EXAMPLES)
    .action(async (log: string, device: string | undefined, flags: Flags) => {
      try {
        await run(command, log, device, flags);
      } catch (error) {
        if (!(error instanceof LogError)) throw error;
        reportError(error);
        process.exitCode = EXIT_BAD_LOG;
      }
    });
}

async function run(
  command: Command,
  log: string,
  device: string | undefined,
  flags: Flags,
): Promise<void> {
  const wrong = wrongCall(device, flags);
  if (wrong !== undefined) command.error(`error: ${wrong}`, { exitCode: 2 });
  const reader = openLog(log);
  try {
    if (flags.list === true) list(reader, flags);
    else if (device !== undefined) await replayOnto(command, reader, device, flags);
  } finally {
    reader.close();
  }
}

function wrongCall(device: string | undefined, flags: Flags): string | undefined {
  const isList = flags.list === true;
  if (isList === (device !== undefined)) return 'give DEVICE, or --list without it';
  if (isList && flags.check !== undefined) return '--check needs DEVICE, not --list';
  if (flags.subsets > 0 && flags.check === undefined) return '--subsets needs --check';
  if (flags.state !== undefined && flags.seed === undefined) return '--state needs --seed';
  if (flags.inPlace === true && flags.subsets > 0) {
    return '--in-place does not go with --subsets: crash states are made in copies';
  }
  return undefined;
}

function pointsOf(flags: Flags): { readonly from?: LogPoint; readonly to?: LogPoint } {
  const { fromEntry, fromMark, toEntry, toMark, toFlush } = flags;
  const from =
    fromEntry !== undefined
      ? { entry: fromEntry }
      : fromMark !== undefined
        ? { mark: fromMark }
        : undefined;
  let to: LogPoint | undefined;
  if (toEntry !== undefined) to = { entry: toEntry };
  else if (toMark !== undefined) to = { mark: toMark };
  else if (toFlush !== undefined) to = { flush: toFlush };
  return { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
}

function list(reader: LogReader, flags: Flags): void {
  const { from, to } = pointsOf(flags);
  const { start, lastEntry } = findRange(reader, from, to);
  const isJson = flags.json === true;
  const out = new LineWriter();
  if (isJson) out.line('[');
  else out.line('entry\tsector\tsectors\tflags\tmark');
  for (const entry of reader.entries(start)) {
    if (entry.index > lastEntry) break;
    const { index, mark } = entry;
    const sector = entry.offBytes / SECTOR_BYTES;
    const sectors = entry.lenBytes / SECTOR_BYTES;
    const names = logFlagNames(entry.flags);
    if (!isJson) out.line(`${index}\t${sector}\t${sectors}\t${names}\t${mark ?? ''}`.trimEnd());
    else {
      const words = entry.flags === 0 ? [] : names.toLowerCase().split('|');
      const comma = index === lastEntry ? '' : ',';
      out.line(
        `  ${JSON.stringify({ entry: index, sector, sectors, flags: words, mark })}${comma}`,
      );
    }
  }
  if (isJson) out.line(']');
  out.end();
}

/** Lines to stdout, many at a time: a log may have millions. */
class LineWriter {
  #text = '';

  line(text: string): void {
    this.#text += `${text}\n`;
    if (this.#text.length > 65536) this.end();
  }

  end(): void {
    print(this.#text);
    this.#text = '';
  }
}

interface Failure {
  readonly entry: number;
  readonly state: number | undefined;
  readonly ending: string;
  readonly replay: string;
  readonly output: string;
}

async function replayOnto(
  command: Command,
  reader: LogReader,
  device: string,
  flags: Flags,
): Promise<void> {
  refuseSame(reader.path, device);
  const seed = flags.seed ?? Math.floor(Math.random() * 2 ** 31);
  const progress = new Progress();
  const failures: Failure[] = [];
  const options: ReplayOptions = {
    ...pointsOf(flags),
    ...(flags.state === undefined
      ? {}
      : { crash: { seed, state: flags.state, isTorn: flags.tear === true } }),
    onEntry: (entry, last) => progress.show(entry.index, last, `entry ${entry.index} of ${last}`),
  };
  const check = async (state: ReplayState): Promise<boolean> => {
    const outcome = await runCheck(flags.check ?? '', resolve(state.path));
    if (outcome.isGood) return true;
    progress.clear();
    if (outcome.isMissing) {
      command.error(`error: --check '${flags.check}': cannot be run: ${outcome.output.trim()}`, {
        exitCode: 2,
      });
    }
    const again = howToReplay(reader.path, device, flags, seed, state);
    const { entry, state: number } = state;
    failures.push({
      entry: entry.index,
      state: number,
      ending: outcome.ending,
      replay: again,
      output: outcome.output,
    });
    tellFailure(entry, number, seed, outcome, again);
    return flags.keepGoing === true;
  };
  const result = await withScratch(device, flags, async (scratchFolder) => {
    if (scratchFolder === undefined) return await replay(reader, device, options);
    const checks = {
      at: flags.checkAt,
      subsets: flags.subsets,
      seed,
      isTorn: flags.tear === true,
      isInPlace: flags.inPlace === true,
      scratchFolder,
      check,
    };
    return await replay(reader, device, { ...options, checks });
  });
  progress.clear();
  if (flags.json === true) {
    print(`${JSON.stringify({ ...result, seed, failures }, null, 2)}\n`);
  } else {
    const checked =
      flags.check === undefined ? '' : `, ${result.states} states checked, ${failures.length} bad`;
    const { entries, flushes } = result;
    print(`replayed ${entries} entries, ${flushes} flushes${checked}\n`);
  }
  if (failures.length > 0) process.exitCode = EXIT_FAILED;
}

function refuseSame(log: string, device: string): void {
  const a = statSync(log);
  const b = statSync(device, { throwIfNoEntry: false });
  if (b === undefined) {
    throw invalid(
      `${device}: no such file; make it as large as the logged device (truncate -s SIZE)`,
    );
  }
  if (a.ino === b.ino && a.dev === b.dev) throw invalid(`${device}: is the log itself`);
}

function tellFailure(
  entry: LogEntry,
  state: number | undefined,
  seed: number,
  outcome: { readonly ending: string; readonly output: string },
  again: string,
): void {
  const what = state === undefined ? '' : `, crash state ${state} of seed ${seed}`;
  const lines = outcome.output.trimEnd().split('\n');
  if (lines.length > SHOWN_LINES_MAX)
    lines.splice(SHOWN_LINES_MAX, Number.POSITIVE_INFINITY, '...');
  const output = lines.map((line) => `    ${line}`).join('\n');
  tell(
    `lamina: check failed (${outcome.ending}) at entry ${entry.index}${what}\n${output}\n` +
      `  this state again: ${again}\n`,
  );
}

/** The call that makes a state again, on a device as it was before. */
function howToReplay(
  log: string,
  device: string,
  flags: Flags,
  seed: number,
  { entry, state }: ReplayState,
): string {
  const words = ['lamina', 'replay', shellWord(log), shellWord(device)];
  if (flags.fromEntry !== undefined) words.push('--from-entry', String(flags.fromEntry));
  if (flags.fromMark !== undefined) words.push('--from-mark', shellWord(flags.fromMark));
  words.push('--to-entry', String(entry.index));
  if (state !== undefined) {
    words.push('--seed', String(seed), '--state', String(state));
    if (flags.tear === true) words.push('--tear');
  }
  return words.join(' ');
}

function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A folder for copies, which goes away in every case, also when a signal ends this. */
async function withScratch<T>(
  device: string,
  flags: Flags,
  use: (folder: string | undefined) => Promise<T>,
): Promise<T> {
  if (flags.check === undefined) return await use(undefined);
  const folder = mkdtempSync(join(flags.scratch ?? dirname(device), '.lamina-replay-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  const onSignal = (signal: NodeJS.Signals): void => {
    remove();
    process.removeListener('SIGINT', onSignal);
    process.removeListener('SIGTERM', onSignal);
    process.kill(process.pid, signal);
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  try {
    return await use(folder);
  } finally {
    process.removeListener('SIGINT', onSignal);
    process.removeListener('SIGTERM', onSignal);
    remove();
  }
}
