// lamina thin delete, list, resize, activate and deactivate: volumes that are mapped devices, and volumes that are
// only in their pool.

import type { Command } from 'commander';
import { invalid } from '../base/errors.ts';
import { formatSize, SECTOR_BYTES } from '../base/units.ts';
import { escapeArg, splitArgs } from '../dm/table-text.ts';
import { call } from './daemon-call.ts';
import { JSON_DONE, type JsonFlag, print, printDone, printJson, shownName } from './output.ts';
import { confirm } from './confirm.ts';
import { thinId } from './thin-tools.ts';
import { devicesOf, oneLine, size, type Volume, volumesOf } from './thin-verbs.ts';
import { deleteActive } from './thin-volume.ts';

interface Activate extends JsonFlag {
  readonly size: number;
}

interface Resize extends JsonFlag {
  readonly size: number;
  readonly force?: true;
}

/** A volume as `list` shows it; one that is not active has neither name nor size. */
type Listed = Volume | Pick<Volume, 'id' | 'mappedBytes'>;

/** Adds the verbs to `lamina thin`. */
export function addThinLife(thin: Command): void {
  thin
    .command('activate <pool> <id> <name>')
    .description('make a mapped device of a volume that is in its pool only')
    .requiredOption('--size <size>', 'its size: the pool does not know it', size)
    .option('--json', JSON_DONE)
    .action(async (pool: string, idText: string, name: string, o: Activate) => {
      await activateId(pool, thinId(idText), name, o);
    });
  thin
    .command('deactivate <name>')
    .description('remove the mapped device of a volume; the volume stays in its pool')
    .option('--json', JSON_DONE)
    .action(deactivate);
  thin
    .command('delete <name> [id]')
    .description('take a volume and its data away: NAME, or the one of pool NAME with this id')
    .option('--json', JSON_DONE)
    .action(deleteVolume);
  thin
    .command('list <pool>')
    .description('the volumes of a pool, active or not')
    .option('--json', 'as JSON')
    .action(async (pool: string, o: { readonly json?: boolean }) => {
      const volumes = await listed(pool);
      if (o.json === true) printJson(volumes);
      else print(volumes.map(lineOf).join(''));
    });
  thin
    .command('resize <name>')
    .description('give a volume another size; what is behind a shorter one stays in the pool')
    .requiredOption('--size <size>', 'its new size', size)
    .option('--force', 'make it shorter unasked, whatever clients were told')
    .option('--json', JSON_DONE)
    .action(resize);
}

async function activateId(pool: string, id: number, name: string, o: Activate): Promise<void> {
  await oneLine('table', pool, 'thin-pool');
  const ids = (await devicesOf(pool)).map((device) => device.id);
  if (!ids.includes(id)) throw invalid(`pool ${pool}: has no volume with id ${id}`);
  const active = (await volumesOf(pool)).find((volume) => volume.id === id);
  if (active !== undefined) {
    throw invalid(`pool ${pool}: volume ${id} is active already, as ${active.name}`);
  }
  const table = `0 ${o.size / SECTOR_BYTES} thin ${escapeArg(pool)} ${id}`;
  await call('create', { name, table, isOnlyUser: true });
  printDone(o, { name, pool, id, sizeBytes: o.size });
}

async function deactivate(name: string, o: JsonFlag): Promise<void> {
  const line = await oneLine('table', name, 'thin');
  const [pool = '', id = ''] = splitArgs(line.params);
  await call('remove', name);
  const sizeBytes = line.lenSectors * SECTOR_BYTES;
  const was = `is not active any more; its size was ${sizeBytes} bytes`;
  const text = `volume ${id} of ${shownName(pool)} ${was}`;
  printDone(o, { name, pool, id: Number(id), sizeBytes }, text);
}

async function deleteVolume(name: string, idText: string | undefined, o: JsonFlag): Promise<void> {
  if (idText === undefined) {
    const { pool, id } = await deleteActive(name);
    printDone(o, { name, pool, id });
    return;
  }
  const id = thinId(idText);
  await oneLine('table', name, 'thin-pool');
  const active = (await volumesOf(name)).find((volume) => volume.id === id);
  if (active !== undefined) {
    throw invalid(`pool ${name}: volume ${id} is active, as ${active.name}; delete that`);
  }
  await call('message', name, 0, `delete ${id}`);
  printDone(o, { pool: name, id });
}

/** Throws DmError for a pool that is missing: what its volumes have is not known then. */
async function listed(pool: string): Promise<Listed[]> {
  const { params } = await oneLine('table', pool, 'thin-pool');
  const blockBytes = Number(splitArgs(params)[2]) * SECTOR_BYTES;
  const inPool = (await devicesOf(pool)).map(({ id, mappedBlocks }) => ({
    id,
    mappedBytes: mappedBlocks * blockBytes,
  }));
  const active = await volumesOf(pool);
  const names = new Set(active.map(({ id }) => id));
  return [
    // A device that is missing does not say what its volume has; the pool does.
    ...active.map((volume) =>
      volume.state === undefined
        ? volume
        : { ...volume, ...inPool.find(({ id }) => id === volume.id) },
    ),
    ...inPool.filter(({ id }) => !names.has(id)),
  ];
}

function lineOf(volume: Listed): string {
  const mapped = `${formatSize(volume.mappedBytes)} mapped`;
  if (!('name' in volume)) return `-\tid ${volume.id}\tnot active\t${mapped}\n`;
  const { name, id, sizeBytes, state } = volume;
  const missing = state === undefined ? '' : `\t${state}`;
  return `${shownName(name)}\tid ${id}\t${formatSize(sizeBytes)}\t${mapped}${missing}\n`;
}

async function resize(name: string, o: Resize): Promise<void> {
  const line = await oneLine('table', name, 'thin');
  const before = line.lenSectors * SECTOR_BYTES;
  if (o.size < before && o.force !== true) {
    const sizes = `${name}: has ${formatSize(before)}, and clients were told so; --size ${formatSize(o.size)}`;
    await confirm(`${sizes} takes away what is behind that`, '--force');
  }
  await call('load', name, `0 ${o.size / SECTOR_BYTES} thin ${line.params}`);
  await call('resume', name);
  printDone(o, { name, sizeBytes: o.size });
}
