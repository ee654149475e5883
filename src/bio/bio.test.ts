// Bios, vectors, sets and the two loops. Runs as a release and as a debug build: what the debug build
// must stop at, it stops at; the release build does not look.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { debugBuild } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { Arena } from '../io/arena.ts';
import { Bio, BioFlag, borrowContext, chain, forEachSegment, Op, shareContext } from './bio.ts';
import { BioSet } from './bio-set.ts';
import { IoContext, systemContext } from './context.ts';
import type { BlockDevice } from './device.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import { endBio, submitBio } from './submit.ts';
import { BioVec, NO_VEC } from './vec.ts';
import { WorkQueue } from './work-queue.ts';

/** A device whose `submit` is the test's. */
function device(name: string, submit: (bio: Bio) => void): BlockDevice {
  return {
    name,
    lenSectors: 1 << 20,
    isReadOnly: false,
    limits: DEFAULT_LIMITS,
    submit,
    extents: () => Promise.resolve([]),
  };
}

const nowhere = device('nowhere', () => {});

/** A bio over segments of these lengths, at made-up places, and how often it has ended. */
function bioOver(lens: readonly number[], op: Op = Op.Write): { bio: Bio; ends: Status[] } {
  const ends: Status[] = [];
  const mems = lens.map((_, i) => i * 65536);
  const vec = lens.length === 0 ? NO_VEC : new BioVec(mems, lens, ends);
  const bio = new Bio();
  bio.init(op, nowhere, 100, vec.lenBytes, vec, systemContext, {
    bioEnd: (b) => ends.push(b.status),
  });
  return { bio, ends };
}

/** Debug builds stop; release builds do not look. */
function stops(why: RegExp, abuse: () => void): void {
  if (debugBuild) assert.throws(abuse, why);
  else assert.doesNotThrow(abuse);
}

function pieces(bio: Bio): [number, number][] {
  const result: [number, number][] = [];
  forEachSegment(bio, (mem, len) => result.push([mem, len]));
  return result;
}

const sectorLens = fc.array(
  fc.integer({ min: 1, max: 20 }).map((n) => n * 512),
  { minLength: 1, maxLength: 8 },
);

test('splitting anywhere, again and again, covers every byte once and in order', () => {
  fc.assert(
    fc.property(sectorLens, fc.array(fc.nat(), { maxLength: 10 }), (lens, cuts) => {
      const { bio, ends } = bioOver(lens);
      const whole = pieces(bio).flatMap(([mem, len]) =>
        Array.from({ length: len / 512 }, (_, i) => mem + i * 512),
      );
      const set = new BioSet({ name: 't', reserve: 1, max: 100 });
      const fronts: Bio[] = [];
      for (const cut of cuts) {
        const sectors = bio.lenBytes / 512;
        if (sectors < 2) break;
        const front = set.trySplit(bio, 1 + (cut % (sectors - 1)));
        assert.ok(front !== null);
        assert.equal(front.vec, bio.vec);
        fronts.push(front);
      }
      const parts = [...fronts, bio];
      let sector = 100;
      for (const part of parts) {
        assert.equal(part.sector, sector);
        sector += part.lenSectors;
      }
      const covered = parts.flatMap((part) =>
        pieces(part).flatMap(([mem, len]) =>
          Array.from({ length: len / 512 }, (_, i) => mem + i * 512),
        ),
      );
      assert.deepEqual(covered, whole);
      endBio(bio, Status.Ok);
      assert.equal(ends.length, fronts.length === 0 ? 1 : 0);
      for (const front of fronts) endBio(front, Status.Ok);
      assert.deepEqual(ends, [Status.Ok]);
      assert.equal(set.outstanding, 0);
    }),
  );
});

test('a parent ends once, after all its children, with the first error', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(0, 5, 28), { minLength: 1, maxLength: 6 }), (statuses) => {
      const { bio, ends } = bioOver([512]);
      const set = new BioSet({ name: 't', reserve: 1, max: 10 });
      const children = statuses.map(() => set.tryClone(bio) as Bio);
      endBio(bio, Status.Ok);
      for (const [i, child] of children.entries()) {
        assert.deepEqual(ends, []);
        endBio(child, statuses[i] as Status);
      }
      assert.deepEqual(ends, [statuses.find((s) => s !== 0) ?? 0]);
    }),
  );
});

test('a set gives what it has, keeps its reserve and wakes the oldest waiter first', () => {
  const set = new BioSet({ name: 't', reserve: 2 });
  const { bio } = bioOver([1024]);
  const first = set.tryClone(bio) as Bio;
  const second = set.tryClone(bio) as Bio;
  assert.equal(set.tryClone(bio), null);
  assert.equal(set.trySplit(bio, 1), null);
  assert.equal(bio.lenBytes, 1024, 'a refused split changes nothing');
  const woken: string[] = [];
  set.whenFree(() => woken.push('a'));
  set.whenFree(() => woken.push('b'));
  endBio(second, Status.Ok);
  assert.deepEqual(woken, ['a']);
  endBio(first, Status.Ok);
  assert.deepEqual(woken, ['a', 'b']);
});

test('lower devices run first, then the same device, then what was waiting', () => {
  const order: string[] = [];
  const lower = device('lower', (bio) => {
    order.push(`lower ${bio.sector}`);
    endBio(bio, Status.Ok);
  });
  const { bio, ends } = bioOver([4096]);
  const set = new BioSet({ name: 't', reserve: 1, max: 10 });
  const upper = device('upper', (b) => {
    order.push(`upper ${b.sector}`);
    if (b.lenSectors === 1) {
      endBio(b, Status.Ok);
      return;
    }
    const front = set.trySplit(b, 1) as Bio;
    submitBio(b);
    front.device = lower;
    submitBio(front);
  });
  bio.device = upper;
  submitBio(bio);
  const expected: string[] = [];
  for (let s = 100; s < 107; s++) expected.push(`upper ${s}`, `lower ${s}`);
  assert.deepEqual(order, [...expected, 'upper 107']);
  assert.deepEqual(ends, [Status.Ok]);
});

test('ending a long chain and submitting from ends does not recurse', () => {
  const set = new BioSet({ name: 't', reserve: 1, max: 100_000 });
  const { bio, ends } = bioOver([512]);
  let last = bio;
  for (let i = 0; i < 50_000; i++) last = set.tryClone(last) as Bio;
  let b: Bio | null = last;
  while (b !== null) {
    const parent: Bio | null = b.parent;
    endBio(b, Status.Ok);
    b = parent;
  }
  assert.deepEqual(ends, [Status.Ok]);
  let left = 50_000;
  const instant = device('instant', (x) => endBio(x, Status.Ok));
  const again = new Bio();
  const owner = {
    bioEnd: (x: Bio): void => {
      if (--left === 0) return;
      x.init(Op.Flush, instant, 0, 0, NO_VEC, systemContext, owner);
      submitBio(x);
    },
  };
  again.init(Op.Flush, instant, 0, 0, NO_VEC, systemContext, owner);
  submitBio(again);
  assert.equal(left, 0);
});

test('a deep clone has data of its own', () => {
  const arena = new Arena(1 << 20);
  const mem = arena.tryAlloc(4096);
  const copy = arena.tryAlloc(4096);
  arena.u8.fill(7, mem, mem + 4096);
  const ends: Status[] = [];
  const vec = new BioVec([mem + 100, mem + 2048], [924, 100], ends);
  const bio = new Bio();
  bio.init(Op.Write, nowhere, 0, 1024, vec, systemContext, { bioEnd: (b) => ends.push(b.status) });
  const set = new BioSet({ name: 't', reserve: 1 });
  const clone = set.tryDeepClone(bio, arena.u8, copy, set) as Bio;
  clone.vec.writableBytes(arena.u8, 0, set).fill(9);
  assert.equal(arena.u8[mem + 100], 7);
  assert.equal(arena.u8[copy], 9);
  assert.equal(clone.lenBytes, 1024);
  endBio(clone, Status.Ok);
  endBio(bio, Status.Ok);
  assert.deepEqual(ends, [Status.Ok]);
});

test('clones borrow the context, others take a reference that their end drops', () => {
  const ctx = new IoContext({ name: 'c' });
  const bio = new Bio();
  bio.init(Op.Flush, nowhere, 0, 0, NO_VEC, ctx, { bioEnd: () => {} });
  assert.equal(ctx.refs, 2);
  const set = new BioSet({ name: 't', reserve: 1 });
  const clone = set.tryClone(bio) as Bio;
  assert.equal(clone.ctx, ctx);
  assert.equal(ctx.refs, 2);
  const metadata = new Bio();
  metadata.init(Op.Flush, nowhere, 0, 0, NO_VEC, systemContext, { bioEnd: () => {} });
  shareContext(metadata, bio);
  assert.equal(ctx.refs, 3);
  endBio(clone, Status.Ok);
  endBio(bio, Status.Ok);
  assert.equal(ctx.refs, 2);
  assert.equal(metadata.ctx, ctx);
  endBio(metadata, Status.Ok);
  assert.equal(ctx.refs, 1);
});

test('a borrowed context on something that is not a clone stops every build', () => {
  const { bio } = bioOver([512]);
  assert.throws(() => borrowContext(new Bio(), bio), /which it is not a clone of/);
});

test('the debug build stops at a double end', () => {
  const { bio } = bioOver([512]);
  endBio(bio, Status.Ok);
  if (debugBuild) assert.throws(() => endBio(bio, Status.Ok), /ended twice/);
});

test('the debug build stops at a source that ends before its clones', () => {
  const { bio } = bioOver([512]);
  const set = new BioSet({ name: 't', reserve: 1 });
  assert.ok(set.tryClone(bio, set, false) !== null);
  stops(/ended before 1 of its clones/, () => endBio(bio, Status.Ok));
});

test('the debug build stops at a vector changed by one who does not own it', () => {
  const arena = new Arena(1 << 20);
  const owner = {};
  const vec = new BioVec([0], [512], owner);
  assert.equal(vec.writableBytes(arena.u8, 0, owner).length, 512);
  stops(/one who did not allocate it/, () => vec.writableBytes(arena.u8, 0, {}));
  stops(/read only|not extensible|frozen|Cannot assign/, () => {
    (vec.mems as number[])[0] = 4096;
  });
});

test('the debug build stops at use after free', () => {
  const set = new BioSet({ name: 't', reserve: 1 });
  const { bio } = bioOver([512]);
  const clone = set.tryClone(bio) as Bio;
  endBio(clone, Status.Ok);
  if (!debugBuild) return;
  assert.ok(Number.isNaN(clone.sector));
  assert.throws(() => submitBio(clone), /submitted after it was freed/);
  assert.throws(() => set.free(clone), /freed twice/);
});

test('the debug build stops at a child chained twice, or to a bio that has ended', () => {
  const { bio } = bioOver([512]);
  const { bio: child } = bioOver([512]);
  chain(child, bio);
  stops(/chained twice/, () => chain(child, bio));
  const { bio: over } = bioOver([512]);
  endBio(over, Status.Ok);
  stops(/to a bio that has ended/, () => chain(bioOver([512]).bio, over));
});

test('frames give every layer its bio back as it sent it', () => {
  const { bio, ends } = bioOver([512, 1024]);
  const seen: [number, number][] = [];
  const hook = {
    bioPopped: (b: Bio): boolean => {
      seen.push([b.sector, b.lenBytes]);
      return true;
    },
  };
  bio.pushFrame(hook);
  bio.sector = 7;
  bio.advance(512);
  bio.pushFrame(hook);
  bio.flags = BioFlag.Fua;
  bio.advance(512);
  endBio(bio, Status.Ok);
  assert.deepEqual(seen, [
    [8, 1024],
    [100, 1536],
  ]);
  assert.deepEqual(ends, [Status.Ok]);
});

test('a work queue runs in order, within its bound, and stops and drains', async () => {
  const queue = new WorkQueue({ name: 'q', runningMax: 2 });
  const started: number[] = [];
  const finish: (() => void)[] = [];
  for (let i = 0; i < 5; i++) {
    queue.push(async () => {
      started.push(i);
      await new Promise<void>((resolve) => finish.push(resolve));
    });
  }
  assert.deepEqual(started, [0, 1]);
  const stopped = queue.stop();
  finish.shift()?.();
  finish.shift()?.();
  await stopped;
  assert.deepEqual(started, [0, 1], 'nothing new while stopped');
  queue.start();
  assert.deepEqual(started, [0, 1, 2, 3]);
  const drained = queue.drain();
  for (let i = 0; i < 3; i++) {
    finish.shift()?.();
    await new Promise((r) => setImmediate(r));
  }
  await drained;
  assert.equal(queue.length, 0);
});
