// What tests of the NBD backend need around it: an engine of either kind with a clock of the test's
// own, a fake server, and a device opened over it.

import { setImmediate as turn } from 'node:timers/promises';
import type { Duplex } from 'node:stream';
import { join } from 'node:path';
import { type Clock, realClock } from '../base/clock.ts';
import { type NbdDevice, open } from '../backends/nbd/nbd.backend.ts';
import type { Compute } from '../io/compute.ts';
import { Arena } from '../io/arena.ts';
import type { BatchTask, EngineName, IoDone, IoEngine, IoFile, IoStream } from '../io/engine.ts';
import { NodeEngine } from '../io/node-engine.ts';
import { UringEngine } from '../io/uring-engine.ts';
import { UringUnavailable } from '../io/uring-ring.ts';
import { BioDriver } from './bio-driver.ts';
import { FakeNbdServer, type FakeScript } from './nbd-fake-server.ts';
import { makeTestFolder } from './lamina-server.ts';

/** An engine with another clock. */
export class ClockedEngine implements IoEngine {
  readonly name: EngineName;
  readonly arena: Arena;
  readonly clock: Clock;
  readonly compute: Compute;
  readonly #engine: IoEngine;

  constructor(engine: IoEngine, clock: Clock) {
    this.#engine = engine;
    this.name = engine.name;
    this.arena = engine.arena;
    this.clock = clock;
    this.compute = engine.compute;
  }

  read(file: IoFile, off: number, mem: number, len: number, done: IoDone, arg: object): void {
    this.#engine.read(file, off, mem, len, done, arg);
  }

  write(file: IoFile, off: number, mem: number, len: number, done: IoDone, arg: object): void {
    this.#engine.write(file, off, mem, len, done, arg);
  }

  sync(file: IoFile, done: IoDone, arg: object): void {
    this.#engine.sync(file, done, arg);
  }

  fallocate(file: IoFile, mode: number, off: number, len: number, done: IoDone, arg: object): void {
    this.#engine.fallocate(file, mode, off, len, done, arg);
  }

  openStream(source: number | Duplex): IoStream {
    return this.#engine.openStream(source);
  }

  atBatchEnd(task: BatchTask): void {
    this.#engine.atBatchEnd(task);
  }

  close(): void {
    this.#engine.close();
  }
}

export function makeEngine(name: EngineName, clock: Clock = realClock, bytes = 64 << 20): IoEngine {
  const arena = new Arena(bytes);
  const engine = name === 'uring' ? new UringEngine(arena) : new NodeEngine(arena);
  return new ClockedEngine(engine, clock);
}

/** The engines that work here. */
export function availableEngines(): EngineName[] {
  try {
    new UringEngine(new Arena(1 << 20)).close();
    return ['node', 'uring'];
  } catch (error) {
    if (error instanceof UringUnavailable) return ['node'];
    throw error;
  }
}

/**
 * Waits for something that other events bring about; fails after very many turns of the event loop.
 */
export async function until(what: string, isSo: () => boolean): Promise<void> {
  for (let i = 0; i < 200_000; i++) {
    if (isSo()) return;
    await turn();
  }
  throw new Error(`waited for ever for: ${what}`);
}

export interface NbdRig {
  readonly server: FakeNbdServer;
  readonly engine: IoEngine;
  readonly device: NbdDevice;
  readonly driver: BioDriver;
  /** What the operator was told. */
  readonly lines: string[];
  /** Closes the device, which may reject; then checks that nothing is left. */
  close(): Promise<void>;
}

export interface RigOptions {
  readonly script: FakeScript;
  readonly engine?: EngineName;
  readonly clock?: Clock;
  /** Behind the URI: `&reconnect=0`. */
  readonly query?: string;
  readonly isReadOnly?: boolean;
  readonly scheme?: string;
  /** The server does not listen yet. */
  readonly isDown?: boolean;
}

export async function startRig(options: RigOptions): Promise<NbdRig> {
  const folder = makeTestFolder();
  const server = new FakeNbdServer(join(folder.path, 'sock'), options.script);
  if (options.isDown !== true) await server.start();
  const engine = makeEngine(options.engine ?? 'node', options.clock);
  const finish = async (): Promise<void> => {
    await server.stop();
    folder.remove();
    engine.close();
  };
  try {
    const scheme = options.scheme ?? 'nbd+unix';
    const uri = `${scheme}:///disk?socket=${server.path}${options.query ?? ''}`;
    const lines: string[] = [];
    const device = await open(uri, {
      engine,
      readOnly: options.isReadOnly ?? false,
      log: (line) => lines.push(line),
    });
    const driver = new BioDriver(device, engine.arena);
    return {
      server,
      engine,
      device,
      driver,
      lines,
      async close() {
        try {
          await device.close();
          if (engine.arena.usedBytes !== 0) {
            throw new Error(`${engine.arena.usedBytes} bytes of the arena were never freed`);
          }
          if (server.failures.length > 0) throw server.failures[0];
        } finally {
          await finish();
        }
      },
    };
  } catch (error) {
    await finish();
    throw error;
  }
}
