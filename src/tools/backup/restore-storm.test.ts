// Restores of random chains that end in the middle: killed, by a loss of power, for want of space, over streams that are
// damaged. However one ends, every sector has what it had or what a backup of the chain says; and a resume makes it whole.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { Disk } from '../../bio/disk.ts';
import { SEED } from '../../testing/seed.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { makeTestMapper, type TestMapper } from '../../testing/test-mapper.ts';
import { applyBackup } from './apply.ts';
import { checkChain } from './chain.ts';
import { sourceOf } from '../../testing/backup-source.ts';
import { findStrange } from './resume-proof.ts';
import { BackupReader } from './stream-reader.ts';
import { type BackupInfo, BackupWriter } from './stream-writer.ts';
import { type ChangedBlocks, changedParts, takeBackup, wholeVolume } from './take.ts';

const SECTOR = 512;
const BLOCK = 16 * 1024;
const DEVICE = 64 * BLOCK;
const ROUNDS = 16;
const STREAM = 'the stream';

interface Link {
  readonly info: BackupInfo;
  readonly stream: Buffer;
  /** What the volume has then. */
  readonly image: Buffer;
}

function diskOf(lab: TestMapper, image: Uint8Array, name: string): { sim: SimDisk; disk: Disk } {
  const lenSectors = image.length / SECTOR;
  const sim = lab.addDisk({ name, lenSectors, image: Uint8Array.from(image) });
  return { sim, disk: new Disk(sim, lab.arena, async () => await Promise.resolve()) };
}

/** Changes some blocks, and perhaps the size; answers which blocks of the smaller size have changed. */
function change(prng: Prng, before: Buffer): { image: Buffer; changes: ChangedBlocks[] } {
  const size = prng.chance(0.4) ? prng.between(8, 64) * BLOCK : before.length;
  const image = Buffer.alloc(size);
  before.copy(image);
  const changed = new Map<number, boolean>();
  for (let i = prng.below(12); i > 0; i--) {
    const block = prng.below(size / BLOCK);
    const part = image.subarray(block * BLOCK, (block + 1) * BLOCK);
    const isZero = prng.chance(0.3);
    if (isZero) part.fill(0);
    else prng.fill(part.subarray(0, SECTOR * prng.between(1, BLOCK / SECTOR)));
    if (block * BLOCK < before.length) changed.set(block, isZero);
  }
  const blocks = [...changed].sort(([a], [b]) => a - b);
  return { image, changes: blocks.map(([begin, isZero]) => ({ begin, length: 1, isZero })) };
}

async function backup(
  image: Buffer,
  base: Link | undefined,
  changes: ChangedBlocks[],
  id: string,
): Promise<Link> {
  const lab = makeTestMapper(SEED, 8);
  const { disk } = diskOf(lab, image, 'test:from');
  const info: BackupInfo = {
    volume: 'vol',
    sizeBytes: image.length,
    blockBytes: BLOCK,
    madeAtMs: 0,
    state: id,
    base: base && { state: base.info.state, sizeBytes: base.image.length },
  };
  const parts: Buffer[] = [];
  const writer = new BackupWriter(async (bytes) => {
    parts.push(Buffer.from(bytes));
    return await Promise.resolve();
  });
  const all =
    base === undefined
      ? wholeVolume(disk)
      : changedParts(disk, base.image.length, listed(changes), BLOCK);
  await writer.header(info);
  const copying = { progress: () => undefined, signal: new AbortController().signal };
  await lab.scheduler.settle(takeBackup(disk, all, writer, copying));
  return { info, stream: Buffer.concat(parts), image };
}

async function* listed(changes: readonly ChangedBlocks[]): AsyncGenerator<ChangedBlocks> {
  yield* await Promise.resolve(changes);
}

async function makeChain(prng: Prng): Promise<Link[]> {
  let image: Buffer = Buffer.alloc(prng.between(8, 64) * BLOCK);
  const links: Link[] = [];
  for (let i = 0; i < 4; i++) {
    const { image: next, changes } = change(prng, image);
    image = next;
    links.push(await backup(image, links.at(-1), changes, `state ${i}`));
  }
  checkChain(
    links.map(({ info }) => ({ name: info.state, info })),
    undefined,
  );
  return links;
}

interface Restore {
  readonly isResumed: boolean;
  /** In place of a link's stream. */
  readonly damaged?: ReadonlyMap<number, Uint8Array>;
  readonly signal?: AbortSignal;
  readonly onRecord?: () => void;
}

/** As `lamina thin restore` does it. */
async function restore(links: readonly Link[], disk: Disk, how: Restore): Promise<void> {
  const sizeBytes = links.at(-1)?.image.length ?? 0;
  const signal = how.signal ?? new AbortController().signal;
  const progress = how.onRecord ?? ((): void => undefined);
  for (const [i, { stream }] of links.entries()) {
    const reader = await BackupReader.open(STREAM, sourceOf(how.damaged?.get(i) ?? stream));
    const { isResumed } = how;
    await applyBackup(reader, disk, { isResumed, progress, signal, sizeBytes });
  }
  await disk.flush();
}

/** Every sector has what it had before, or what a link says. */
function refuseInvented(
  links: readonly Link[],
  before: Uint8Array,
  now: Uint8Array,
  name: string,
): void {
  const sector = (bytes: Uint8Array, at: number): Buffer =>
    Buffer.from(bytes.buffer, bytes.byteOffset + at, SECTOR);
  for (let at = 0; at < DEVICE; at += SECTOR) {
    const found = sector(now, at);
    const isKnown =
      found.equals(sector(before, at)) ||
      links.some(({ image }) => at < image.length && found.equals(sector(image, at)));
    assert.ok(isKnown, `${name}: byte ${at} has what no backup says`);
  }
}

/** Whether a resume may take the device for that of a restore of this chain. */
async function strangeIn(
  links: readonly Link[],
  lab: TestMapper,
  disk: Disk,
): Promise<number | undefined> {
  const sizeBytes = links.at(-1)?.image.length ?? 0;
  const { signal } = new AbortController();
  const look = async (): Promise<number | undefined> => {
    const readers: BackupReader[] = [];
    for (const { stream } of links) {
      readers.push(await BackupReader.open(STREAM, sourceOf(stream)));
    }
    return await findStrange(readers, disk, { progress: () => undefined, signal, sizeBytes });
  };
  return await lab.scheduler.settle(look());
}

/** The first sector that is not zeros, and that no link has at its place. */
function strangeByte(links: readonly Link[], now: Uint8Array): number | undefined {
  const size = links.at(-1)?.image.length ?? 0;
  const bytes = Buffer.from(now.buffer, now.byteOffset, now.length);
  for (let at = 0; at < size; at += SECTOR) {
    const found = bytes.subarray(at, at + SECTOR);
    const isKnown =
      found.every((byte) => byte === 0) ||
      links.some(({ image }) => at < image.length && found.equals(image.subarray(at, at + SECTOR)));
    if (!isKnown) return at;
  }
  return undefined;
}

/** Ends a restore in the middle; answers what the device has then. */
type Ending = (run: {
  readonly prng: Prng;
  readonly lab: TestMapper;
  readonly links: readonly Link[];
  readonly sim: SimDisk;
  readonly disk: Disk;
}) => Promise<Uint8Array>;

const ENDINGS: Record<string, Ending> = {
  killed: async ({ prng, lab, links, sim, disk }) => {
    const aborter = new AbortController();
    let left = prng.below(12);
    const onRecord = (): void => {
      if (left-- === 0) aborter.abort();
    };
    const work = restore(links, disk, { isResumed: false, signal: aborter.signal, onRecord });
    await lab.scheduler.settle(work.catch(refuseBug));
    return sim.bytes;
  },
  'power lost': async ({ prng, lab, links, sim, disk }) => {
    let cut: (image: Uint8Array) => void = () => undefined;
    const image = new Promise<Uint8Array>((resolve) => {
      cut = resolve;
    });
    let left = prng.below(12);
    const onRecord = (): void => {
      if (left-- === 0) cut(sim.powerCut(prng, 0.5, 0.3));
    };
    const work = restore(links, disk, { isResumed: false, onRecord });
    return await lab.scheduler.settle(Promise.race([image, work.then(() => sim.bytes)]));
  },
  'no space': async ({ prng, lab, links, sim, disk }) => {
    sim.faults.spaceSectors = prng.below(600);
    sim.faults.status = Status.NoSpace;
    const work = restore(links, disk, { isResumed: false });
    await lab.scheduler.settle(work.catch(refuseBug));
    return sim.bytes;
  },
  'a byte changed': async (run) => {
    const damaged = damage(run.prng, run.links, (prng, stream) => {
      const at = prng.below(stream.length);
      stream[at] = (stream[at] ?? 0) ^ prng.between(1, 255);
      return stream;
    });
    return await refused(run, damaged);
  },
  'cut off': async (run) => {
    const damaged = damage(run.prng, run.links, (prng, stream) =>
      stream.subarray(0, prng.below(stream.length)),
    );
    return await refused(run, damaged);
  },
};

function refuseBug(error: unknown): void {
  assert.ok(error instanceof DmError, String(error));
}

function damage(
  prng: Prng,
  links: readonly Link[],
  how: (prng: Prng, stream: Buffer) => Buffer,
): Map<number, Buffer> {
  const which = prng.below(links.length);
  return new Map([[which, how(prng, Buffer.from(links[which]?.stream ?? ''))]]);
}

async function refused(
  { lab, links, sim, disk }: Parameters<Ending>[0],
  damaged: ReadonlyMap<number, Uint8Array>,
): Promise<Uint8Array> {
  const work = restore(links, disk, { isResumed: false, damaged });
  await lab.scheduler.settle(assert.rejects(work, /^DmError: the stream: /));
  return sim.bytes;
}

for (const [name, end] of Object.entries(ENDINGS)) {
  test(`a restore that ends in the middle is resumed: ${name}, LAMINA_SEED=${SEED}`, async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const seed = SEED + 1000 * round;
      const prng = new Prng(seed);
      const links = await makeChain(prng);
      let now: Uint8Array = new Uint8Array(DEVICE);
      const isBlank = prng.chance(0.5);
      if (!isBlank) prng.fill(now);
      // Once more before it is whole: a resume may be interrupted, too.
      for (let tries = prng.between(1, 3); tries > 0; tries--) {
        const lab = makeTestMapper(seed, 8);
        const { sim, disk } = diskOf(lab, now, 'test:to');
        const after = await end({ prng, lab, links, sim, disk });
        refuseInvented(links, now, after, `seed ${seed}`);
        now = after;
      }
      const lab = makeTestMapper(seed, 8);
      const { sim, disk } = diskOf(lab, now, 'test:to');
      const strange = await strangeIn(links, lab, disk);
      assert.equal(strange, strangeByte(links, now), `seed ${seed}`);
      if (isBlank) assert.equal(strange, undefined, `seed ${seed}`);
      await lab.scheduler.settle(restore(links, disk, { isResumed: true }));
      const expected = links.at(-1)?.image ?? Buffer.alloc(0);
      const durable = sim.powerCut(prng, 0, 0).subarray(0, expected.length);
      assert.ok(expected.equals(durable), `seed ${seed}: it is not what was backed up`);
      assert.deepEqual(lab.violations, []);
    }
  });
}
