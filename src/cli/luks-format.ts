// lamina luks format: a new header and its first key.

import { existsSync, rmSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { findSignature } from '../format/known-signatures.ts';
import { type FormatPlan, formatLuks, planFormat } from '../tools/luks/format-luks.ts';
import { LuksFile, type LuksIo } from '../tools/luks/luks-io.ts';
import { openLuks } from '../tools/luks/open-luks.ts';
import { closeAll } from '../base/close-all.ts';
import { WrongCall } from './errors.ts';
import { openPlace } from './luks-file.ts';
import type { OpenedIo } from './luks-place.ts';
import { isSamePlace, placeOf } from './place.ts';
import { refuseInsidePartition, withEnd } from './place-io.ts';
import { readVolumeKey } from './luks-key-files.ts';
import {
  checkKdf,
  chooseKdf,
  type HeaderFlags,
  type KdfFlags,
  withHeader,
  withKdf,
  withKeySlot,
} from './luks-options.ts';
import { confirm, readSecret, type SecretFlags, withSecret } from './luks-secret.ts';
import { notNegative, positive, size } from './option-values.ts';
import { printDone } from './output.ts';
import { regionOf } from './region.ts';

interface FormatFlags extends SecretFlags, HeaderFlags, KdfFlags {
  readonly type: 'luks1' | 'luks2';
  readonly cipher: string;
  readonly keySize?: number;
  readonly keySlot?: number;
  readonly sectorSize?: number;
  readonly offset?: number;
  readonly alignPayload?: number;
  readonly metadataSize?: number;
  readonly keyslotsSize?: number;
  readonly keyslotCipher?: string;
  readonly keyslotKeySize?: number;
  readonly label?: string;
  readonly subsystem?: string;
  readonly uuid?: string;
  readonly volumeKeyFile?: string;
  readonly batchMode?: true;
  readonly force?: true;
}

const EXAMPLES = `
Examples:
  truncate -s 64M disk.img old.img bare.img
  head -c 32 /dev/urandom >secret
  lamina luks format disk.img --key-file secret --batch-mode
  lamina luks format old.img --type luks1 --key-file secret --batch-mode
  lamina luks format bare.img --header bare.luks --iter-time 100 --key-file secret --batch-mode

Without --key-file a passphrase is asked for.`;

export function addLuksFormat(luks: Command): void {
  const format = luks
    .command('format')
    .summary('make a volume; what IMAGE holds is lost')
    .description('Makes a LUKS header with one key in IMAGE. What IMAGE holds is lost.')
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .addOption(
      new Option('--type <type>', 'of the header').choices(['luks1', 'luks2']).default('luks2'),
    )
    .option('-c, --cipher <spec>', 'of the data', 'aes-xts-plain64')
    .option('-s, --key-size <bits>', 'of the volume key (512 for xts, else 256)', positive)
    .option('--sector-size <bytes>', 'of encryption, LUKS2', positive)
    .option('-o, --offset <sectors>', 'where the data begins, of 512 bytes', notNegative)
    .option('--align-payload <sectors>', 'or a multiple of what that is', positive)
    .option('--metadata-size <size>', 'of either copy of the header, LUKS2 (16K)', size)
    .option('--keyslots-size <size>', 'of the area for key slots, LUKS2', size)
    .option('--keyslot-cipher <spec>', 'of the key slot, LUKS2 (that of the data)')
    .option('--keyslot-key-size <bits>', 'of that', positive)
    .option('--label <text>', 'LUKS2')
    .option('--subsystem <text>', 'LUKS2')
    .option('--uuid <uuid>', 'a random one, if not given')
    .option('--volume-key-file <file>', 'the volume key, instead of a random one')
    .option('-q, --batch-mode', 'do not ask whether to go on')
    .option('--force', 'even if IMAGE holds something known, or --offset-in is inside a partition')
    .addHelpText('after', EXAMPLES)
    .action(format_);
  withKeySlot(withHeader(withSecret(withKdf(format))), 'put the key there (0)');
}

async function format_(image: string, flags: FormatFlags): Promise<void> {
  const region = regionOf(flags);
  if (flags.header !== undefined) {
    const [data, header] = [await placeOf(image), await placeOf(flags.header)];
    if (isSamePlace(data, header)) {
      throw new WrongCall(
        `--header ${flags.header}: is IMAGE itself: without --header the header is there`,
      );
    }
  }
  if (flags.force !== true && region.offsetBytes > 0) {
    const place = await placeOf(image);
    const spot = { image, place, region: await withEnd(image, place, region) };
    await refuseInsidePartition(spot);
  }
  const data = await openPlace(image, { isReadOnly: false, isAlone: true, region });
  let header: OpenedIo | undefined;
  try {
    const path = flags.header;
    const isNew = path !== undefined && (await isNewFile(path));
    const isDetached = path !== undefined;
    if (isDetached && !isNew) {
      header = await openPlace(path, { isReadOnly: false, isAlone: true });
    }
    const place = header ?? data;
    await place.read(() => refuseUsed(place.io, flags, isNew));
    const options = planOf(flags, data.io, isDetached);
    const layout = planFormat(options);
    if (flags.batchMode !== true) {
      await confirm(`This overwrites data on ${path ?? data.io.path} irrevocably`);
    }
    const passphrase = await readSecret(flags, `Enter passphrase for ${image}`, { isNew: true });
    let made: LuksFile | undefined;
    let uuid: string;
    try {
      if (isNew) made = LuksFile.create(path, layout.headerBytes);
      const hash = options.hash;
      const keyBytes = options.slotKeyBytes ?? options.keyBytes;
      const kdf = await chooseKdf(flags, { version: options.version, hash, keyBytes });
      if (header?.io instanceof LuksFile) header.io.lengthen(layout.headerBytes);
      await place.fetch(layout.headerBytes);
      const target = made ?? place.io;
      await formatLuks(target, passphrase, { ...options, kdf });
      uuid = openLuks(target, { isDetached }).uuid;
    } catch (error) {
      // Half a header of its own is of no use to anybody.
      if (made !== undefined) rmSync(made.path, { force: true });
      throw error;
    } finally {
      made?.close();
      passphrase.fill(0);
      options.volumeKey?.fill(0);
    }
    printDone(flags, { type: flags.type, uuid, keySlot: options.slot ?? 0 });
  } finally {
    await closeAll([async () => await header?.close(), async () => await data.close()]);
  }
}

/** Whether --header names a file that is to be made. */
async function isNewFile(path: string): Promise<boolean> {
  return (await placeOf(path)).kind === 'file' && !existsSync(path);
}

function refuseUsed(target: LuksIo, flags: FormatFlags, isNewHeader: boolean): void {
  if (flags.force === true || isNewHeader) return;
  let found = findSignature(target);
  if (found === undefined) {
    try {
      // A header whose primary copy is gone.
      openLuks(target, { isDetached: true });
      found = 'LUKS2';
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
    }
  }
  if (found === undefined) return;
  const text = `${target.path}: holds ${found}; --force overwrites what is there`;
  throw new DmError(Status.Exists, text);
}

function planOf(flags: FormatFlags, data: LuksIo, isDetached: boolean): FormatPlan {
  const version = flags.type === 'luks1' ? 1 : 2;
  const hash = flags.hash ?? 'sha256';
  const volumeKey =
    flags.volumeKeyFile === undefined ? undefined : readVolumeKey(flags.volumeKeyFile);
  const bits = flags.keySize ?? (flags.cipher.includes('-xts-') ? 512 : 256);
  const slotBits = flags.keyslotKeySize;
  if (bits % 8 !== 0 || (slotBits ?? 0) % 8 !== 0)
    throw new WrongCall('key size: need whole bytes');
  checkKdf(flags, version);
  return {
    version,
    cipher: flags.cipher,
    keyBytes: bits / 8,
    hash,
    volumeKey,
    slot: flags.keySlot,
    uuid: flags.uuid,
    isDetached,
    dataDeviceBytes: data.sizeBytes,
    dataOffsetBytes: flags.offset === undefined ? undefined : flags.offset * SECTOR_BYTES,
    alignBytes: flags.alignPayload === undefined ? undefined : flags.alignPayload * SECTOR_BYTES,
    sectorBytes: flags.sectorSize ?? sectorBytes(version, data, flags),
    label: flags.label,
    subsystem: flags.subsystem,
    metadataBytes: flags.metadataSize,
    keySlotsBytes: flags.keyslotsSize,
    slotCipher: flags.keyslotCipher,
    slotKeyBytes: slotBits === undefined ? undefined : slotBits / 8,
    isDigestBenchmarked: flags.pbkdfForceIterations === undefined,
  };
}

/** 4096 where nothing is lost by it. */
function sectorBytes(version: 1 | 2, data: LuksIo, flags: FormatFlags): number {
  const offset = (flags.offset ?? 0) * SECTOR_BYTES;
  const align = (flags.alignPayload ?? 0) * SECTOR_BYTES;
  const begin = flags.offsetIn ?? 0;
  const isWhole = [begin, data.sizeBytes, offset, align].every((bytes) => bytes % 4096 === 0);
  return version === 2 && isWhole ? 4096 : SECTOR_BYTES;
}
