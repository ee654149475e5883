// log-writes: the order of the log, when its super is rewritten, what a replay of a prefix gives, bounded
// memory, and what happens when the log is full or fails. LAMINA_SEED repeats a random run.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import { DEFAULT_LIMITS } from '../../bio/limits.ts';
import { LogFlag } from '../../format/log-writes.ts';
import { NONE } from '../../io/arena.ts';
import { LogReader, type LogEntry } from '../../tools/replay/log-reader.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { makeTestMapper, type TestDisk, type TestMapper } from '../../testing/test-mapper.ts';
import { SEED } from '../../testing/seed.ts';

const ROUNDS = Number(process.env['LAMINA_ROUNDS'] ?? 8);
const LEN = 2048;
const folder = mkdtempSync(join(tmpdir(), 'lamina-log-writes-'));
after(() => rmSync(folder, { recursive: true, force: true }));

interface Rig {
  readonly t: TestMapper;
  readonly data: TestDisk;
  readonly log: TestDisk;
  readonly driver: BioDriver;
  status(): Promise<string>;
  remove(): Promise<void>;
}

async function makeRig(
  options: { readonly logSectors?: number; readonly seed?: number; readonly block?: number } = {},
): Promise<Rig> {
  const t = makeTestMapper(options.seed ?? 1, 64);
  const limits = { ...DEFAULT_LIMITS, logicalBlockBytes: options.block ?? 512 };
  const data = t.disk('data', LEN, limits);
  const log = t.disk('log', options.logSectors ?? 65536);
  await t.dm.create({ name: 'd', table: `0 ${LEN} log-writes ${data.name} ${log.name}` });
  const opened = await t.dm.openDevice('d');
  return {
    t,
    data,
    log,
    driver: new BioDriver(opened.device, t.arena),
    status: async () => (await t.dm.status('d'))[0]?.params ?? '',
    remove: async () => {
      await opened.close();
      await t.dm.remove('d');
    },
  };
}

function readLog<T>(log: TestDisk, use: (reader: LogReader) => T): T {
  const path = join(folder, 'log');
  writeFileSync(path, log.bytes);
  const reader = LogReader.open(path);
  try {
    return use(reader);
  } finally {
    reader.close();
  }
}

/** `W8` a write of block 8, `F` a flush, `U8` FUA, `D8` a discard, `M:text` a mark. */
function shown(entry: LogEntry, blockBytes: number): string {
  if (entry.mark !== undefined) return `M:${entry.mark}`;
  if ((entry.flags & LogFlag.Flush) !== 0) return 'F';
  const kind =
    (entry.flags & LogFlag.Fua) !== 0 ? 'U' : (entry.flags & LogFlag.Discard) !== 0 ? 'D' : 'W';
  return `${kind}${entry.offBytes / blockBytes}`;
}

function logOrder(log: TestDisk): string {
  return readLog(log, (r) => [...r.entries()].map((e) => shown(e, r.blockBytes)).join(' '));
}

function apply(reader: LogReader, entry: LogEntry, bytes: Uint8Array): void {
  if ((entry.flags & LogFlag.Discard) !== 0) {
    bytes.fill(0, entry.offBytes, entry.offBytes + entry.lenBytes);
  }
  let at = entry.offBytes;
  for (const piece of reader.data(entry)) {
    bytes.set(piece, at);
    at += piece.length;
  }
}

async function settle(): Promise<void> {
  for (let i = 0; i < 30; i++) await nextTurn();
}

const block = (value: number, bytes = 512): Buffer => Buffer.alloc(bytes, value);

test('a flush logs what had completed when it was issued, in order of completion, then itself', async () => {
  const rig = await makeRig();
  rig.data.isHeld = true;
  const writes = [1, 2, 3].map((n) => rig.driver.write(n * 512, block(n)));
  rig.data.completeOne(2);
  rig.data.completeOne(1);
  const flush = rig.driver.flush();
  assert.equal(rig.data.heldCount, 2);
  rig.data.completeOne(0);
  assert.equal(await rig.status(), '0 0', 'nothing is logged before the flush has ended');
  rig.data.completeOne(0);
  assert.equal(await flush, Status.Ok);
  await Promise.all(writes);
  await settle();
  assert.equal(logOrder(rig.log), 'W3 W2 F');
  rig.data.release();
  await rig.driver.flush();
  await settle();
  assert.equal(logOrder(rig.log), 'W3 W2 F W1 F');
  await rig.remove();
  assert.equal(logOrder(rig.log), 'W3 W2 F W1 F M:dm-log-writes-end');
});

test('of two flushes in flight, the one that ends first logs everything it vouches for', async () => {
  const rig = await makeRig();
  await rig.driver.write(512, block(1));
  rig.data.isHeld = true;
  const first = rig.driver.flush();
  const write = rig.driver.write(512, block(2));
  rig.data.completeOne(1);
  const second = rig.driver.flush();
  rig.data.completeOne(1);
  await second;
  rig.data.completeOne(0);
  await Promise.all([first, write]);
  await settle();
  assert.equal(logOrder(rig.log), 'W1 W1 F F');
  readLog(rig.log, (r) => {
    const values = [...r.entries()].slice(0, 2).map((e) => [...r.data(e)][0]?.[0]);
    assert.deepEqual(values, [1, 2], 'older data first');
  });
  rig.data.release();
  await rig.remove();
});

test('a FUA write is logged when it ends, behind the older writes that it overlaps', async () => {
  const rig = await makeRig();
  await rig.driver.write(0, block(1));
  await rig.driver.write(8 * 512, block(2, 4 * 512));
  await rig.driver.write(10 * 512, block(3, 4 * 512));
  await rig.driver.write(20 * 512, block(4), { flags: BioFlag.Fua });
  await settle();
  assert.equal(logOrder(rig.log), 'U20');
  await rig.driver.write(13 * 512, block(5), { flags: BioFlag.Fua });
  await settle();
  assert.equal(logOrder(rig.log), 'U20 W8 W10 U13', 'through a chain of overlaps');
  await rig.driver.flush();
  await settle();
  assert.equal(logOrder(rig.log), 'U20 W8 W10 U13 W0 F');
  await rig.remove();
});

test('a flush that fails logs nothing and leaves it to the next one', async () => {
  const rig = await makeRig();
  await rig.driver.write(512, block(1));
  rig.data.faults.flushErrorRate = 1;
  assert.equal(await rig.driver.flush(), Status.Io);
  await settle();
  assert.equal(await rig.status(), '0 0');
  rig.data.faults.flushErrorRate = 0;
  assert.equal(await rig.driver.flush(), Status.Ok);
  await settle();
  assert.equal(logOrder(rig.log), 'W1 F');
  await rig.remove();
});

test('discards, zeroes, metadata and marks are what they are in the log', async () => {
  const rig = await makeRig({ block: 4096 });
  await rig.driver.write(0, block(9, 8192), { flags: BioFlag.Meta });
  await rig.driver.discard(4096, 4096);
  await rig.driver.zero(0, 600 * 1024);
  await rig.t.dm.message('d', 0, 'mark hello');
  await rig.t.dm.message('d', 0, `MARK ${'x'.repeat(5000)}`);
  await rig.driver.flush();
  await settle();
  readLog(rig.log, (r) => {
    assert.equal(r.blockBytes, 4096);
    const all = [...r.entries()];
    // The pieces of the zeroes end in any order.
    all.push(...all.splice(4).sort((a, b) => a.flags - b.flags || a.offBytes - b.offBytes));
    assert.deepEqual(
      all.map((e) => [e.flags, e.offBytes, e.lenBytes, e.dataBytes]),
      [
        [LogFlag.Mark, 0, 0, 0],
        [LogFlag.Mark, 0, 0, 0],
        [LogFlag.Metadata, 0, 8192, 8192],
        [LogFlag.Discard, 4096, 4096, 0],
        [0, 0, 262144, 262144],
        [0, 262144, 262144, 262144],
        [0, 524288, 90112, 90112],
        [LogFlag.Flush, 0, 0, 0],
      ],
    );
    assert.equal(all[0]?.mark, 'hello');
    assert.equal(all[1]?.mark, 'x'.repeat(4096 - 33), 'a text that is too long is cut');
    const zeroes = [...r.data(all[6] as LogEntry)];
    assert.ok(zeroes.every((piece) => piece.every((b) => b === 0)));
  });
  await rig.t.dm.message('d', 0, 'mark behind');
  await rig.driver.write(4096, block(8, 4096), { flags: BioFlag.Fua });
  await settle();
  readLog(rig.log, (r) => {
    const last = [...r.entries()].slice(-2);
    assert.deepEqual(
      last.map((e) => [e.flags, e.offBytes, e.lenBytes, e.dataBytes, e.mark]),
      [
        [LogFlag.Mark, 0, 0, 0, 'behind'],
        [LogFlag.Fua, 4096, 4096, 4096, undefined],
      ],
    );
  });
  const fast = await rig.driver.zero(0, 4096, { flags: BioFlag.FastOnly });
  assert.equal(fast, Status.NotSupported);
  await rig.remove();
});

test('the super is rewritten, behind a flush of the log, for flush, FUA and mark only', async () => {
  const rig = await makeRig();
  const supers = (): number =>
    rig.log.seen.filter((b) => b.op === Op.Write && b.sector === 0).length;
  await rig.driver.write(0, block(1));
  await rig.driver.discard(512, 512);
  await settle();
  assert.equal(supers(), 0);
  await rig.driver.flush();
  await settle();
  assert.equal(supers(), 2, 'an empty one before the first entry, one behind the flush');
  await rig.driver.write(0, block(2), { flags: BioFlag.Fua });
  await settle();
  assert.equal(supers(), 3);
  await rig.t.dm.message('d', 0, 'mark m');
  assert.equal(supers(), 4, 'a mark is durable when the message returns');
  const { seen } = rig.log;
  for (const [i, bio] of seen.entries()) {
    if (bio.sector !== 0 || bio.op !== Op.Write) continue;
    assert.equal(bio.flags & BioFlag.Fua, BioFlag.Fua);
    assert.equal(seen[i - 1]?.op, Op.Flush);
  }
  await rig.remove();
  assert.equal(supers(), 5);
});

test('an older log on the device is gone before the first entry of the new one', async () => {
  const rig = await makeRig();
  for (let i = 0; i < 4; i++) await rig.driver.write(i * 512, block(1));
  await rig.driver.flush();
  await settle();
  await rig.t.dm.load('d', `0 ${LEN} log-writes ${rig.data.name} ${rig.log.name}`);
  await rig.t.dm.resume('d');
  assert.equal(logOrder(rig.log), 'W0 W1 W2 W3 F M:dm-log-writes-end', 'as long as nothing is new');
  rig.log.isHeld = true;
  await rig.driver.write(4 * 512, block(2));
  await rig.driver.flush();
  rig.log.completeOne(0);
  rig.log.completeOne(0);
  assert.equal(logOrder(rig.log), '', 'the super is durable, the entries are still held');
  assert.equal(rig.log.heldCount, 2);
  rig.log.release();
  await settle();
  assert.equal(logOrder(rig.log), 'W4 F');
  await rig.remove();
});

test('status, table and messages speak as the kernel does', async () => {
  const rig = await makeRig();
  assert.equal(await rig.status(), '0 0');
  assert.equal((await rig.t.dm.table('d'))[0]?.params, 'test:data test:log');
  await rig.driver.write(0, block(1, 1024));
  await rig.driver.flush();
  await settle();
  // The super, a header and two sectors of data, the flush.
  assert.equal(await rig.status(), '2 4');
  await assert.rejects(rig.t.dm.message('d', 0, 'mark'), /expect 2 arguments, got 1/);
  await assert.rejects(
    rig.t.dm.message('d', 0, 'bark x'),
    /Unrecognised log writes target message/,
  );
  const create = (table: string): Promise<unknown> => rig.t.dm.create({ name: 'x', table });
  await assert.rejects(create('0 8 log-writes test:data'), /Invalid argument count/);
  await assert.rejects(create('0 8 log-writes test:nosuch test:log'), /: Device lookup failed/);
  await assert.rejects(create('0 8 log-writes test:data test:nosuch'), /Log device lookup failed/);
  await assert.rejects(create('0 8 log-writes test:data test:data'), /is the device itself/);
  await rig.remove();
  assert.equal(rig.t.arena.usedBytes, 0, 'every buffer came back');
});

test('a table that is loaded and cleared leaves the log alone', async () => {
  const rig = await makeRig();
  await rig.driver.write(0, block(1));
  await rig.driver.flush();
  await settle();
  const before = Buffer.from(rig.log.bytes);
  await rig.t.dm.load('d', `0 ${LEN} log-writes ${rig.data.name} ${rig.log.name}`);
  await rig.t.dm.clear('d');
  assert.ok(before.equals(rig.log.bytes));
  await rig.remove();
});

test('suspending flushes the device, which the log does not show', async () => {
  const rig = await makeRig();
  const flushes = (): number => rig.data.seen.filter((b) => b.op === Op.Flush).length;
  await rig.driver.write(0, block(1));
  await rig.t.dm.suspend('d', { noflush: true });
  assert.equal(flushes(), 0);
  await rig.t.dm.resume('d');
  await rig.t.dm.suspend('d');
  assert.equal(flushes(), 1);
  await rig.t.dm.resume('d');
  assert.equal(await rig.status(), '0 0');
  await rig.remove();
  assert.equal(logOrder(rig.log), 'W0 M:dm-log-writes-end');
});

test('a full log ends logging, keeps what fits, tells of it, and the I/O goes on', async () => {
  const rig = await makeRig({ logSectors: 8 });
  const { eventNr } = await rig.t.dm.info('d');
  await rig.driver.write(0, block(1, 1024));
  await rig.driver.flush();
  for (let i = 0; i < 4; i++) await rig.driver.write(i * 512, block(7));
  await rig.driver.flush();
  await settle();
  assert.match(await rig.status(), /^3 6 logging_disabled$/);
  assert.equal((await rig.t.dm.info('d')).eventNr, eventNr + 1);
  assert.equal(logOrder(rig.log), 'W0 F W0', 'the last super counts all that found a place');
  assert.equal(await rig.driver.write(512, block(8)), Status.Ok);
  assert.equal(rig.data.bytes[512], 8);
  await assert.rejects(rig.t.dm.message('d', 0, 'mark late'), /logging is disabled/);
  await rig.remove();
  assert.equal(logOrder(rig.log), 'W0 F W0');
  assert.equal(rig.t.arena.usedBytes, 0);
});

test('a log that fails ends logging; its last super stays', async () => {
  const rig = await makeRig();
  await rig.driver.write(0, block(1));
  await rig.driver.flush();
  await settle();
  rig.log.badSectors.add(5);
  await rig.driver.write(0, block(2));
  await rig.driver.write(512, block(3));
  assert.equal(await rig.driver.flush(), Status.Ok);
  await settle();
  assert.match(await rig.status(), / logging_disabled$/);
  assert.equal(logOrder(rig.log), 'W0 F');
  assert.equal(await rig.driver.write(1024, block(4)), Status.Ok);
  await rig.remove();
  assert.equal(rig.t.arena.usedBytes, 0);
});

test('a log that fails where its super is: marks are refused', async () => {
  const rig = await makeRig();
  rig.log.badSectors.add(0);
  await assert.rejects(rig.t.dm.message('d', 0, 'mark m'), /logging is disabled/);
  await rig.remove();
  assert.equal(rig.t.arena.usedBytes, 0);
});

test('without a flush, writes go on in bounded memory, and the log has them in order', async () => {
  const rig = await makeRig();
  const limit = rig.t.arena.sizeBytes / 4 + 2 * (1 << 20);
  const count = 200;
  const bytes = 64 * 1024;
  let peak = 0;
  const lane = async (lane: number): Promise<void> => {
    for (let i = 0; i < count / 4; i++) {
      await rig.driver.write(lane * bytes, Buffer.alloc(bytes, i));
      peak = Math.max(peak, rig.t.arena.usedBytes - 4 * bytes);
    }
  };
  await Promise.all([0, 1, 2, 3].map(lane));
  assert.ok(peak < limit, `${peak} bytes held`);
  await rig.driver.flush();
  await settle();
  const copy = new Uint8Array(LEN * 512);
  readLog(rig.log, (r) => {
    for (const entry of r.entries()) apply(r, entry, copy);
    assert.equal(r.entryCount, count + 1);
  });
  assert.ok(Buffer.from(copy).equals(rig.data.bytes));
  await rig.remove();
});

test('with an arena that others have filled, writes get through one by one', async () => {
  const rig = await makeRig();
  const { arena } = rig.t;
  // Small chunks for the client's buffers, and nothing that a copy would fit in.
  const segments = Array.from({ length: 16 }, () => 4096);
  const small = Array.from({ length: 64 }, () => arena.tryAlloc(4096));
  const hoard: [number, number][] = [];
  for (const bytes of [1 << 20, 1 << 18, 1 << 16, 1 << 14, 1 << 12]) {
    for (let mem = arena.tryAlloc(bytes); mem !== NONE; mem = arena.tryAlloc(bytes)) {
      hoard.push([mem, bytes]);
    }
  }
  for (const mem of small) arena.free(mem, 4096);
  rig.data.isHeld = true;
  const writes = [0, 1, 2, 3].map((n) =>
    rig.driver.write(n * 65536, block(n, 65536), { segments }),
  );
  assert.equal(rig.data.heldCount, 1, 'one has the reserve, three wait');
  const flush = rig.driver.flush();
  assert.equal(rig.data.heldCount, 2, 'a flush needs no memory');
  rig.data.release();
  const ended = await Promise.all([...writes, flush]);
  assert.ok(ended.every((status) => status === Status.Ok));
  await rig.driver.flush();
  await settle();
  const order = logOrder(rig.log);
  assert.equal(order.replaceAll(/F ?/g, '').trim(), 'W0 W128 W256 W384', order);
  await rig.remove();
  for (const [mem, bytes] of hoard) arena.free(mem, bytes);
  assert.equal(arena.usedBytes, 0);
});

test(`replaying to a flush gives what had completed when it was issued (LAMINA_SEED=${SEED})`, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const rng = new Prng(SEED + round);
    const rig = await makeRig({ seed: SEED + round, block: rng.pick([512, 4096]) });
    const unit = rig.driver.device.limits.logicalBlockBytes;
    const model = Buffer.alloc(LEN * 512);
    const snapshots: Buffer[] = [];
    const lanes = 4;
    const blocks = model.length / unit / lanes;
    const lane = async (index: number): Promise<void> => {
      for (let i = 0; i < 40; i++) {
        const count = rng.between(1, 8);
        const off = (index * blocks + rng.below(blocks - count + 1)) * unit;
        const data = Buffer.alloc(count * unit, rng.between(1, 255));
        const kind = rng.unit();
        if (kind < 0.1) await rig.driver.discard(off, data.length);
        else if (kind < 0.2) await rig.driver.zero(off, data.length);
        else await rig.driver.write(off, data);
        if (kind < 0.2) data.fill(0);
        data.copy(model, off);
      }
    };
    const flusher = async (): Promise<void> => {
      for (let i = 0; i < 12; i++) {
        // Behind the microtasks that tell the model of what has completed.
        for (let n = rng.between(1, 9); n > 0; n--) await nextTurn();
        snapshots.push(Buffer.from(model));
        assert.equal(await rig.driver.flush(), Status.Ok);
      }
    };
    await Promise.all([...Array.from({ length: lanes }, (_, i) => lane(i)), flusher()]);
    const last = Buffer.from(rig.data.bytes);
    await rig.remove();
    const what = `seed ${SEED} round ${round}`;
    const state = new Uint8Array(LEN * 512);
    readLog(rig.log, (reader) => {
      let flushes = 0;
      for (const entry of reader.entries()) {
        apply(reader, entry, state);
        if ((entry.flags & LogFlag.Flush) === 0) continue;
        const expected = snapshots[flushes++] as Buffer;
        assert.ok(expected.equals(state), `${what}: flush ${flushes}`);
      }
      assert.equal(flushes, snapshots.length);
    });
    assert.ok(last.equals(state), `${what}: at the end`);
    assert.ok(last.equals(model), `${what}: the model`);
  }
});

test(`with FUA writes among them as well, one at a time (LAMINA_SEED=${SEED})`, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const rng = new Prng(SEED ^ (round + 77));
    const rig = await makeRig({ seed: SEED + round });
    const snapshots: Buffer[] = [];
    for (let i = 0; i < 150; i++) {
      const off = rng.below(64) * 512;
      const data = block(i, rng.between(1, 16) * 512);
      const kind = rng.unit();
      if (kind < 0.2) snapshots.push(Buffer.from(rig.data.bytes));
      if (kind < 0.1) await rig.driver.flush();
      else {
        const flags = kind < 0.2 ? BioFlag.Preflush : kind < 0.5 ? BioFlag.Fua : 0;
        await rig.driver.write(off, data, { flags });
      }
    }
    await rig.remove();
    const state = new Uint8Array(LEN * 512);
    readLog(rig.log, (reader) => {
      for (const entry of reader.entries()) {
        apply(reader, entry, state);
        if ((entry.flags & LogFlag.Flush) === 0) continue;
        const expected = snapshots.shift();
        assert.ok(expected?.equals(state), `seed ${SEED} round ${round}: entry ${entry.index}`);
      }
      assert.equal(snapshots.length, 0);
    });
    assert.ok(Buffer.from(rig.data.bytes).equals(state), `seed ${SEED} round ${round}: at the end`);
  }
});
