// From a passphrase to a key: PBKDF2 in Node's thread pool and Argon2 (version 1.3) by native code, or either by
// WebAssembly in a thread of its own.
//
// What a header asks for is not trusted: a cost above the limits is refused before anything is computed, and a
// computation that takes longer than its time is stopped. Native code cannot be stopped, so its time is estimated.

import { pbkdf2 } from 'node:crypto';
import { availableParallelism, freemem } from 'node:os';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { DmError, errorText } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { formatSize, KIB } from '../../base/units.ts';
import { nativeArgon2 } from './argon2-native.ts';
import type { KdfAnswer } from './kdf-worker.ts';
import type { Argon2Task, KdfTask, Pbkdf2Task } from './wasm-kdf.ts';
import { type HashSpec, hashSpec } from './hashes.ts';
import { damaged, unsupported } from './luks-error.ts';

export interface Pbkdf2Params {
  readonly type: 'pbkdf2';
  readonly hash: string;
  readonly iterations: number;
}

export interface Argon2Params {
  readonly type: 'argon2i' | 'argon2id';
  /** Passes over the memory. */
  readonly time: number;
  readonly memoryKib: number;
  /** Lanes: by native code beside each other, by WebAssembly one after the other. */
  readonly cpus: number;
}

export type KdfParams = Pbkdf2Params | Argon2Params;

/** What a derivation may cost at most. */
export interface KdfLimits {
  readonly memoryKib: number;
  readonly timeMs: number;
}

/** What Argon2 itself allows. */
const ARGON2_MEMORY_KIB_MAX = 2 ** 32 - 1;
/** One memory of WebAssembly ends below 2 GiB. */
const WASM_MEMORY_KIB_MAX = 2 * 1024 * 1024 - 1024;
export const PBKDF2_ITERATIONS_MAX = 2 ** 31 - 1;
export const PBKDF2_ITERATIONS_MIN = 1000;
export const ARGON2_TIME_MIN = 4;
export const ARGON2_MEMORY_KIB_MIN = 32;
export const ARGON2_CPUS_MAX = 4;
const ARGON2_TIME_MAX = 2 ** 32 - 1;
/** More lanes than any tool writes. */
const LANES_MAX = 1024;
const ARGON2_SALT_BYTES_MIN = 8;
const SALT_BYTES = 32;
const MINUTE_MS = 60_000;

/** Ten minutes, and of memory what the machine or the container of this process has left. */
export function defaultLimits(): KdfLimits {
  const free = process as { readonly availableMemory?: () => number };
  const bytes = free.availableMemory?.() ?? freemem();
  return { memoryKib: Math.floor(bytes / KIB), timeMs: 10 * MINUTE_MS };
}

/**
 * Derives `keyBytes`; the caller zeroes them. Throws DmError naming `where` for bad or too costly
 * parameters.
 */
export async function deriveKey(
  params: KdfParams,
  passphrase: Uint8Array,
  salt: Uint8Array,
  options: { readonly keyBytes: number; readonly limits: KdfLimits; readonly where: string },
): Promise<Buffer> {
  if (params.type === 'pbkdf2') return await byPbkdf2(params, passphrase, salt, options);
  checkArgon2(params, options.limits, options.where);
  if (salt.length < ARGON2_SALT_BYTES_MIN) {
    throw damaged(`${options.where}: Argon2 salt of ${salt.length} bytes: need 8 or more`);
  }
  const { type, time, memoryKib, cpus } = params;
  const { keyBytes } = options;
  return await byArgon2(
    { type, passphrase: own(passphrase), salt: own(salt), time, memoryKib, cpus, keyBytes },
    options.limits.timeMs,
    options.where,
  );
}

/** Throws DmError if parameters of Argon2 are no parameters, or above the limits. */
function checkArgon2(params: Argon2Params, limits: KdfLimits, where: string): void {
  const { time, memoryKib, cpus } = params;
  if (!isIn(time, 1, ARGON2_TIME_MAX) || !isIn(cpus, 1, LANES_MAX)) {
    throw damaged(`${where}: Argon2 with time ${time}, cpus ${cpus}: out of range`);
  }
  if (!Number.isSafeInteger(memoryKib) || memoryKib < 8 * cpus) {
    throw damaged(`${where}: Argon2 memory of ${memoryKib} KiB: need ${8 * cpus} or more`);
  }
  const native = nativeArgon2();
  if (native === undefined && memoryKib > WASM_MEMORY_KIB_MAX) {
    throw unsupported(
      `${where}: Argon2 with ${formatSize(memoryKib * KIB)} of memory: install libargon2, or use ` +
        'Node 24 or later',
    );
  }
  const most = Math.min(limits.memoryKib, ARGON2_MEMORY_KIB_MAX);
  if (memoryKib <= most) return;
  throw new DmError(
    Status.NoMemory,
    `${where}: Argon2 needs ${formatSize(memoryKib * KIB)} of memory, the limit is ` +
      formatSize(most * KIB),
  );
}

function isIn(value: number, low: number, high: number): boolean {
  return Number.isSafeInteger(value) && value >= low && value <= high;
}

/** A copy with memory of its own, so that no pool of Node's goes over to another thread. */
function own(data: Uint8Array): Uint8Array {
  return new Uint8Array(data);
}

/** KiB passed over in a millisecond with all lanes, as a small computation shows. */
let argon2KibPerMs: number | undefined;
const PROBE_PASSES = 2;

/** By native code where there is some; that cannot be stopped, so its time is estimated. */
async function byArgon2(task: Argon2Task, timeMs: number, where: string): Promise<Buffer> {
  const native = nativeArgon2();
  if (native === undefined) return await inThread(task, timeMs, where);
  if (task.time * task.memoryKib > TRUSTED_KIB) {
    argon2KibPerMs ??= await speedOf(native);
    if ((task.time * task.memoryKib) / argon2KibPerMs > timeMs) throw tooSlow(where, timeMs);
  }
  try {
    return await native(task);
  } catch (error) {
    throw new DmError(Status.NoMemory, `${where}: ${task.type} failed: ${errorText(error)}`);
  } finally {
    task.passphrase.fill(0);
  }
}

/** So much takes no notable time anywhere. */
const TRUSTED_KIB = 64 * 1024;

async function speedOf(native: (task: Argon2Task) => Promise<Buffer>): Promise<number> {
  const start = performance.now();
  await native({
    type: 'argon2id',
    passphrase: Buffer.from('benchmark'),
    salt: Buffer.alloc(SALT_BYTES, 1),
    time: PROBE_PASSES,
    memoryKib: PROBE_KIB,
    cpus: defaultLanes(),
    keyBytes: 32,
  });
  return (PROBE_PASSES * PROBE_KIB) / Math.max(1, performance.now() - start);
}

/** By WebAssembly, in a thread that is stopped when its time is over. */
export async function inThread(task: KdfTask, timeMs: number, where: string): Promise<Buffer> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const file = new URL(`./kdf-worker.${extension}`, import.meta.url);
  const worker = new Worker(file, { workerData: task, env: {}, execArgv: [] });
  let timer: NodeJS.Timeout | undefined;
  try {
    const answer = await new Promise<KdfAnswer>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
      worker.once('exit', () => reject(new Error('its thread ended')));
      timer = setTimeout(() => reject(tooSlow(where, timeMs)), timeMs);
    });
    if ('error' in answer) {
      throw new DmError(Status.NoMemory, `${where}: ${task.type} failed: ${answer.error}`);
    }
    const key = Buffer.from(answer.key.buffer, answer.key.byteOffset, answer.key.length);
    return key;
  } catch (error) {
    if (error instanceof DmError) throw error;
    throw new DmError(Status.NoMemory, `${where}: ${task.type} failed: ${errorText(error)}`);
  } finally {
    clearTimeout(timer);
    task.passphrase.fill(0);
    await worker.terminate();
  }
}

function tooSlow(where: string, timeMs: number): DmError {
  const text = `${where}: deriving the key takes more than ${Math.round(timeMs / 1000)} s`;
  return new DmError(Status.TimedOut, text);
}

const pbkdf2Async = promisify(pbkdf2);

async function byPbkdf2(
  { hash, iterations }: Pbkdf2Params,
  passphrase: Uint8Array,
  salt: Uint8Array,
  options: { readonly keyBytes: number; readonly limits: KdfLimits; readonly where: string },
): Promise<Buffer> {
  const { keyBytes, limits, where } = options;
  const spec = hashSpec(hash, where);
  if (!Number.isSafeInteger(iterations) || iterations < 1) {
    throw damaged(`${where}: PBKDF2 with ${iterations} iterations: need 1 or more`);
  }
  if (iterations > PBKDF2_ITERATIONS_MAX) {
    throw unsupported(`${where}: PBKDF2 with ${iterations} iterations: need less than 2^31`);
  }
  // A thread can be stopped; Node's own pool cannot.
  if (spec.node !== undefined && iterations > TRUSTED_ITERATIONS) {
    const needMs = (iterations / (await iterationsPerMs(spec))) * blocks(keyBytes, spec);
    if (needMs > limits.timeMs) throw tooSlow(where, limits.timeMs);
  }
  return await computePbkdf2(
    spec,
    { passphrase, salt, iterations, keyBytes },
    limits.timeMs,
    where,
  );
}

async function computePbkdf2(
  { name, node }: HashSpec,
  task: Omit<Pbkdf2Task, 'type' | 'hash'>,
  timeMs: number,
  where: string,
): Promise<Buffer> {
  const { passphrase, salt, iterations, keyBytes } = task;
  if (node !== undefined) return await pbkdf2Async(passphrase, salt, iterations, keyBytes, node);
  const threaded: KdfTask = {
    type: 'pbkdf2',
    hash: name,
    ...task,
    passphrase: own(passphrase),
    salt: own(salt),
  };
  if (iterations > SHORT_ITERATIONS) return await inThread(threaded, timeMs, where);
  const { computeByWasm } = await import('./wasm-kdf.ts');
  try {
    return Buffer.from(await computeByWasm(threaded));
  } finally {
    threaded.passphrase.fill(0);
  }
}

/** So many take less time in WebAssembly than it takes to start a thread. */
const SHORT_ITERATIONS = 4000;

/** So many take no notable time anywhere. */
const TRUSTED_ITERATIONS = 100_000;

/** PBKDF2 computes every piece of the hash's size anew. */
function blocks(keyBytes: number, hash: HashSpec): number {
  return Math.ceil(keyBytes / hash.sizeBytes);
}

/** Iterations of one block that this machine does in a millisecond. */
async function iterationsPerMs(hash: HashSpec, leastMs = 50): Promise<number> {
  for (let count = 10_000; ; count *= 4) {
    const start = performance.now();
    const [passphrase, salt] = [Buffer.from('benchmark'), Buffer.from('some salt to use')];
    const task = { passphrase, salt, iterations: count, keyBytes: hash.sizeBytes };
    await computePbkdf2(hash, task, 10 * MINUTE_MS, 'benchmark');
    const tookMs = performance.now() - start;
    if (tookMs >= leastMs) return count / tookMs;
  }
}

/** Iterations by which deriving `keyBytes` takes `timeMs` here, never less than 1000. */
export async function benchmarkPbkdf2(
  hash: string,
  keyBytes: number,
  timeMs: number,
): Promise<number> {
  const spec = hashSpec(hash, 'benchmark');
  const perMs = (await iterationsPerMs(spec, 200)) / blocks(keyBytes, spec);
  const iterations = Math.floor(perMs * timeMs);
  return Math.min(Math.max(iterations, PBKDF2_ITERATIONS_MIN), PBKDF2_ITERATIONS_MAX);
}

/** As many as there are processors, up to 4. */
export function defaultLanes(): number {
  return Math.min(ARGON2_CPUS_MAX, availableParallelism());
}

/** Where the search for a cost begins, KiB; what is faster than that is not measurable. */
const PROBE_KIB = 16 * 1024;

/**
 * Costs by which deriving takes `timeMs` here: as much memory as `memoryKib` allows with four
 * passes, then more passes. Lanes are given, or as many as there are processors, up to 4.
 */
export async function benchmarkArgon2(
  type: Argon2Params['type'],
  options: { readonly keyBytes: number; readonly timeMs: number; readonly memoryKib: number },
  lanes?: number,
): Promise<Argon2Params> {
  const cpus = lanes ?? defaultLanes();
  const { keyBytes, timeMs } = options;
  const least = Math.max(ARGON2_MEMORY_KIB_MIN, 8 * cpus);
  const most = Math.max(least, options.memoryKib);
  const measure = async (time: number, memoryKib: number): Promise<number> => {
    const limits = { memoryKib: most, timeMs: 10 * MINUTE_MS };
    const start = performance.now();
    const salt = Buffer.alloc(SALT_BYTES, 1);
    const key = await deriveKey({ type, time, memoryKib, cpus }, Buffer.from('benchmark'), salt, {
      keyBytes,
      limits,
      where: 'benchmark',
    });
    key.fill(0);
    return Math.max(1, performance.now() - start);
  };
  const fit = (kib: number): number => Math.max(least, Math.min(most, Math.floor(kib)));
  let memoryKib = fit(PROBE_KIB);
  let tookMs = await measure(ARGON2_TIME_MIN, memoryKib);
  // Starting a thread is part of a short measurement, so it is repeated nearer to the goal.
  for (let round = 0; round < 2; round++) {
    const wanted = fit((memoryKib * timeMs) / tookMs);
    if (Math.abs(wanted - memoryKib) < memoryKib / 10) break;
    memoryKib = wanted;
    tookMs = await measure(ARGON2_TIME_MIN, memoryKib);
  }
  const spare = memoryKib === most ? timeMs / tookMs : 1;
  return {
    type,
    time: Math.max(ARGON2_TIME_MIN, Math.floor(ARGON2_TIME_MIN * spare)),
    memoryKib,
    cpus,
  };
}
