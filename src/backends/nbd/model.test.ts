// Random mixed I/O over servers that answer in every order and in any pieces, while connections are
// cut and the server crashes: what is read equals a flat model of the device, and what was flushed
// is on the medium.
//
// LAMINA_SEED repeats a run, LAMINA_ROUNDS lengthens it.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioFlag } from '../../bio/bio.ts';
import { Cmd } from '../../format/nbd.ts';
import type { BioDriver } from '../../testing/bio-driver.ts';
import { availableEngines, startRig } from '../../testing/nbd-backend-rig.ts';
import {
  ALL_FLAGS,
  FAKE_EXPORT,
  type FakeExport,
  type FakePeer,
  serveModel,
} from '../../testing/nbd-fake-server.ts';
import { SEED } from '../../testing/seed.ts';

const ROUNDS = Number(process.env['LAMINA_ROUNDS'] ?? 1);
const SECTORS = 2048;
const REQUESTS = 600;
const LANES = 12;

interface Range {
  readonly from: number;
  readonly to: number;
}

/**
 * A flat device, and which sectors are being changed: overlapping requests have no defined outcome.
 */
class Model {
  readonly bytes = Buffer.alloc(SECTORS * 512);
  readonly #busy = new Set<Range>();

  claim(rng: Prng): Range | undefined {
    const sectors = rng.between(1, rng.pick([4, 40, 400]));
    const from = rng.below(SECTORS - sectors) * 512;
    const range = { from, to: from + sectors * 512 };
    for (const b of this.#busy) if (range.from < b.to && b.from < range.to) return undefined;
    this.#busy.add(range);
    return range;
  }

  release(range: Range): void {
    this.#busy.delete(range);
  }
}

function cut(rng: Prng, lenBytes: number): number[] {
  const segments: number[] = [];
  for (let left = lenBytes; left > 0; ) {
    const len = Math.min(left, rng.between(1, rng.pick([700, 9000, 100_000])));
    segments.push(len);
    left -= len;
  }
  return segments;
}

async function oneRequest(driver: BioDriver, model: Model, rng: Prng, what: string): Promise<void> {
  if (rng.chance(0.05)) {
    assert.equal(await driver.flush(), Status.Ok, what);
    return;
  }
  const range = model.claim(rng);
  if (range === undefined) return;
  const { from, to } = range;
  const lenBytes = to - from;
  const flags = (rng.chance(0.2) ? BioFlag.Fua : 0) | (rng.chance(0.1) ? BioFlag.Preflush : 0);
  const options = { flags, segments: cut(rng, lenBytes), skewBytes: rng.below(64) };
  const kind = rng.below(10);
  if (kind < 5) {
    const data = Buffer.alloc(lenBytes);
    rng.fill(data);
    assert.equal(await driver.write(from, data, options), Status.Ok, what);
    data.copy(model.bytes, from);
  } else if (kind < 6) {
    assert.equal(await driver.zero(from, lenBytes, { flags }), Status.Ok, what);
    model.bytes.fill(0, from, to);
  } else {
    const found = await driver.read(from, lenBytes, { ...options, flags: 0 });
    const isSame = found.equals(model.bytes.subarray(from, to));
    assert.ok(isSame, `${what}: read ${from}+${lenBytes} differs from the model`);
  }
  model.release(range);
}

/** Cuts one connection that has been negotiated. */
function killOne(peers: readonly FakePeer[], rng: Prng): void {
  const alive = peers.filter((p) => !p.socket.destroyed && p.options.length > 0);
  if (alive.length > 0) rng.pick(alive).kill();
}

async function storm(
  exported: Partial<FakeExport>,
  query: string,
  engine: 'node' | 'uring',
  seed: number,
  kills: number,
): Promise<void> {
  const rng = new Prng(seed);
  const store = Buffer.alloc(SECTORS * 512);
  const full = { ...FAKE_EXPORT, ...exported };
  const rig = await startRig({
    engine,
    query: `&reconnect=forever${query}`,
    script: (peer) => serveModel(peer, store, rng, full),
  });
  const model = new Model();
  let left = REQUESTS * ROUNDS;
  const what = `seed ${seed}`;
  const lane = async (): Promise<void> => {
    while (left-- > 0) {
      if (rng.chance(kills / REQUESTS)) killOne(rig.server.peers, rng);
      await oneRequest(rig.driver, model, rng, what);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  assert.equal(await rig.driver.flush(), Status.Ok, what);
  assert.ok(store.equals(model.bytes), `${what}: the server's store differs from the model`);
  assert.equal(rig.device.connection.hasLostWrites, false, what);
  await rig.close();
}

const SHAPES: readonly (readonly [
  what: string,
  exported: Partial<FakeExport>,
  query: string,
  kills: number,
])[] = [
  ['chunks in any order', {}, '', 0],
  ['simple replies', { isStructured: false, contextId: undefined }, '', 0],
  ['small requests only', { blockSizes: [512, 4096, 8192] }, '', 0],
  ['no FUA and no zeroing', { flags: ALL_FLAGS & ~(8 | 64 | 2048) }, '', 0],
  ['connections that break', {}, '', 12],
  ['several connections that break', {}, '&connections=3', 12],
  ['a small log of unflushed writes', {}, '&replay=300K', 0],
];

for (const engine of availableEngines()) {
  describe(`random I/O equals a flat model on the ${engine} engine, with`, () => {
    for (const [i, [what, exported, query, kills]] of SHAPES.entries()) {
      const seed = SEED + i;
      it(what, async (t) => {
        t.diagnostic(`repeat with LAMINA_SEED=${SEED}`);
        await storm(exported, query, engine, seed, kills);
      });
    }
  });
}

/**
 * Writes to a server with a cache, crashes it between flushes, and compares what is there
 * afterwards.
 */
async function crashes(seed: number): Promise<void> {
  const rng = new Prng(seed);
  let store = Buffer.alloc(SECTORS * 512);
  let cache = Buffer.from(store);
  let restart: Promise<void> | undefined;
  const rig = await startRig({
    query: '&reconnect=forever&replay=64M',
    script: async (peer) => {
      await peer.negotiate({ ...FAKE_EXPORT, sizeBytes: store.length });
      for (;;) {
        const request = await peer.readRequest();
        if (peer.socket.destroyed) return;
        const { cmd, offBytes, lenBytes } = request;
        if (cmd === Cmd.Disc) break;
        if (cmd === Cmd.Write) request.data.copy(cache, offBytes);
        if (cmd === Cmd.WriteZeroes) cache.fill(0, offBytes, offBytes + lenBytes);
        if ((request.flags & 1) !== 0) cache.copy(store, offBytes, offBytes, offBytes + lenBytes);
        if (cmd === Cmd.Flush) store = Buffer.from(cache);
        const bytes = cache.subarray(offBytes, offBytes + lenBytes);
        if (cmd === Cmd.Read) peer.data(request, offBytes, bytes, true);
        else peer.simple(request);
      }
      peer.socket.end();
    },
  });
  const crash = async (): Promise<void> => {
    await rig.server.stop();
    // Each sector that was not flushed is there or not, as a disk's cache has it.
    for (let at = 0; at < store.length; at += 512) {
      if (rng.chance(0.5)) cache.copy(store, at, at, at + 512);
    }
    cache = Buffer.from(store);
    await rig.server.start();
    restart = undefined;
  };
  const model = new Model();
  let left = 400 * ROUNDS;
  const lane = async (): Promise<void> => {
    while (left-- > 0) {
      if (restart === undefined && rng.chance(0.02)) restart = crash();
      await oneRequest(rig.driver, model, rng, `seed ${seed}`);
    }
  };
  await Promise.all(Array.from({ length: 6 }, lane));
  await restart;
  assert.equal(await rig.driver.flush(), Status.Ok);
  assert.ok(store.equals(model.bytes), `seed ${seed}: the medium differs from the model`);
  await rig.close();
}

it('no acknowledged write is lost to a server that crashes again and again', async (t) => {
  t.diagnostic(`repeat with LAMINA_SEED=${SEED}`);
  await crashes(SEED);
});
