// lamina thin delete, list, resize, activate and deactivate: volumes that are mapped devices, and volumes that are
// only in their pool.

import type { Command } from 'commander';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { formatSize, SECTOR_BYTES } from '../base/units.ts';
import { escapeArg, splitArgs } from '../dm/table-text.ts';
import type { InactiveVolume } from '../daemon/answers.ts';
import { call } from './daemon-call.ts';
import { WrongCall } from './errors.ts';
import { JSON_DONE, type JsonFlag, print, printDone, printJson, shownName } from './output.ts';
import { confirm } from './confirm.ts';
import { removeDevice } from './left-behind.ts';
import { alone } from './pool-lock.ts';
import { thinId } from './thin-tools.ts';
import { devicesOf, oneLine, size, volumesOf } from './thin-verbs.ts';
import { deleteActive } from './thin-volume.ts';

interface Activate extends JsonFlag {
  readonly size?: number;
}

interface Resize extends JsonFlag {
  readonly size: number;
  readonly force?: true;
}

/** A volume as `list` shows it. */
interface Listed {
  readonly id: number;
  /** Undefined: it is not active, and nobody knows what its device was. */
  readonly name?: string;
  readonly sizeBytes?: number;
  readonly mappedBytes: number;
  /** Undefined: active. */
  readonly state?: 'MISSING' | 'INACTIVE';
}

/** Adds the verbs to `lamina thin`. */
export function addThinLife(thin: Command): void {
  thin
    .command('activate <words...>')
    .usage('[options] NAME | POOL ID [NAME]')
    .summary('make a mapped device of a volume that is in its pool only')
    .description(
      'Makes a mapped device of a volume that is in its pool only: of NAME as it was, or of the one with thin id\n' +
        'ID of POOL. The pool knows neither names nor sizes; the daemon knows what it has removed itself.',
    )
    .option('--size <size>', 'its size, where it is not known or is to be another', size)
    .option('--json', JSON_DONE)
    .action(activate);
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

async function activate(words: readonly string[], o: Activate): Promise<void> {
  const [first = '', idText, name, ...more] = words;
  if (more.length > 0) throw new WrongCall('activate: expected NAME, or POOL ID [NAME]');
  if (idText === undefined) await activateName(first, o);
  else await activateId(first, thinId(idText), { ...o, ...(name === undefined ? {} : { name }) });
}

async function activateName(name: string, o: Activate): Promise<void> {
  const found: InactiveVolume[] = [];
  for (const volume of await call('inactiveVolumes')) {
    if (volume.name === name && (await isInPool(volume))) found.push(volume);
  }
  const [volume, ...others] = found;
  if (volume === undefined) {
    throw new DmError(
      Status.NoEntry,
      `${name}: no inactive volume is known by that name; 'lamina thin list POOL' shows the ids of all`,
    );
  }
  if (others.length > 0) {
    const ids = found.map(({ pool, id }) => `${pool} ${id}`).join(', ');
    throw invalid(`${name}: several volumes were called so: give pool and id, of ${ids}`);
  }
  await activateId(volume.pool, volume.id, o);
}

async function isInPool({ pool, id }: InactiveVolume): Promise<boolean> {
  try {
    return (await devicesOf(pool)).some((device) => device.id === id);
  } catch (error) {
    // A pool that is missing has nothing to activate.
    if (error instanceof DmError && error.status === Status.NoDeviceOrAddress) return false;
    throw error;
  }
}

async function activateId(
  pool: string,
  id: number,
  o: Activate & { readonly name?: string },
): Promise<void> {
  await oneLine('table', pool, 'thin-pool');
  const ids = (await devicesOf(pool)).map((device) => device.id);
  if (!ids.includes(id)) throw invalid(`pool ${pool}: has no volume with id ${id}`);
  const active = (await volumesOf(pool)).find((volume) => volume.id === id);
  if (active !== undefined) {
    throw invalid(`pool ${pool}: volume ${id} is active already, as ${active.name}`);
  }
  const was = await inactiveOf(pool, id);
  const name = o.name ?? was?.name;
  const sizeBytes = o.size ?? (was && was.lenSectors * SECTOR_BYTES);
  if (name === undefined) throw new WrongCall(`volume ${id} of ${pool}: its name is not known`);
  if (sizeBytes === undefined) {
    throw new WrongCall(`volume ${id} of ${pool}: its size is not known; give it by --size`);
  }
  const origin = was?.origin === undefined ? '' : ` ${escapeArg(was.origin)}`;
  const table = `0 ${sizeBytes / SECTOR_BYTES} thin ${escapeArg(pool)} ${id}${origin}`;
  const { uuid = '', isReadOnly = false } = was ?? {};
  await call('create', { name, uuid, isReadOnly, table, isOnlyUser: true });
  printDone(o, { name, pool, id, sizeBytes });
}

async function inactiveOf(pool: string, id: number): Promise<InactiveVolume | undefined> {
  return (await call('inactiveVolumes')).find((was) => was.pool === pool && was.id === id);
}

async function deactivate(name: string, o: JsonFlag): Promise<void> {
  const line = await oneLine('table', name, 'thin');
  const [pool = '', id = ''] = splitArgs(line.params);
  await removeDevice(name);
  const sizeBytes = line.lenSectors * SECTOR_BYTES;
  const was = `is not active any more; its size was ${sizeBytes} bytes`;
  const text = `volume ${id} of ${shownName(pool)} ${was}`;
  printDone(o, { name, pool, id: Number(id), sizeBytes }, text);
}

/** Its name may be another volume's by now, so it is deleted by what does not change. */
async function refuseInactive(name: string): Promise<void> {
  if ((await call('list')).some((device) => device.name === name)) return;
  const known = (await call('inactiveVolumes')).filter((volume) => volume.name === name);
  if (known.length === 0) return;
  const ways = known.map(({ pool, id }) => `lamina thin delete ${shownName(pool)} ${id}`);
  throw new DmError(
    Status.NoEntry,
    `${name}: is not active; by its id it is deleted: ${ways.join(', or ')}`,
  );
}

async function deleteVolume(name: string, idText: string | undefined, o: JsonFlag): Promise<void> {
  if (idText === undefined) {
    await refuseInactive(name);
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
  const known = (await call('inactiveVolumes')).filter((was) => was.pool === pool);
  return [
    // A device that is missing does not say what its volume has; the pool does.
    ...active.map((volume) =>
      volume.state === undefined
        ? volume
        : { ...volume, ...inPool.find(({ id }) => id === volume.id) },
    ),
    ...inPool
      .filter(({ id }) => !names.has(id))
      .map((volume): Listed => {
        const was = known.find(({ id }) => id === volume.id);
        const state = 'INACTIVE';
        if (was === undefined) return { ...volume, state };
        return { ...volume, name: was.name, sizeBytes: was.lenSectors * SECTOR_BYTES, state };
      }),
  ];
}

function lineOf({ name, id, sizeBytes, mappedBytes, state }: Listed): string {
  const words = [
    name === undefined ? '-' : shownName(name),
    `id ${id}`,
    ...(sizeBytes === undefined ? [] : [formatSize(sizeBytes)]),
    ...(state === 'INACTIVE' ? ['not active'] : []),
    `${formatSize(mappedBytes)} mapped`,
    ...(state === 'MISSING' ? [state] : []),
  ];
  return `${words.join('\t')}\n`;
}

async function resize(name: string, o: Resize): Promise<void> {
  const line = await oneLine('table', name, 'thin');
  const before = line.lenSectors * SECTOR_BYTES;
  if (o.size < before && o.force !== true) {
    const sizes = `${name}: has ${formatSize(before)}, and clients were told so; --size ${formatSize(o.size)}`;
    await confirm(`${sizes} takes away what is behind that`, '--force');
  }
  await alone(async () => {
    const now = await oneLine('table', name, 'thin');
    if (now.lenSectors !== line.lenSectors) {
      const has = formatSize(now.lenSectors * SECTOR_BYTES);
      throw new DmError(Status.Busy, `${name}: another resize has made it ${has} meanwhile`);
    }
    await call('load', name, `0 ${o.size / SECTOR_BYTES} thin ${now.params}`);
    await call('resume', name);
  });
  printDone(o, { name, sizeBytes: o.size });
}
