// Options of everything that runs a data plane.

import { type Command, InvalidArgumentError, Option } from 'commander';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { MIB } from '../base/units.ts';
import { createPlane } from '../daemon/create-plane.ts';
import type { Plane, PlaneOptions } from '../daemon/plane.ts';
import type { EngineName } from '../io/engine.ts';
import { bufferSize } from './option-values.ts';

/** About what waking a sleeping thread costs; more would only make a core busy. */
const POLL_US = 20;
const POLL_US_MAX = 1000;

export interface PlaneFlags {
  readonly engine: EngineName | 'auto';
  readonly buffer: number;
  readonly pollUs: number;
}

export function addPlaneOptions(command: Command): Command {
  return command
    .addOption(
      new Option('--engine <engine>', 'how bytes move')
        .choices(['auto', 'uring', 'node'])
        .default('auto'),
    )
    .option('--buffer <size>', 'memory for I/O buffers', bufferSize, 128 * MIB)
    .option(
      '--poll-us <n>',
      'look so many microseconds for requests before sleeping, while that pays; 0: never',
      pollTime,
      POLL_US,
    );
}

/** `options.log` hears what an operator should know of clients and devices, a line each. */
export async function openPlane(
  flags: PlaneFlags,
  options: Pick<PlaneOptions, 'bareWordsAreDevices' | 'log'> = {},
): Promise<Plane> {
  const { engine, buffer, pollUs } = flags;
  try {
    return await createPlane({ ...options, engine, bufferBytes: buffer, pollMs: pollUs / 1000 });
  } catch (error) {
    if (!(error instanceof DmError) || error.status !== Status.NoMemory) throw error;
    const text = `--buffer ${buffer / MIB}M: ${error.message}; take less`;
    throw new DmError(error.status, text, { cause: error });
  }
}

function pollTime(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0 || value > POLL_US_MAX) {
    throw new InvalidArgumentError(`expected 0 to ${POLL_US_MAX} microseconds`);
  }
  return value;
}
