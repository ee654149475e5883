// Checks of what comes back: data, zeroes, discards, edges, and progress when resources are short.

import { BioFlag } from '../../bio/bio.ts';
import { Status, statusName } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { NONE } from '../../io/arena.ts';
import type { Check } from './check.ts';
import { drawLoad, geometryOf, Load, type LoadOp } from './load.ts';
import { fail, type Rig } from './rig.ts';

const MIX = { read: 40, write: 40, zero: 8, discard: 6, flush: 6 } as const;

const data: Check = {
  name: 'data',
  about: 'a read returns what was last written, under overlapping I/O of all kinds',
  draw: (rng, geometry, scale) => [
    ...drawLoad(rng, geometry, { count: 60 * scale, mix: MIX }),
    ...drawLoad(rng, geometry, { count: 40 * scale, mix: MIX, withinSectors: 64 }),
  ],
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 16 });
      await load.run(ops);
      await load.checkAll();
    });
  },
};

const progress: Check = {
  name: 'progress',
  about: 'large I/O across everything ends with one clone a device',
  needs: ['simulation'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, {
      count: 12 * scale,
      mix: { read: 2, write: 3, zero: 1, discard: 1, flush: 2 },
      maxSectors: 1024,
      isPlain: true,
    }),
  async run(stage, ops) {
    await stage.withRig({ clonesMax: 1 }, async (rig) => {
      const load = new Load(rig, { depth: 12 });
      await load.run(ops);
      await load.checkAll();
    });
  },
};

const PRESSURE_SECTORS = 24;

const memory: Check = {
  name: 'memory',
  about: 'I/O goes on, slower, when hardly a buffer is left',
  needs: ['simulation'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, {
      count: 40 * scale,
      mix: { read: 3, write: 6, flush: 2 },
      maxSectors: PRESSURE_SECTORS,
      isPlain: true,
    }),
  async run(stage, ops) {
    await stage.withRig({ clonesMax: 2 }, async (rig) => {
      const release = hogMemory(rig, 5);
      try {
        const load = new Load(rig, { depth: 4 });
        await load.run(ops);
      } finally {
        release();
      }
      // The check of the whole wants larger buffers.
      if (rig.driver.pending.size > 0) fail('bios are left over');
    });
  },
};

/** Takes all buffers but a few of 16 KiB. */
function hogMemory(rig: Rig, spare: number): () => void {
  const { arena } = rig;
  const taken: { readonly mem: number; readonly bytes: number }[] = [];
  const take = (bytes: number): boolean => {
    const mem = arena.tryAlloc(bytes);
    if (mem !== NONE) taken.push({ mem, bytes });
    return mem !== NONE;
  };
  const small = 1 << 14;
  const spares = Array.from({ length: spare }, () => arena.tryAlloc(small));
  // Also what is left of slabs that are cut already.
  for (const bytes of [1 << 20, 1 << 18, 1 << 16, small, 1 << 12]) while (take(bytes));
  for (const mem of spares) if (mem !== NONE) arena.free(mem, small);
  return () => {
    for (const { mem, bytes } of taken) arena.free(mem, bytes);
  };
}

function op(kind: LoadOp['kind'], sector: number, lenSectors: number): LoadOp {
  return { kind, sector, lenSectors, flags: 0, segments: [] };
}

const edges: Check = {
  name: 'edges',
  about: 'first and last block, the whole device; I/O past the end is refused and changes nothing',
  draw: (_rng, { lenSectors, blockSectors }) => {
    const all = Math.min(lenSectors, 1024);
    return [
      op('write', 0, blockSectors),
      op('write', lenSectors - blockSectors, blockSectors),
      op('read', 0, all),
      op('zero', lenSectors - blockSectors, blockSectors),
      op('write', lenSectors - all, all),
      op('read', lenSectors - blockSectors, blockSectors),
      op('discard', 0, lenSectors),
      op('write', 0, all),
    ];
  },
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 1 });
      await load.run(ops);
      await pastTheEnd(rig);
      await load.checkAll();
    });
  },
};

async function pastTheEnd(rig: Rig): Promise<void> {
  // Backends trust their callers; a mapped device looks.
  if (rig.lab === null) return;
  const { lenSectors, blockSectors } = geometryOf(rig.device);
  const from = (lenSectors - blockSectors) * SECTOR_BYTES;
  const len = 2 * blockSectors * SECTOR_BYTES;
  const results = await rig.settle(
    Promise.all([
      rig.driver.write(from, new Uint8Array(len).fill(0xee)),
      rig.driver.tryRead(from, len),
      rig.driver.zero(from, len),
      rig.driver.discard(from, len),
    ]),
  );
  for (const result of results) {
    if (typeof result !== 'number' || result === Status.Ok) {
      fail(`I/O of ${2 * blockSectors} sectors at the last block succeeded`);
    }
  }
  // The mapper's own refusals, not those of a disk.
  forgive(rig);
}

function forgive(rig: Rig): void {
  const violations = rig.lab?.violations;
  if (violations === undefined) return;
  const kept = violations.filter((v) => !v.endsWith('but no disk failed it'));
  violations.splice(0, violations.length, ...kept);
}

const zeroes: Check = {
  name: 'zeroes',
  about: 'write-zeroes and discards touch their range and nothing beside it',
  draw: (rng, geometry, scale) => {
    const within = { withinSectors: 128, isPlain: true } as const;
    const base = drawLoad(rng, geometry, { count: 12, mix: { write: 1 }, ...within });
    const punch = drawLoad(rng, geometry, {
      count: 30 * scale,
      mix: { zero: 4, discard: 3, write: 2, read: 3 },
      maxSectors: 48,
      ...within,
    });
    return [...base, ...punch];
  },
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 2 });
      await load.run(ops);
      await load.checkAll();
      await fastZeroes(rig, load);
    });
  },
};

const extents: Check = {
  name: 'extents',
  about: 'block status never calls data a hole, covers what it is asked for, and makes progress',
  draw: (rng, geometry, scale) => [
    ...drawLoad(rng, geometry, { count: 2, mix: { extents: 1 }, maxSectors: geometry.lenSectors }),
    ...drawLoad(rng, geometry, {
      count: 40 * scale,
      mix: { extents: 5, write: 3, zero: 3, discard: 2, read: 1 },
      isPlain: true,
    }),
  ],
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 4 });
      await load.run(ops);
      // All of it once more, while nothing is on its way.
      const all = op('extents', 0, rig.device.lenSectors);
      await rig.settle(load.one(all));
    });
  },
};

/** "Only if it is quick" zeroes, or refuses and has zeroed or left what was there. */
async function fastZeroes(rig: Rig, load: Load): Promise<void> {
  const { blockSectors } = geometryOf(rig.device);
  const place = { sector: 0, lenSectors: blockSectors, segments: [] };
  await rig.settle(load.one({ kind: 'write', flags: 0, ...place }));
  await rig.settle(load.one({ kind: 'zero', flags: BioFlag.FastOnly, ...place }));
  await rig.settle(load.one({ kind: 'read', flags: 0, ...place }));
}

const stable: Check = {
  name: 'stable',
  about: 'what is not written does not change: reading twice gives the same',
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, { count: 60 * scale, mix: { read: 1 }, isPlain: true }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 4 });
      await load.run(drawLoad(stage.rng, geometryOf(rig.device), { count: 20, mix: { write: 1 } }));
      await load.run(ops);
      await load.run(ops);
      if (load.failed > 0) fail(`reads: ${statusName(Status.Io)}`);
    });
  },
};

export const DATA_CHECKS: readonly Check[] = [
  data,
  edges,
  zeroes,
  extents,
  stable,
  progress,
  memory,
];
