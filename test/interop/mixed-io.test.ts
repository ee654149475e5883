// Random mixed I/O over NBD, on four connections and at odd alignments, against a stack of
// striped on linear on striped: what is read equals a flat model of the device. Then the same while the
// server is killed: what was flushed is there.
//
// LAMINA_SEED repeats a run, LAMINA_ROUNDS lengthens it.

import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { CmdFlag } from '../../src/format/nbd.ts';
import { type LaminaServer, makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';
import { SEED } from '../../src/testing/seed.ts';

const ROUNDS = Number(process.env['LAMINA_ROUNDS'] ?? 1);
const ENGINES = ['uring', 'node'] as const;
const CONNECTIONS = 4;
const LEG_SECTORS = 4096;

/** Two striped devices over files, a linear over each, striped over these: 8 MiB of 16 KiB pieces. */
function stackOf(folder: string, rng: Prng): { concise: string; sizeBytes: number } {
  const chunks = [8, 16, 32, 64];
  const files: string[] = [];
  for (let i = 0; i < 4; i++) {
    const file = join(folder, `leg${i}.img`);
    writeFileSync(file, '');
    truncateSync(file, (LEG_SECTORS + 64) * 512);
    files.push(file);
  }
  const striped = (name: string, a: string, b: string, chunk: number): string =>
    `${name},,,rw,0 ${LEG_SECTORS * 2} striped 2 ${chunk} ${a} 8 ${b} 0`;
  const concise = [
    striped('low0', files[0] as string, files[1] as string, rng.pick(chunks)),
    striped('low1', files[2] as string, files[3] as string, rng.pick(chunks)),
    `mid0,,,rw,0 ${LEG_SECTORS} linear low0 0,${LEG_SECTORS} ${LEG_SECTORS} linear low1 0`,
    `mid1,,,rw,0 ${LEG_SECTORS} linear low1 ${LEG_SECTORS},${LEG_SECTORS} ${LEG_SECTORS} linear low0 ${LEG_SECTORS}`,
    `top,,,rw,0 ${LEG_SECTORS * 4} striped 2 ${rng.pick(chunks)} mid0 0 mid1 0`,
  ].join(';');
  return { concise, sizeBytes: LEG_SECTORS * 4 * 512 };
}

interface Range {
  readonly from: number;
  readonly to: number;
}

/** The flat model: bytes, and which ranges are being changed right now. */
class Model {
  readonly bytes: Uint8Array;
  readonly #busy = new Set<Range>();

  constructor(sizeBytes: number) {
    this.bytes = new Uint8Array(sizeBytes);
  }

  /** A random range no other request in flight touches; overlapping ones have no defined outcome. */
  claim(rng: Prng, maxBytes: number): Range | undefined {
    const isAligned = rng.chance(0.4);
    const unit = isAligned ? 512 : 1;
    const len = Math.max(unit, Math.floor(rng.between(1, maxBytes) / unit) * unit);
    const from = Math.floor(rng.below(this.bytes.length - len) / unit) * unit;
    const range = { from, to: from + len };
    for (const b of this.#busy) if (range.from < b.to && b.from < range.to) return undefined;
    this.#busy.add(range);
    return range;
  }

  release(range: Range): void {
    this.#busy.delete(range);
  }
}

/** What a trimmed byte may read: the model keeps it as unknown until written again. */
async function oneRequest(client: NbdClient, model: Model, rng: Prng, what: string): Promise<void> {
  const kind = rng.below(100);
  if (kind < 5) {
    await client.flush();
    return;
  }
  const range = model.claim(rng, rng.chance(0.1) ? 300_000 : 20_000);
  if (range === undefined) return;
  const len = range.to - range.from;
  const flags = rng.chance(0.2) ? CmdFlag.Fua : 0;
  try {
    if (kind < 45) {
      const data = Buffer.alloc(len);
      rng.fill(data);
      await client.write(range.from, data, flags);
      model.bytes.set(data, range.from);
    } else if (kind < 55) {
      await client.zero(range.from, len, flags | (rng.chance(0.5) ? CmdFlag.NoHole : 0));
      model.bytes.fill(0, range.from, range.to);
    } else if (kind < 62) {
      await client.trim(range.from, len, flags);
      // Whether trimmed bytes read as before or as zeroes is the device's choice; it must stay with it.
      const now = await client.read(range.from, len);
      for (let i = 0; i < len; i++) {
        const isAllowed = now[i] === 0 || now[i] === model.bytes[range.from + i];
        assert.ok(isAllowed, `${what}: trim made up byte ${range.from + i}`);
      }
      model.bytes.set(now, range.from);
    } else {
      const data = await client.read(range.from, len);
      const expected = Buffer.from(model.bytes.buffer, range.from, len);
      assert.ok(data.equals(expected), `${what}: read ${range.from}+${len} differs from the model`);
    }
  } finally {
    model.release(range);
  }
}

async function storm(
  server: LaminaServer,
  model: Model,
  rng: Prng,
  requests: number,
  what: string,
): Promise<void> {
  const clients: NbdClient[] = [];
  for (let i = 0; i < CONNECTIONS; i++) {
    clients.push(
      await NbdClient.connect({ path: server.socketPath }, { structured: rng.chance(0.7) }),
    );
  }
  const lanes: Promise<void>[] = [];
  for (const client of clients) {
    assert.equal(client.sizeBytes, model.bytes.length);
    for (let lane = 0; lane < 8; lane++) {
      lanes.push(
        (async () => {
          for (let i = 0; i < requests / 32; i++) await oneRequest(client, model, rng, what);
        })(),
      );
    }
  }
  await Promise.all(lanes);
  for (const client of clients) await client.disconnect();
}

for (const engine of ENGINES) {
  for (let round = 0; round < ROUNDS; round++) {
    const seed = SEED + round;
    test(`mixed I/O equals a flat model: ${engine}, LAMINA_SEED=${seed}`, async () => {
      const rng = new Prng(seed);
      const folder = makeTestFolder();
      try {
        const { concise, sizeBytes } = stackOf(folder.path, rng);
        const args = ['--concise', concise, '--export', '=top', '--engine', engine];
        const server = await startLamina(args, join(folder.path, 's'));
        const model = new Model(sizeBytes);
        await storm(server, model, rng, 6000, `seed ${seed}`);
        const client = await NbdClient.connect({ path: server.socketPath });
        assert.ok(
          (await client.read(0, sizeBytes)).equals(model.bytes),
          `seed ${seed}: at the end`,
        );
        await client.disconnect();
        assert.equal(await server.stop(), 0, server.stderr());
        // And it is on the files: a second server reads the same.
        const again = await startLamina(args, join(folder.path, 's'));
        const reader = await NbdClient.connect({ path: again.socketPath });
        assert.ok((await reader.read(0, sizeBytes)).equals(model.bytes), `seed ${seed}: reopened`);
        await reader.disconnect();
        assert.equal(await again.stop(), 0, again.stderr());
      } finally {
        folder.remove();
      }
    });
  }

  test(`kill -9 under load keeps what was flushed: ${engine}, LAMINA_SEED=${SEED}`, async () => {
    const rng = new Prng(SEED ^ 0x5eed);
    const folder = makeTestFolder();
    try {
      const { concise, sizeBytes } = stackOf(folder.path, rng);
      const args = ['--concise', concise, '--export', '=top', '--engine', engine];
      for (let kill = 0; kill < 3; kill++) {
        await killOnce(args, join(folder.path, 's'), sizeBytes, rng, `kill ${kill}, seed ${SEED}`);
      }
    } finally {
      folder.remove();
    }
  });
}

const BLOCK = 4096;

/** Each lane owns every 16th block and writes rising numbers; a number below the last flush is a loss. */
async function killOnce(
  args: readonly string[],
  socket: string,
  sizeBytes: number,
  rng: Prng,
  what: string,
): Promise<void> {
  const server = await startLamina(args, socket);
  const blocks = sizeBytes / BLOCK;
  const issued = new Uint32Array(blocks);
  const flushed = new Uint32Array(blocks);
  const client = await NbdClient.connect({ path: socket });
  const start = await client.read(0, sizeBytes);
  for (let b = 0; b < blocks; b++) issued[b] = flushed[b] = start.readUInt32LE(b * BLOCK);
  const lanesMay = { goOn: true };
  const lane = async (n: number): Promise<void> => {
    while (lanesMay.goOn) {
      const b = rng.below(blocks / 16) * 16 + n;
      const data = Buffer.alloc(BLOCK);
      const value = (issued[b] as number) + 1;
      for (let i = 0; i < BLOCK; i += 4) data.writeUInt32LE(value, i);
      issued[b] = value;
      const isFua = rng.chance(0.1);
      await client.write(b * BLOCK, data, isFua ? CmdFlag.Fua : 0);
      if (isFua) flushed[b] = value;
      else if (rng.chance(0.05)) {
        await client.flush();
        flushed[b] = Math.max(flushed[b] as number, value);
      }
    }
  };
  const lanes = Array.from({ length: 16 }, (_, n) => lane(n).catch(() => undefined));
  for (let i = 0; i < 40; i++) await client.flush();
  const killed = server.kill();
  lanesMay.goOn = false;
  await killed;
  await Promise.all(lanes);
  const again = await startLamina(args, socket);
  const reader = await NbdClient.connect({ path: socket });
  const now = await reader.read(0, sizeBytes);
  for (let b = 0; b < blocks; b++) {
    for (let s = 0; s < BLOCK; s += 512) {
      const found = now.readUInt32LE(b * BLOCK + s);
      const low = flushed[b] as number;
      const high = issued[b] as number;
      const where = `${what}: block ${b} sector ${s / 512}`;
      assert.ok(found >= low, `${where}: found ${found}, flushed was ${low}`);
      assert.ok(found <= high, `${where}: found ${found}, ${high} was the last written`);
      for (let i = s; i < s + 512; i += 4) {
        assert.equal(now.readUInt32LE(b * BLOCK + i), found, `${where}: torn`);
      }
    }
  }
  await reader.disconnect();
  assert.equal(await again.stop(), 0, again.stderr());
}
