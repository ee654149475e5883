// Options that several commands of `lamina luks` have, and what follows from them.

import { totalmem } from 'node:os';
import { type Command, Option } from 'commander';
import { GIB, KIB } from '../base/units.ts';
import {
  ARGON2_CPUS_MAX,
  ARGON2_MEMORY_KIB_MIN,
  ARGON2_TIME_MIN,
  benchmarkArgon2,
  benchmarkPbkdf2,
  defaultLanes,
  defaultLimits,
  type KdfLimits,
  type KdfParams,
  PBKDF2_ITERATIONS_MAX,
  PBKDF2_ITERATIONS_MIN,
} from '../tools/luks/key-derivation.ts';
import { WrongPassphrase } from '../tools/luks/luks-error.ts';
import type { LuksVolume, Unlocked, UnlockOptions } from '../tools/luks/luks-volume.ts';
import { WrongCall } from './errors.ts';
import { notNegative, positive, size } from './option-values.ts';
import { type JsonFlag, tell } from './output.ts';
import { Progress } from './progress.ts';
import { type Region, type RegionFlags, regionOf, WHOLE, withRegion } from './region.ts';
import { isTyped, readSecret, type SecretFlags } from './luks-secret.ts';
import { type TokenUnlockFlags, unlockByTokens } from './luks-token-unlock.ts';

export interface HeaderFlags extends JsonFlag, RegionFlags {
  readonly header?: string;
}

export interface LimitFlags {
  readonly maxMemory?: number;
  readonly maxTime?: number;
}

export interface KdfFlags extends LimitFlags {
  readonly pbkdf?: KdfParams['type'];
  readonly pbkdfMemory?: number;
  readonly pbkdfForceIterations?: number;
  readonly pbkdfParallel?: number;
  readonly iterTime?: number;
  readonly hash?: string;
}

export interface UnlockFlags extends SecretFlags, HeaderFlags, LimitFlags, TokenUnlockFlags {
  readonly keySlot?: number;
  readonly tries?: number;
}

export function withHeader(command: Command): Command {
  return withRegion(
    command.option('--header <file>', 'where the header is, when it is not in IMAGE'),
  );
}

/** The part of what has the header: of IMAGE; a file of its own has it from its begin. Throws WrongCall. */
export function headerRegion(flags: HeaderFlags): Region {
  const region = regionOf(flags);
  return flags.header === undefined ? region : WHOLE;
}

export function withLimits(command: Command): Command {
  return command
    .option('--max-memory <size>', 'refuse key slots that need more memory', size)
    .option('--max-time <seconds>', 'give up on a key slot after that', positive);
}

export function withKeySlot(command: Command, what: string): Command {
  return command.option('-S, --key-slot <n>', what, notNegative);
}

export function withTries(command: Command): Command {
  return command.option('-T, --tries <n>', 'how often a passphrase may be typed', positive);
}

export function withKdf(command: Command): Command {
  const types = ['argon2id', 'argon2i', 'pbkdf2'];
  return command
    .addOption(new Option('--pbkdf <type>', 'how the key is derived').choices(types))
    .option('-i, --iter-time <ms>', 'how long that shall take here (2000)', positive)
    .option('--pbkdf-memory <KiB>', 'how much memory it may take at most (1 GiB)', positive)
    .option('--pbkdf-parallel <n>', 'into how many lanes it is divided', positive)
    .option('--pbkdf-force-iterations <n>', 'the cost itself; nothing is measured', positive)
    .option('--hash <name>', 'hash of the key slot, such as sha256 or sha512');
}

export function limitsOf({ maxMemory, maxTime }: LimitFlags): KdfLimits {
  const limits = defaultLimits();
  return {
    memoryKib: maxMemory === undefined ? limits.memoryKib : Math.floor(maxMemory / KIB),
    timeMs: maxTime === undefined ? limits.timeMs : maxTime * 1000,
  };
}

/** As cryptsetup: a new key slot takes no more than 4 GiB. */
const MEMORY_KIB_MAX = (4 * GIB) / KIB;

/** As cryptsetup: a gigabyte, or half of what the machine has, or its container. */
function defaultMemoryKib(): number {
  const container = process.constrainedMemory() || totalmem();
  return Math.floor(Math.min(GIB, totalmem() / 2, container / 2) / KIB);
}

function kdfType(flags: KdfFlags, version: 1 | 2): KdfParams['type'] {
  return flags.pbkdf ?? (version === 1 ? 'pbkdf2' : 'argon2id');
}

/** Throws DmError naming the option that does not fit the others, before anything is measured. */
export function checkKdf(flags: KdfFlags, version: 1 | 2): void {
  const type = kdfType(flags, version);
  const { pbkdfForceIterations: forced, pbkdfMemory, pbkdfParallel, iterTime } = flags;
  refuse(
    forced !== undefined && iterTime !== undefined,
    '--iter-time and --pbkdf-force-iterations: give one of them',
  );
  if (type === 'pbkdf2') {
    refuse(pbkdfMemory !== undefined, '--pbkdf-memory: pbkdf2 has no memory cost');
    refuse(pbkdfParallel !== undefined, '--pbkdf-parallel: pbkdf2 has no lanes');
    checkRange('--pbkdf-force-iterations', forced, PBKDF2_ITERATIONS_MIN, PBKDF2_ITERATIONS_MAX);
    return;
  }
  refuse(version === 1, `--pbkdf ${type}: LUKS1 has pbkdf2 only`);
  checkRange('--pbkdf-force-iterations', forced, ARGON2_TIME_MIN, 2 ** 32 - 1);
  checkRange('--pbkdf-memory', pbkdfMemory, ARGON2_MEMORY_KIB_MIN, MEMORY_KIB_MAX);
  checkRange('--pbkdf-parallel', pbkdfParallel, 1, ARGON2_CPUS_MAX);
}

/**
 * The key derivation that the options ask for; without a forced cost it is measured. Throws
 * DmError.
 */
export async function chooseKdf(
  flags: KdfFlags,
  what: { readonly version: 1 | 2; readonly hash: string; readonly keyBytes: number },
): Promise<KdfParams> {
  const { version, hash, keyBytes } = what;
  checkKdf(flags, version);
  const type = kdfType(flags, version);
  const { pbkdfForceIterations: forced, pbkdfParallel, iterTime: timeMs = 2000 } = flags;
  if (type === 'pbkdf2') {
    const iterations = forced ?? (await measured(() => benchmarkPbkdf2(hash, keyBytes, timeMs)));
    return { type, hash, iterations };
  }
  const memoryKib = flags.pbkdfMemory ?? defaultMemoryKib();
  if (forced !== undefined) {
    return { type, time: forced, memoryKib, cpus: pbkdfParallel ?? defaultLanes() };
  }
  const cost = { keyBytes, timeMs, memoryKib };
  return await measured(() => benchmarkArgon2(type, cost, pbkdfParallel));
}

function refuse(isWrong: boolean, text: string): void {
  if (isWrong) throw new WrongCall(text);
}

function checkRange(name: string, value: number | undefined, low: number, high: number): void {
  if (value === undefined || (value >= low && value <= high)) return;
  throw new WrongCall(`${name}: ${value}: expected ${low} to ${high}`);
}

async function measured<T>(work: () => Promise<T>): Promise<T> {
  const progress = new Progress();
  progress.show(0, 1, 'measuring this machine');
  try {
    return await work();
  } finally {
    progress.clear();
  }
}

export interface UnlockWays {
  /** Slots of other keys than that of the data count, too. */
  readonly isAnyKey?: boolean;
  /** Any slot but this one. */
  readonly exceptSlot?: number;
  /** A token is tried where no passphrase is given. */
  readonly isTokenTried?: boolean;
}

/**
 * Takes a token's passphrase if that is asked for; else asks for one until it opens a key slot, if
 * it is typed. The caller zeroes the key.
 */
export async function unlockVolume(
  volume: LuksVolume,
  flags: UnlockFlags,
  prompt = `Enter passphrase for ${volume.io.path}`,
  ways: UnlockWays = {},
): Promise<Unlocked> {
  const byToken = await withTrying(flags, ways, (options) =>
    unlockByTokens(volume, flags, ways.isTokenTried === true, options),
  );
  if (byToken !== undefined) return byToken;
  const tries = isTyped(flags) ? (flags.tries ?? 3) : 1;
  for (let left = tries; ; left--) {
    const passphrase = await readSecret(flags, prompt);
    try {
      return await withTrying(flags, ways, (options) => volume.unlock(passphrase, options));
    } catch (error) {
      if (!(error instanceof WrongPassphrase) || left <= 1) throw error;
      tell(`${error.message}\n`);
    } finally {
      passphrase.fill(0);
    }
  }
}

/** Shows which key slot is being tried while `unlock` tries them. */
async function withTrying<T>(
  flags: UnlockFlags,
  ways: UnlockWays,
  unlock: (options: UnlockOptions) => Promise<T>,
): Promise<T> {
  const progress = new Progress();
  try {
    return await unlock({
      slot: flags.keySlot,
      exceptSlot: ways.exceptSlot,
      isAnyKey: ways.isAnyKey,
      limits: limitsOf(flags),
      onTry: (done, total, slot) => progress.show(done, total, `trying key slot ${slot}`),
    });
  } finally {
    progress.clear();
  }
}
