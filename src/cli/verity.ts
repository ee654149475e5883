// lamina verity: read-only volumes that are checked against a tree of hashes.

import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { type TreeFormat, VerityTree } from '../targets/verity/tree.ts';
import { type Corruption, formatVolume, readSuper, verifyVolume } from '../tools/verity/volume.ts';
import { EXIT_FAILED, WrongCall } from './errors.ts';
import { repeated, size } from './option-values.ts';
import { JSON_DONE, print, printJson } from './output.ts';
import { Progress } from './progress.ts';
import { regionOf, withRegion } from './region.ts';
import { closeVerity, openVerity, saltWord } from './verity-open.ts';
import { refuseInsidePartition } from './place-io.ts';
import { refuseHeld } from './verity-held.ts';
import { formatOf, givenFormat, rootOf, type VerityFlags, withVolume } from './verity-options.ts';
import { bytesOf, openSpot, openSpots, spotOf, spotsOf, type VolumeSpots } from './verity-place.ts';

const EXAMPLES = `
Examples:
  Make the tree of an image, keep the root:
    truncate -s 64M rootfs.img
    lamina verity format rootfs.img rootfs.hash --root-hash-file rootfs.root

  Check all of it, and serve it checked block by block:
    lamina verity verify rootfs.img rootfs.hash --root-hash-file rootfs.root
    lamina daemon &
    lamina verity open rootfs.img rootfs rootfs.hash --root-hash-file rootfs.root
    lamina export add rootfs

  The tree behind the data, in the same file:
    truncate -s 64M disk.img
    lamina verity format disk.img disk.img --data-blocks 16384 --hash-offset 64M`;

export function addVerity(program: Command): void {
  const verity = program
    .command('verity')
    .summary('read-only volumes that are checked against a tree of hashes')
    .description(
      "Makes, checks and opens dm-verity volumes. The format is the kernel's and veritysetup's. Whoever\n" +
        'has the root hash notices every change of the data and of the tree. DATA and HASH are files, block\n' +
        'devices, mapped devices of the daemon or NBD URIs.',
    )
    .addHelpText('after', EXAMPLES);
  withVolume(verity.command('format'))
    .summary('make the tree of a data device')
    .description('Hashes DATA into HASH, which may be the same file, and prints the root hash.')
    .argument('<data>', 'what is to be protected')
    .argument('<hash>', 'where the tree goes; a file is made if there is none')
    .option('--root-hash-file <path>', 'write the root hash there, too')
    .option('--uuid <uuid>', 'of the superblock; a random one if not given')
    .option('--force', 'even if HASH holds something known, or begins inside a partition')
    .action(format);
  withVolume(verity.command('verify'))
    .summary('check a whole data device')
    .description(
      'Reads all of DATA and HASH. Exit status 1 when anything is not what the root says.',
    )
    .argument('<data>', 'what is protected')
    .argument('<hash>', 'where the tree is')
    .argument('[root]', 'the root hash, hexadecimal')
    .option('--root-hash-file <path>', 'read the root hash from there')
    .action(verify);
  withRegion(verity.command('dump'), 'HASH')
    .summary('print a superblock')
    .argument('<hash>', 'where the tree is')
    .option('--hash-offset <size>', 'where the superblock is', size, 0)
    .option('--json', 'print JSON')
    .action(dump);
  withVolume(verity.command('open'))
    .summary('make a mapped device of a volume')
    .description('Makes the device NAME in the daemon. Every block is checked when it is read.')
    .argument('<data>', 'what is protected')
    .argument('<name>', 'of the mapped device')
    .argument('<hash>', 'where the tree is')
    .argument('[root]', 'the root hash, hexadecimal')
    .option('--root-hash-file <path>', 'read the root hash from there')
    .option(
      '--option <word>',
      'an option of the verity target, as ignore_corruption; repeatable',
      repeated,
      [],
    )
    .action(openVerity);
  verity
    .command('close')
    .summary('remove a mapped device')
    .argument('<name>', 'of the mapped device')
    .option('--json', JSON_DONE)
    .action(closeVerity);
}

async function dump(hash: string, flags: VerityFlags): Promise<void> {
  const opened = await openSpot(await spotOf(hash, regionOf(flags)), 'hash');
  try {
    const { format: found, uuid } = await readSuper(opened.io, flags.hashOffset);
    printVolume(found, { uuid }, flags.json === true);
  } finally {
    await opened.close();
  }
}

async function format(data: string, hash: string, flags: VerityFlags): Promise<void> {
  const uuid = flags.uuid ?? randomUUID();
  if (!/^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(uuid)) {
    throw new WrongCall(`--uuid ${uuid}: expected 8-4-4-4-12 hexadecimal digits`);
  }
  const spots = await spotsOf(data, hash, flags);
  const tree = givenFormat(data, await bytesOf(spots.data), flags);
  checkOverlap(spots, tree, flags);
  const superblock = flags.superblock ? { uuid, offsetBytes: flags.hashOffset } : null;
  if (flags.force !== true) await refuseInsidePartition(spots.hash);
  const opened = await openSpots(spots, true);
  const progress = new Progress();
  let root: Uint8Array;
  try {
    await refuseHeld(spots, opened.hash, flags);
    root = await formatVolume(opened.data, opened.hash, tree, superblock, (done, total) =>
      progress.show(done, total, `hashing ${data}`),
    );
  } catch (error) {
    opened.unmake();
    throw error;
  } finally {
    progress.clear();
    await opened.close();
  }
  const text = Buffer.from(root).toString('hex');
  if (flags.rootHashFile !== undefined) writeRoot(flags.rootHashFile, text);
  printVolume(tree, { ...(superblock === null ? {} : { uuid }), root: text }, flags.json === true);
}

function writeRoot(path: string, text: string): void {
  try {
    writeFileSync(path, text);
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot write: ${errorText(error)}`);
  }
}

/** Superblock and tree must not be where the data is. Throws DmError. */
function checkOverlap(spots: VolumeSpots, format: TreeFormat, flags: VerityFlags): void {
  const { data, hash, isOnePlace } = spots;
  if (!isOnePlace) return;
  const begin = data.region.offsetBytes;
  const end = begin + format.dataBlocks * format.dataBlockBytes;
  const hashBegin = hash.region.offsetBytes + flags.hashOffset;
  const hashEnd = hash.region.offsetBytes + new VerityTree(format).end * format.hashBlockBytes;
  if (hashBegin >= end || hashEnd <= begin) return;
  throw invalid(
    `${hash.image}: is the data as well, which is at bytes ${begin} to ${end}: --hash-offset ` +
      `${flags.hashOffset}: superblock and tree, at bytes ${hashBegin} to ${hashEnd}, would write over it`,
  );
}

async function verify(
  data: string,
  hash: string,
  word: string | undefined,
  flags: VerityFlags,
): Promise<void> {
  const spots = await spotsOf(data, hash, flags);
  const opened = await openSpots(spots, false);
  const progress = new Progress();
  try {
    const volume = await formatOf(data, opened.data.sizeBytes, opened.hash, flags);
    const root = rootOf(word, flags, new VerityTree(volume));
    const found = await verifyVolume(opened.data, opened.hash, volume, root, (done, total) =>
      progress.show(done, total, `checking ${data}`),
    );
    progress.clear();
    printFound(found, volume, flags.json === true);
  } finally {
    progress.clear();
    await opened.close();
  }
}

function printFound(found: readonly Corruption[], volume: TreeFormat, isJson: boolean): void {
  if (found.length > 0) process.exitCode = EXIT_FAILED;
  if (isJson) {
    const corruptions = found.map(({ level, block }) => ({
      where: level < 0 ? 'data' : 'hash',
      ...(level < 0 ? {} : { level }),
      block,
    }));
    printJson({ isGood: found.length === 0, corruptions });
    return;
  }
  for (const { level, block } of found) {
    const where = level < 0 ? `data block ${block}` : `hash block ${block} of level ${level}`;
    print(`${where} is corrupted\n`);
  }
  if (found.length === 0) print(`${volume.dataBlocks} data blocks are good\n`);
}

function printVolume(
  format: TreeFormat,
  more: { readonly uuid?: string; readonly root?: string },
  isJson: boolean,
): void {
  const saltText = saltWord(format);
  if (isJson) {
    const { salt: _, ...rest } = format;
    printJson({ ...more, ...rest, salt: saltText });
    return;
  }
  const lines: [string, string | number | undefined][] = [
    ['UUID', more.uuid],
    ['Hash type', format.hashType],
    ['Data blocks', format.dataBlocks],
    ['Data block size', format.dataBlockBytes],
    ['Hash block size', format.hashBlockBytes],
    ['Hash algorithm', format.algorithm],
    ['Salt', saltText],
    ['Root hash', more.root],
  ];
  for (const [name, value] of lines) {
    if (value !== undefined) print(`${`${name}:`.padEnd(18)}${value}\n`);
  }
}
