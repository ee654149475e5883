// What the verbs of `lamina verity` are told: sizes and hashes of a volume, its root, and where it is.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError } from 'commander';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { findHash, type TreeFormat, type VerityTree } from '../targets/verity/tree.ts';
import { readSuper, treeStart } from '../tools/verity/volume.ts';
import type { VolumeIo } from '../tools/verity/volume-io.ts';
import { WrongCall } from './errors.ts';
import { notNegative, positive, size } from './option-values.ts';
import type { JsonFlag } from './output.ts';
import { checkSectors, type RegionFlags, withRegion } from './region.ts';

export interface VerityFlags extends RegionFlags, JsonFlag {
  readonly hash: string;
  readonly format: string;
  readonly dataBlockSize: number;
  readonly hashBlockSize: number;
  readonly dataBlocks?: number;
  readonly hashOffset: number;
  readonly hashOffsetIn?: number;
  readonly salt?: string;
  readonly uuid?: string;
  readonly superblock: boolean;
  readonly rootHashFile?: string;
  readonly option?: string[];
  readonly force?: true;
}

/** What a superblock says, for volumes that have none, and where the volume is. */
export function withVolume(command: Command): Command {
  return withHashRegion(
    withRegion(command, 'DATA')
      .option('--hash <name>', 'hash algorithm', 'sha256')
      .option('--format <0|1>', 'hash type: 1, or 0 as Chromium OS had it', '1')
      .option('--data-block-size <bytes>', 'of the data', positive, 4096)
      .option('--hash-block-size <bytes>', 'of the tree', positive, 4096)
      .option('--data-blocks <n>', 'how many there are; all of DATA if not given', notNegative)
      .option('--salt <hex>', 'random if not given; - for none', salt)
      .option('--no-superblock', 'there is none: all is said by options'),
  ).option('--json', 'print JSON');
}

function withHashRegion(command: Command): Command {
  return command
    .option('--hash-offset <size>', 'where in HASH the superblock or the tree is', size, 0)
    .option(
      '--hash-offset-in <size>',
      'HASH begins there in what is named; where DATA does if that is the same, else 0',
      size,
    );
}

function salt(text: string): string {
  if (text !== '-' && !/^(?:[0-9a-fA-F]{2}){1,256}$/.test(text)) {
    throw new InvalidArgumentError('expected 1 to 256 bytes, hexadecimal, or -');
  }
  return text;
}

/** The volume that options describe. Throws DmError. */
export function givenFormat(data: string, dataBytes: number, flags: VerityFlags): TreeFormat {
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
  const hashStart = startOf(flags);
  const text = flags.salt ?? randomBytes(32).toString('hex');
  const dataBlocks = flags.dataBlocks ?? Math.floor(dataBytes / dataBlockBytes);
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
function startOf({ hashOffset, hashBlockSize, superblock }: VerityFlags): number {
  if (superblock) {
    checkSectors('--hash-offset', hashOffset);
    return treeStart(hashOffset, hashBlockSize);
  }
  if (hashOffset % hashBlockSize !== 0) {
    throw new WrongCall(`--hash-offset ${hashOffset}: expected a multiple of ${hashBlockSize}`);
  }
  return hashOffset / hashBlockSize;
}

/** The volume that is there: its superblock says it, or options do. Throws DmError. */
export async function formatOf(
  data: string,
  dataBytes: number,
  hash: VolumeIo,
  flags: VerityFlags,
): Promise<TreeFormat> {
  if (flags.superblock) return (await readSuper(hash, flags.hashOffset)).format;
  if (flags.salt === undefined)
    throw new WrongCall('--salt: without a superblock it has to be given');
  return givenFormat(data, dataBytes, flags);
}

/** The root hash of a volume that is there. Throws DmError. */
export function rootOf(word: string | undefined, flags: VerityFlags, tree: VerityTree): Uint8Array {
  if ((word === undefined) === (flags.rootHashFile === undefined)) {
    throw new WrongCall('root hash: expected either an argument or --root-hash-file');
  }
  const text = word ?? rootInFile(flags.rootHashFile as string);
  if (!/^(?:[0-9a-fA-F]{2})+$/.test(text) || text.length !== tree.digestBytes * 2) {
    throw invalid(
      `root hash: ${text.length} characters: expected ${tree.digestBytes * 2} hexadecimal digits`,
    );
  }
  return Buffer.from(text, 'hex');
}

function rootInFile(path: string): string {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot read: ${errorText(error)}`);
  }
}
