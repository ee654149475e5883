// lamina verity: read-only volumes that are checked against a tree of hashes.

import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { invalid } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { escapeArg } from '../dm/table-text.ts';
import { createDurably } from '../io/durable-file.ts';
import { findHash, type TreeFormat, VerityTree } from '../targets/verity/tree.ts';
import { formatVolume, readSuper, treeStart, verifyVolume } from '../tools/verity/volume.ts';
import { call } from './daemon-call.ts';
import { EXIT_FAILED, WrongCall } from './errors.ts';
import { notNegative, positive, repeated } from './option-values.ts';
import { JSON_DONE, type JsonFlag, print, printDone } from './output.ts';
import { Progress } from './progress.ts';

interface Flags {
  readonly hash: string;
  readonly format: string;
  readonly dataBlockSize: number;
  readonly hashBlockSize: number;
  readonly dataBlocks?: number;
  readonly hashOffset: number;
  readonly salt?: string;
  readonly uuid?: string;
  readonly superblock: boolean;
  readonly rootHashFile?: string;
  readonly option?: string[];
  readonly json?: true;
}

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
    lamina verity format disk.img disk.img --data-blocks 16384 --hash-offset 67108864`;

export function addVerity(program: Command): void {
  const verity = program
    .command('verity')
    .summary('read-only volumes that are checked against a tree of hashes')
    .description(
      "Makes, checks and opens dm-verity volumes. The format is the kernel's and veritysetup's. Whoever\n" +
        'has the root hash notices every change of the data and of the tree.',
    )
    .addHelpText('after', EXAMPLES);
  common(verity.command('format'))
    .summary('make the tree of a data device')
    .description('Hashes DATA into HASH, which may be the same file, and prints the root hash.')
    .argument('<data>', 'what is to be protected')
    .argument('<hash>', 'where the tree goes; a file is made if there is none')
    .option('--root-hash-file <path>', 'write the root hash there, too')
    .option('--uuid <uuid>', 'of the superblock; a random one if not given')
    .action(format);
  common(verity.command('verify'))
    .summary('check a whole data device')
    .description(
      'Reads all of DATA and HASH. Exit status 1 when anything is not what the root says.',
    )
    .argument('<data>', 'what is protected')
    .argument('<hash>', 'where the tree is')
    .argument('[root]', 'the root hash, hexadecimal')
    .option('--root-hash-file <path>', 'read the root hash from there')
    .action(verify);
  verity
    .command('dump')
    .summary('print a superblock')
    .argument('<hash>', 'where the tree is')
    .option('--hash-offset <bytes>', 'where the superblock is', notNegative, 0)
    .option('--json', 'print JSON')
    .action((hash: string, flags: Flags) => {
      const found = readSuper(hash, flags.hashOffset);
      printVolume(found.format, { uuid: found.uuid }, flags.json === true);
    });
  common(verity.command('open'))
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
    .action(open);
  verity
    .command('close')
    .summary('remove a mapped device')
    .argument('<name>', 'of the mapped device')
    .option('--json', JSON_DONE)
    .action(async (name: string, flags: JsonFlag) => {
      await call('remove', name);
      printDone(flags, { closed: name });
    });
}

/** What a superblock says, for volumes that have none. */
function common(command: Command): Command {
  return command
    .option('--hash <name>', 'hash algorithm', 'sha256')
    .option('--format <0|1>', 'hash type: 1, or 0 as Chromium OS had it', '1')
    .option('--data-block-size <bytes>', 'of the data', positive, 4096)
    .option('--hash-block-size <bytes>', 'of the tree', positive, 4096)
    .option('--data-blocks <n>', 'how many there are; all of DATA if not given', notNegative)
    .option('--hash-offset <bytes>', 'where in HASH the superblock or the tree is', notNegative, 0)
    .option('--salt <hex>', 'random if not given; - for none', salt)
    .option('--no-superblock', 'there is none: all is said by options')
    .option('--json', 'print JSON');
}

function salt(text: string): string {
  if (text !== '-' && !/^(?:[0-9a-fA-F]{2}){1,256}$/.test(text)) {
    throw new InvalidArgumentError('expected 1 to 256 bytes, hexadecimal, or -');
  }
  return text;
}

function givenFormat(data: string, flags: Flags, hashStart: number): TreeFormat {
  const { dataBlockSize: dataBlockBytes, hashBlockSize: hashBlockBytes } = flags;
  if (flags.format !== '0' && flags.format !== '1') {
    throw new WrongCall(`--format ${flags.format}: expected 0 or 1`);
  }
  for (const [name, bytes] of [
    ['--data-block-size', dataBlockBytes],
    ['--hash-block-size', hashBlockBytes],
  ] as const) {
    if (bytes < 512 || bytes > 4096 || (bytes & (bytes - 1)) !== 0) {
      throw new WrongCall(`${name} ${bytes}: expected 512, 1024, 2048 or 4096`);
    }
  }
  const text = flags.salt ?? randomBytes(32).toString('hex');
  const dataBlocks = flags.dataBlocks ?? Math.floor(statSync(data).size / dataBlockBytes);
  if (dataBlocks === 0) throw invalid(`${data}: has no whole block of ${dataBlockBytes} bytes`);
  return {
    hashType: flags.format === '0' ? 0 : 1,
    algorithm: findHash(flags.hash),
    salt: text === '-' ? new Uint8Array(0) : Buffer.from(text, 'hex'),
    dataBlockBytes,
    hashBlockBytes,
    dataBlocks,
    hashStart,
  };
}

/** Where the tree begins; without a superblock it is right at the offset. */
function startOf(flags: Flags): number {
  const { hashOffset, hashBlockSize } = flags;
  if (flags.superblock) {
    if (hashOffset % SECTOR_BYTES !== 0) {
      throw new WrongCall(`--hash-offset ${hashOffset}: expected a multiple of ${SECTOR_BYTES}`);
    }
    return treeStart(hashOffset, hashBlockSize);
  }
  if (hashOffset % hashBlockSize !== 0) {
    throw new WrongCall(`--hash-offset ${hashOffset}: expected a multiple of ${hashBlockSize}`);
  }
  return hashOffset / hashBlockSize;
}

async function format(data: string, hash: string, flags: Flags): Promise<void> {
  const tree = givenFormat(data, flags, startOf(flags));
  checkOverlap(data, hash, tree, flags);
  const uuid = flags.uuid ?? randomUUID();
  if (!/^[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}$/i.test(uuid)) {
    throw new WrongCall(`--uuid ${uuid}: expected 8-4-4-4-12 hexadecimal digits`);
  }
  if (!existsSync(hash)) await createDurably(hash, 0);
  const superblock = flags.superblock ? { uuid, offsetBytes: flags.hashOffset } : null;
  const progress = new Progress();
  const root = await formatVolume(data, hash, tree, superblock, (done, total) =>
    progress.show(done, total, `hashing ${data}`),
  );
  progress.clear();
  const text = Buffer.from(root).toString('hex');
  if (flags.rootHashFile !== undefined) writeFileSync(flags.rootHashFile, text);
  printVolume(tree, { ...(superblock === null ? {} : { uuid }), root: text }, flags.json === true);
}

function checkOverlap(data: string, hash: string, format: TreeFormat, flags: Flags): void {
  if (!existsSync(hash)) return;
  const [a, b] = [statSync(data), statSync(hash)];
  if (a.ino !== b.ino || a.dev !== b.dev || a.rdev !== b.rdev) return;
  const end = format.dataBlocks * format.dataBlockBytes;
  if (flags.hashOffset < end) {
    throw invalid(
      `${hash}: is the data as well, which ends at byte ${end}: --hash-offset ${flags.hashOffset} would ` +
        'write over it',
    );
  }
}

function volumeOf(data: string, hash: string, flags: Flags): TreeFormat {
  if (flags.superblock) return readSuper(hash, flags.hashOffset).format;
  if (flags.salt === undefined)
    throw new WrongCall('--salt: without a superblock it has to be given');
  return givenFormat(data, flags, startOf(flags));
}

function rootOf(word: string | undefined, flags: Flags, tree: VerityTree): Uint8Array {
  if ((word === undefined) === (flags.rootHashFile === undefined)) {
    throw new WrongCall('root hash: expected either an argument or --root-hash-file');
  }
  const text = word ?? readFileSync(flags.rootHashFile as string, 'latin1').trim();
  if (!/^(?:[0-9a-fA-F]{2})+$/.test(text) || text.length !== tree.digestBytes * 2) {
    throw invalid(
      `root hash: ${text.length} characters: expected ${tree.digestBytes * 2} hexadecimal digits`,
    );
  }
  return Buffer.from(text, 'hex');
}

async function verify(
  data: string,
  hash: string,
  word: string | undefined,
  flags: Flags,
): Promise<void> {
  const volume = volumeOf(data, hash, flags);
  const root = rootOf(word, flags, new VerityTree(volume));
  const progress = new Progress();
  const found = await verifyVolume(data, hash, volume, root, (done, total) =>
    progress.show(done, total, `checking ${data}`),
  );
  progress.clear();
  if (flags.json === true) {
    const corruptions = found.map(({ level, block }) => ({
      where: level < 0 ? 'data' : 'hash',
      ...(level < 0 ? {} : { level }),
      block,
    }));
    print(`${JSON.stringify({ isGood: found.length === 0, corruptions })}\n`);
  } else {
    for (const { level, block } of found) {
      const where = level < 0 ? `data block ${block}` : `hash block ${block} of level ${level}`;
      print(`${where} is corrupted\n`);
    }
    if (found.length === 0) print(`${volume.dataBlocks} data blocks are good\n`);
  }
  if (found.length > 0) process.exitCode = EXIT_FAILED;
}

async function open(
  data: string,
  name: string,
  hash: string,
  word: string | undefined,
  flags: Flags,
): Promise<void> {
  const volume = volumeOf(data, hash, flags);
  const root = rootOf(word, flags, new VerityTree(volume));
  const { dataBlocks, dataBlockBytes, hashBlockBytes, hashStart } = volume;
  const options = flags.option ?? [];
  const places = `${escapeArg(resolve(data))} ${escapeArg(resolve(hash))}`;
  const sizes = `${dataBlockBytes} ${hashBlockBytes} ${dataBlocks} ${hashStart}`;
  const digests = `${volume.algorithm} ${Buffer.from(root).toString('hex')} ${saltWord(volume)}`;
  const more = options.length === 0 ? '' : ` ${options.length} ${options.join(' ')}`;
  const sectors = (dataBlocks * dataBlockBytes) / SECTOR_BYTES;
  const table = `0 ${sectors} verity ${volume.hashType} ${places} ${sizes} ${digests}${more}`;
  await call('create', { name, table, isReadOnly: true });
}

function saltWord(format: TreeFormat): string {
  return format.salt.length === 0 ? '-' : Buffer.from(format.salt).toString('hex');
}

function printVolume(
  format: TreeFormat,
  more: { readonly uuid?: string; readonly root?: string },
  isJson: boolean,
): void {
  const saltText = saltWord(format);
  if (isJson) {
    const { salt: _, ...rest } = format;
    print(`${JSON.stringify({ ...more, ...rest, salt: saltText })}\n`);
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
