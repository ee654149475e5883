// First writes that go on: 3 GiB of them, 1 MiB each, into files whose pages are there. All servers are up
// at once and take turns of 256 MiB, so that what the machine does is the same for all.

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { runLoad } from './load.ts';
import { warmMemory } from './memory.ts';
import { median, showRatios } from './statistics.ts';
import type { RunningServer } from './servers.ts';
import { type Image, makeImages, MIB, serve } from './thin-images.ts';

export const SUSTAINED = 'sustained-1m-write';
const SIZE = 3072 * MIB;
const TURN = 256 * MIB;
/** V8 compiles during the first ones, which are reported apart. */
const FIRST_TURNS = 3;

/** Bytes written in MiB a second, by image, one value a turn. */
type Speeds = ReadonlyMap<string, readonly number[]>;

function writes(fromBytes: number, bytes: number): string[] {
  const range = ['-o', `${fromBytes}`, '-S', `${fromBytes + bytes}`, '-n', `${bytes / MIB}`];
  return ['-b', '1m', '-q', '8', '-s', '-r', '0', '-w', '0', '-t', '9', ...range];
}

async function prepare(image: Image, folder: string): Promise<string> {
  const at = join(folder, image.name);
  mkdirSync(at);
  await image.create(at);
  const server = await serve(image, at);
  await runLoad(server.uri, writes(0, SIZE));
  await server.stop();
  await image.empty(at);
  return at;
}

async function runTurns(folder: string): Promise<Speeds> {
  const servers: RunningServer[] = [];
  for (const image of makeImages(SIZE)) {
    servers.push(await serve(image, await prepare(image, folder)));
  }
  const speeds = new Map<string, number[]>(servers.map(({ name }) => [name, []]));
  for (let turn = 0; turn < SIZE / TURN; turn++) {
    for (let i = 0; i < servers.length; i++) {
      // Another one begins each turn.
      const server = servers[(turn + i) % servers.length] as RunningServer;
      await warmMemory({ bytes: TURN, afterMs: 0 });
      const { iops = 0 } = await runLoad(server.uri, writes(turn * TURN, TURN));
      speeds.get(server.name)?.push(iops);
    }
  }
  for (const server of servers) await server.stop();
  return speeds;
}

function report(what: string, speeds: Speeds): void {
  const of = (name: string): readonly number[] => speeds.get(name) ?? [];
  const numbers = [...speeds].map(([, values]) => median(values).toFixed(0).padEnd(9)).join(' ');
  const ratios = ['linear', 'qcow2'].map((other) => showRatios(of('thin'), of(other)));
  process.stdout.write(`${what.padEnd(17)} ${numbers} ${ratios.join('  ')}\n`);
}

function turnsOf(speeds: Speeds, from: number, end: number): Speeds {
  return new Map([...speeds].map(([name, values]) => [name, values.slice(from, end)]));
}

/** Prints a line for the first turns of each round and one for all others; ratios are turn by turn. */
export async function sustained(folder: string, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const at = join(folder, SUSTAINED);
    mkdirSync(at, { recursive: true });
    const speeds = await runTurns(at);
    rmSync(at, { recursive: true });
    report('just started', turnsOf(speeds, 0, FIRST_TURNS));
    report(SUSTAINED, turnsOf(speeds, FIRST_TURNS, SIZE / TURN));
  }
}
