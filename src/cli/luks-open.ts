// lamina luks open, close, resize: volumes as mapped devices of the daemon.

import type { Command } from 'commander';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { ListedDevice } from '../daemon/answers.ts';
import type { CreateOptions } from '../dm/control.ts';
import { LUKS_UUID_PREFIX, luksDeviceUuid, luksTable } from '../tools/luks/luks-table.ts';
import type { LuksVolume } from '../tools/luks/luks-volume.ts';
import { resizeSegment } from '../tools/luks/resize.ts';
import { call } from './daemon-call.ts';
import { WrongCall } from './errors.ts';
import { withVolume } from './luks-file.ts';
import { isFrom, openVolumes, volumeUnder } from './luks-users.ts';
import { bytesAt, type Place, placeOf, referenceOf } from './place.ts';
import { withEnd } from './place-io.ts';
import {
  type UnlockFlags,
  unlockVolume,
  withHeader,
  withKeySlot,
  withLimits,
  withTries,
} from './luks-options.ts';
import { withSecret } from './luks-secret.ts';
import { withTokenUnlock } from './luks-token-unlock.ts';
import { positive, size } from './option-values.ts';
import { type JsonFlag, print, printDone } from './output.ts';
import { bytesIn, type RegionFlags, regionOf } from './region.ts';

/** What a printed table has instead of the key: no key, so that it cannot be loaded by mistake. */
const HIDDEN_KEY = 'KEY';

interface MapFlags extends UnlockFlags {
  readonly readonly?: true;
  readonly allowDiscards?: true;
  readonly size?: number;
  readonly table?: true;
  readonly showKeys?: true;
}

interface ResizeFlags extends MapFlags {
  readonly deviceSize?: number;
  readonly dynamic?: true;
}

const EXAMPLES = `
Examples:
  truncate -s 64M disk.img
  head -c 32 /dev/urandom >disk.key
  lamina luks format disk.img --key-file disk.key --batch-mode --pbkdf pbkdf2 --iter-time 10
  lamina daemon &
  lamina luks open disk.img secret --key-file disk.key && lamina export add secret
  lamina luks open disk.img --table --key-file disk.key  # its table, without the key`;

export function addLuksOpen(luks: Command): void {
  const open = luks
    .command('open')
    .summary('map the data of a volume in the daemon')
    .description(
      'Makes the mapped device NAME in the running daemon, with the data of a volume. The daemon does not\n' +
        'keep its key: after a restart the volume is closed.',
    )
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .argument('[name]', 'of the mapped device')
    .option('--readonly', 'map it read-only')
    .option('--allow-discards', 'pass discards to the device below')
    .option('--size <sectors>', 'map so much of it, of 512 bytes', positive)
    .option('--table', 'print the table instead; no daemon and no passphrase is needed')
    .option('--show-keys', 'with --table: with the key in it, which needs a passphrase')
    .addHelpText('after', EXAMPLES)
    .action(openVolume);
  withTokenUnlock(
    withKeySlot(withLimits(withTries(withHeader(withSecret(open)))), 'only this slot'),
  );
  luks
    .command('close')
    .description('remove the mapped device of a volume; its key is forgotten')
    .argument('<name>', 'of the mapped device')
    .option('--deferred', 'as soon as nobody uses it')
    .action(async (name: string, flags: JsonFlag & { readonly deferred?: true }) => {
      await deviceNamed(name);
      await call('remove', name, { deferred: flags.deferred === true });
      printDone(flags, { closed: name });
    });
  addResize(luks);
}

async function openVolume(image: string, name: string | undefined, flags: MapFlags): Promise<void> {
  if (flags.table !== true && flags.showKeys === true)
    throw new WrongCall('--show-keys: needs --table');
  const data = await dataPlace(image, flags);
  await withVolume(image, flags, { isReadOnly: true }, async (volume) => {
    checkAttached(volume, flags);
    if (flags.table === true && flags.showKeys !== true) {
      print(`${tableOf(volume, data, flags, HIDDEN_KEY)}\n`);
      return;
    }
    // Refused before a passphrase is asked for.
    const shown = tableOf(volume, data, flags, HIDDEN_KEY);
    if (flags.table !== true) await refuseOpen(volume.io.path, shown, name);
    const { volumeKey } = await unlockVolume(volume, flags, undefined, { isTokenTried: true });
    try {
      const table = tableOf(volume, data, flags, volumeKey.toString('hex'));
      if (flags.table === true) print(`${table}\n`);
      else await create(volume, name ?? '', table, flags);
    } finally {
      volumeKey.fill(0);
    }
  });
}

/** An attached header must not be one that was made for another device. */
function checkAttached(volume: LuksVolume, flags: MapFlags): void {
  if (flags.header !== undefined) return;
  const at = volume.segments()[0]?.offsetBytes ?? 0;
  if (at >= volume.headerBytes) return;
  throw invalid(
    `${volume.io.path}: the data begins at byte ${at}, the header ends at ${volume.headerBytes}: this is ` +
      'the header of another device: give that as IMAGE and this one as --header',
  );
}

interface DataPlace {
  readonly place: Place;
  /** As a table names it. */
  readonly reference: string;
  /** Where the volume begins there, and how much it has. */
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

async function dataPlace(image: string, flags: RegionFlags): Promise<DataPlace> {
  const place = await placeOf(image);
  const region = await withEnd(image, place, regionOf(flags));
  return {
    place,
    reference: referenceOf(place),
    offsetBytes: region.offsetBytes,
    sizeBytes: bytesIn(region, image, await bytesAt(place)),
  };
}

function tableOf(volume: LuksVolume, data: DataPlace, flags: MapFlags, key: string): string {
  return luksTable(volume, {
    key,
    device: data.reference,
    deviceBytes: data.sizeBytes,
    offsetBytes: data.offsetBytes,
    flags: flags.allowDiscards === true ? ['allow_discards'] : [],
    lenSectors: flags.size,
  });
}

/** The daemon looks again when the device is made: of two that come at once it refuses one. */
async function refuseOpen(path: string, table: string, name: string | undefined): Promise<void> {
  if (name === undefined) throw new WrongCall('luks open: no name: give NAME or --table');
  const open = volumeUnder(await openVolumes(), table);
  if (open !== undefined) {
    throw new DmError(Status.Busy, `${path}: is open already, as device ${open.device.name}`);
  }
  if ((await call('list')).some((device) => device.name === name)) {
    throw new DmError(Status.Exists, `device ${name}: name already exists`);
  }
}

async function create(
  volume: LuksVolume,
  name: string,
  table: string,
  flags: MapFlags,
): Promise<void> {
  const options: CreateOptions = {
    name,
    uuid: luksDeviceUuid(volume, name),
    table,
    isReadOnly: flags.readonly === true,
    isVolatile: true,
    apartFromUuid: LUKS_UUID_PREFIX,
  };
  await call('create', options);
  printDone(flags, { name, uuid: options.uuid });
}

/** Throws DmError unless it is a volume's. */
async function deviceNamed(name: string): Promise<ListedDevice> {
  const device = await call('info', name);
  if (device.uuid.startsWith(LUKS_UUID_PREFIX)) return device;
  throw invalid(`device ${name}: is not an opened LUKS volume`);
}

function addResize(luks: Command): void {
  const resize = luks
    .command('resize')
    .summary('change how much of IMAGE is used')
    .description(
      'With NAME, maps what IMAGE holds now, or --size of it; the volume is unlocked for that as by open: by a ' +
        'token, a passphrase or a key file. With --device-size or --dynamic, writes to a LUKS2 header how much ' +
        'data there is: so much, or all up to the end of the device; without NAME no passphrase is needed.',
    )
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .argument('[name]', 'of the mapped device')
    .option('--device-size <size>', 'of the data, to be kept in the header, LUKS2', size)
    .option('--dynamic', 'up to the end of the device, to be kept in the header, LUKS2')
    .option('--size <sectors>', 'map so much of it now, of 512 bytes', positive)
    .option('--allow-discards', 'pass discards to the device below')
    .action(resizeVolume);
  withTokenUnlock(
    withKeySlot(withLimits(withTries(withHeader(withSecret(resize)))), 'only this slot'),
  );
}

async function resizeVolume(
  image: string,
  name: string | undefined,
  flags: ResizeFlags,
): Promise<void> {
  const writes = flags.deviceSize !== undefined || flags.dynamic === true;
  if (flags.deviceSize !== undefined && flags.dynamic === true) {
    throw new WrongCall('--device-size and --dynamic: give one of them');
  }
  if (!writes && name === undefined) {
    throw new WrongCall('luks resize: nothing to do: give NAME, --device-size or --dynamic');
  }
  const device = name === undefined ? undefined : await deviceNamed(name);
  const data = await dataPlace(image, flags);
  await withVolume(image, flags, { isReadOnly: !writes }, async (volume) => {
    const where = device === undefined ? data : await placeOfOpen(device, volume, data, image);
    const ways = { isTokenTried: true };
    const unlocked =
      device === undefined ? undefined : await unlockVolume(volume, flags, undefined, ways);
    try {
      if (writes) await resizeSegment(volume, flags.deviceSize, data.sizeBytes);
      if (device === undefined || unlocked === undefined) {
        printDone(flags, { uuid: volume.uuid });
        return;
      }
      const table = tableOf(volume, where, flags, unlocked.volumeKey.toString('hex'));
      await call('load', device.name, table, { isReadOnly: device.isReadOnly });
      await call('suspend', device.name, {});
      await call('resume', device.name);
      printDone(flags, { name: device.name, uuid: device.uuid });
    } finally {
      unlocked?.volumeKey.fill(0);
    }
  });
}

/**
 * Where the data of the device is, by the name that its table has for it. It must be where that of
 * the volume is, and of a volume of that UUID. Throws DmError.
 */
async function placeOfOpen(
  device: ListedDevice,
  volume: LuksVolume,
  data: DataPlace,
  image: string,
): Promise<DataPlace> {
  const at = data.offsetBytes + (volume.segments()[0]?.offsetBytes ?? 0);
  const open = (await openVolumes()).find((other) => other.device.name === device.name);
  const isThere = open !== undefined && isFrom(open, data.place, at);
  // Since it was opened it may have got another name.
  if (!isThere || !device.uuid.startsWith(luksDeviceUuid(volume, ''))) {
    throw invalid(`device ${device.name}: is not that of ${image}`);
  }
  const place = open.stretches[0]?.place ?? data.place;
  return { ...data, place, reference: referenceOf(place) };
}
