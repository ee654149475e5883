// Daily work with thin pools over the daemon: pools from files, volumes and snapshots by name.

import { statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { DmError, failedCall, invalid } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { formatSize, MIB, parseSize, SECTOR_BYTES } from '../base/units.ts';
import type { TargetLine } from '../dm/control.ts';
import { escapeArg, splitArgs } from '../dm/table-text.ts';
import { call, devicesWithTables, ifThere } from './daemon-call.ts';
import { type CreatePool, createPool } from './pool-create.ts';
import { metadataBytes } from './pool-files.ts';
import { alone } from './pool-lock.ts';
import { JSON_DONE, type JsonFlag, print, printDone, printJson, shownName } from './output.ts';

export function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined || bytes < SECTOR_BYTES || bytes % SECTOR_BYTES !== 0) {
    throw new InvalidArgumentError('expected a size, a multiple of 512 bytes, such as 10G');
  }
  return bytes;
}

/** Makes a regular file at least so long. */
async function lengthen(path: string, bytes: number): Promise<void> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFile() !== true || found.size >= bytes) return;
  try {
    const file = await open(path, 'r+');
    try {
      await file.truncate(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    throw failedCall(path, `make it ${bytes} bytes long`, error);
  }
}

/** What somebody has cut is not made whole with zeroes. */
function refuseCut(path: string, bytes: number): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFile() !== true || found.size >= bytes) return;
  throw invalid(`${path}: has ${found.size} bytes, the pool has ${bytes} there: it was cut`);
}

/** Adds create, grow and status to `lamina pool`. */
export function addPoolVerbs(pool: Command): void {
  pool
    .command('create <name>')
    .description(
      'make a pool of two files (made sparse if they are not there), or open one that is there',
    )
    .requiredOption('--data <path>', 'where data goes')
    .requiredOption('--metadata <path>', 'where metadata goes; blank, or a pool that is there')
    .option('--size <size>', 'how much data it can have; of one that is there what it has', size)
    .option('--block <size>', 'data block, a multiple of 64k (default: 64k)', size)
    .option('--low-water <size>', 'an event when no more than this is free', size, 64 * MIB)
    .option('--skip-zeroing', 'do not zero what a first write leaves of a block')
    .option('--error-if-no-space', 'fail writes at once when the pool is full')
    .option('--force', 'even if the files hold something known; a pool is opened all the same')
    .option('--json', JSON_DONE)
    .action(async (name: string, o: CreatePool) => await createPool(name, o));
  pool
    .command('grow <name>')
    .description('make a pool larger, in use')
    .requiredOption('--size <size>', 'how much data it can have then', size)
    .option('--json', JSON_DONE)
    .action(async (name: string, o: Sized) => await alone(async () => await growPool(name, o)));
  pool
    .command('status [name]')
    .description('what a pool has and what its volumes use; all pools without a name')
    .option('--json', 'as JSON')
    .action(async (name: string | undefined, o: { readonly json?: boolean }) => {
      const reports = name === undefined ? await reportPools() : [await reportPool(name)];
      if (o.json === true) printJson(reports);
      else for (const report of reports) printReport(report);
    });
}

export async function oneLine(
  method: 'table' | 'status',
  name: string,
  type: string,
): Promise<TargetLine> {
  const [line, ...more] = await call(method, name);
  if (line?.type === type && more.length === 0) return line;
  throw invalid(`device ${name}: is no ${type}: its table is '${line?.type ?? 'empty'}'`);
}

interface Sized extends JsonFlag {
  readonly size: number;
}

async function growPool(name: string, o: Sized): Promise<void> {
  const { size: bytes } = o;
  const line = await oneLine('table', name, 'thin-pool');
  const [metadata = '', data = '', block = '0', ...rest] = splitArgs(line.params);
  const blockBytes = Number(block) * SECTOR_BYTES;
  const before = line.lenSectors * SECTOR_BYTES;
  if (bytes < before) {
    throw invalid(
      `--size ${formatSize(bytes)}: the pool has ${formatSize(before)}; it cannot shrink`,
    );
  }
  if (bytes % blockBytes !== 0) {
    throw invalid(`--size ${bytes}: not a multiple of the data block of ${blockBytes} bytes`);
  }
  refuseCut(data, before);
  await lengthen(data, bytes);
  await lengthen(metadata, metadataBytes(bytes, blockBytes));
  const words = [escapeArg(metadata), escapeArg(data), block, ...rest].join(' ');
  await call('load', name, `0 ${bytes / SECTOR_BYTES} thin-pool ${words}`);
  await call('resume', name);
  printDone(o, { name, dataBytes: bytes });
}

export interface Volume {
  readonly name: string;
  readonly id: number;
  readonly sizeBytes: number;
  readonly mappedBytes: number;
  /** Of a device that is missing; it does not know what is mapped. */
  readonly state?: 'MISSING';
}

interface VolumeReport {
  readonly id: number;
  /** Undefined for one that is not active. */
  readonly name?: string;
  readonly sizeBytes?: number;
  readonly mappedBytes: number;
  /** What other volumes map, too; the rest goes when this one is deleted. */
  readonly sharedBytes: number;
  readonly exclusiveBytes: number;
}

interface PoolReport {
  readonly name: string;
  readonly mode: string;
  readonly needsCheck: boolean;
  readonly dataBytes: number;
  readonly dataUsedBytes: number;
  readonly metadataBytes: number;
  readonly metadataUsedBytes: number;
  /** Of deleted volumes, what the data device has still to be told of. */
  readonly givingBackBytes: number;
  readonly volumes: readonly VolumeReport[];
}

interface MissingPool {
  readonly name: string;
  readonly state: 'MISSING';
  readonly reason: string;
}

/** One that is missing keeps no other from being shown. */
async function reportPools(): Promise<(PoolReport | MissingPool)[]> {
  const reports: (PoolReport | MissingPool)[] = [];
  for (const { device, lines } of await devicesWithTables()) {
    const { name, state, reason = '' } = device;
    if (lines[0]?.type !== 'thin-pool') continue;
    const report = state === 'MISSING' ? { name, state, reason } : await ifThere(reportPool(name));
    if (report !== undefined) reports.push(report);
  }
  return reports;
}

export async function volumesOf(pool: string): Promise<Volume[]> {
  const volumes: Volume[] = [];
  for (const { device, lines } of await devicesWithTables()) {
    const { name, state } = device;
    const [line] = lines;
    const [itsPool, id] = splitArgs(line?.params ?? '');
    if (line?.type !== 'thin' || itsPool !== pool) continue;
    const answer = state === 'MISSING' ? [] : await ifThere(call('status', name));
    if (answer === undefined) continue;
    const [status] = answer;
    const mapped = Number((status?.params ?? '').split(' ')[0]) || 0;
    volumes.push({
      name,
      id: Number(id),
      sizeBytes: line.lenSectors * SECTOR_BYTES,
      mappedBytes: mapped * SECTOR_BYTES,
      ...(state === 'MISSING' ? { state } : {}),
    });
  }
  return volumes;
}

/** One number of `used/total`. */
function part(word: string | undefined, index: 0 | 1): number {
  return Number((word ?? '').split('/')[index]) || 0;
}

async function reportPool(name: string): Promise<PoolReport> {
  const { params } = await oneLine('status', name, 'thin-pool');
  const { params: table } = await oneLine('table', name, 'thin-pool');
  const blockBytes = Number(splitArgs(table)[2]) * SECTOR_BYTES;
  const words = params.split(' ');
  return {
    name,
    mode: words[4] ?? 'Fail',
    needsCheck: words[7] === 'needs_check',
    dataBytes: part(words[2], 1) * blockBytes,
    dataUsedBytes: part(words[2], 0) * blockBytes,
    metadataBytes: part(words[1], 1) * 4096,
    metadataUsedBytes: part(words[1], 0) * 4096,
    givingBackBytes: Number(await call('message', name, 0, 'giving_back')) * blockBytes,
    volumes: await usageOf(name, blockBytes),
  };
}

async function usageOf(pool: string, blockBytes: number): Promise<VolumeReport[]> {
  const active = new Map((await volumesOf(pool)).map((v) => [v.id, v]));
  const lines = await call('message', pool, 0, 'usage');
  return lines
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [id = 0, mapped = 0, shared = 0] = line.split(' ').map(Number);
      const volume = active.get(id);
      return {
        id,
        ...(volume === undefined ? {} : { name: volume.name, sizeBytes: volume.sizeBytes }),
        mappedBytes: mapped * blockBytes,
        sharedBytes: shared * blockBytes,
        exclusiveBytes: (mapped - shared) * blockBytes,
      };
    });
}

function share(used: number, all: number): string {
  const percent = all === 0 ? 0 : Math.round((100 * used) / all);
  return `${formatSize(used)} of ${formatSize(all)} (${percent} %)`;
}

function printReport(r: PoolReport | MissingPool): void {
  if ('reason' in r) {
    print(`${shownName(r.name)}: MISSING: ${printable(r.reason)}\n`);
    return;
  }
  const lines = [
    `${r.name}: ${r.mode}${r.needsCheck ? ', needs check' : ''}`,
    `  data      ${share(r.dataUsedBytes, r.dataBytes)}`,
    `  metadata  ${share(r.metadataUsedBytes, r.metadataBytes)}`,
    ...(r.givingBackBytes === 0
      ? []
      : [`  deleted   ${formatSize(r.givingBackBytes)} still to be given back`]),
    ...r.volumes.map((v) => {
      const what = v.sizeBytes === undefined ? 'not active' : formatSize(v.sizeBytes);
      const uses = `mapped ${formatSize(v.mappedBytes)}, shared ${formatSize(v.sharedBytes)}`;
      return `  ${v.name ?? '-'} (id ${v.id})  ${what}, ${uses}, exclusive ${formatSize(v.exclusiveBytes)}`;
    }),
  ];
  print(`${lines.join('\n')}\n`);
}

/** Adds create and snapshot to `lamina thin`. */
export function addThinVerbs(thin: Command): void {
  thin
    .command('create <pool> <name>')
    .description('make an empty volume')
    .requiredOption('--size <size>', 'its size; the pool may have less', size)
    .option('--json', JSON_DONE)
    .action(async (pool: string, name: string, o: Sized) => {
      await oneLine('table', pool, 'thin-pool');
      const id = await newId(pool, 'create_thin');
      await activate(pool, name, id, o.size / SECTOR_BYTES);
      printDone(o, { name, pool, id, sizeBytes: o.size });
    });
  thin
    .command('snapshot <volume> <name>')
    .description('make a volume that has everything another has now')
    .option('--json', JSON_DONE)
    .action(async (volume: string, name: string, o: JsonFlag) => {
      const line = await oneLine('table', volume, 'thin');
      const [pool = '', origin = ''] = splitArgs(line.params);
      const id = await newId(pool, 'create_snap', origin);
      await activate(pool, name, id, line.lenSectors);
      const sizeBytes = line.lenSectors * SECTOR_BYTES;
      printDone(o, { name, pool, id, origin: Number(origin), sizeBytes });
    });
}

/** All volumes that are in a pool, active or not. */
export async function devicesOf(pool: string): Promise<{ id: number; mappedBlocks: number }[]> {
  const lines = (await call('message', pool, 0, 'devices')).split('\n');
  return lines
    .filter((line) => line !== '')
    .map((line) => {
      const [id = 0, mappedBlocks = 0] = line.split(' ').map(Number);
      return { id, mappedBlocks };
    });
}

/** Ids that no volume of a pool has, unless somebody makes one meanwhile. */
export async function* freeIds(pool: string): AsyncGenerator<number> {
  const used = new Set((await devicesOf(pool)).map((device) => device.id));
  for (let id = 1; id <= 0xffffff; id++) if (!used.has(id)) yield id;
}

/** Makes a volume with the first id that is free; answers it. */
export async function newId(
  pool: string,
  verb: string,
  ...words: readonly string[]
): Promise<number> {
  for await (const id of freeIds(pool)) {
    try {
      await call('message', pool, 0, [verb, id, ...words].join(' '));
      return id;
    } catch (error) {
      // Made by another client meanwhile.
      if (!(error instanceof DmError && error.status === Status.Exists)) throw error;
    }
  }
  throw invalid(`pool ${pool}: every device id is taken`);
}

async function activate(pool: string, name: string, id: number, lenSectors: number): Promise<void> {
  try {
    const table = `0 ${lenSectors} thin ${escapeArg(pool)} ${id}`;
    await call('create', { name, table, isOnlyUser: true });
  } catch (error) {
    // Nobody would find it again; one that somebody has activated meanwhile is refused, and stays.
    await call('message', pool, 0, `delete ${id}`).catch(() => undefined);
    throw error;
  }
}
