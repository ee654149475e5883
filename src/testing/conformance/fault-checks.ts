// Checks of what happens when disks fail, and while devices are suspended.

import { Status, statusName } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import type { SimDisk } from '../sim/disk.ts';
import type { Check } from './check.ts';
import { drawLoad, Load } from './load.ts';
import { fail, type Rig } from './rig.ts';

const MIX = { read: 40, write: 40, zero: 6, discard: 4, flush: 10 } as const;
const STATUSES = [Status.Io, Status.NoSpace, Status.TimedOut, Status.BadMessage] as const;

function disksOf(rig: Rig): SimDisk[] {
  return [...(rig.lab?.disks.values() ?? [])];
}

const errors: Check = {
  name: 'errors',
  about: 'an error reaches the bio it belongs to, as it is, and no other',
  needs: ['simulation', 'steady'],
  draw: (rng, geometry, scale) => drawLoad(rng, geometry, { count: 80 * scale, mix: MIX }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const { rng } = stage;
      for (const disk of disksOf(rig)) {
        disk.faults.status = rng.pick(STATUSES);
        const rate = (): number => rng.pick([0, 0.02, 0.2]);
        disk.faults.readErrorRate = rate();
        disk.faults.writeErrorRate = rate();
        disk.faults.flushErrorRate = rate();
        for (let n = rng.below(4); n > 0; n--) disk.badSectors.add(rng.below(disk.lenSectors));
      }
      const load = new Load(rig, { depth: 12, mayFail: true });
      await load.run(ops);
      for (const disk of disksOf(rig)) heal(disk);
      await load.checkAll();
    });
  },
};

function heal(disk: SimDisk): void {
  disk.badSectors.clear();
  Object.assign(disk.faults, { readErrorRate: 0, writeErrorRate: 0, flushErrorRate: 0 });
  disk.faults.isGone = false;
  disk.faults.spaceSectors = Number.POSITIVE_INFINITY;
}

const noSpace: Check = {
  name: 'no-space',
  about: 'a full disk answers ENOSPC to the writes that do not fit, and stays readable',
  needs: ['simulation', 'steady'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, { count: 60 * scale, mix: { write: 5, read: 3, flush: 1 } }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      for (const disk of disksOf(rig)) {
        disk.faults.spaceSectors = stage.rng.below(disk.lenSectors);
      }
      const load = new Load(rig, { depth: 8, mayFail: true });
      await load.run(ops);
      await load.checkAll();
    });
  },
};

const gone: Check = {
  name: 'gone',
  about: 'while a disk is unplugged I/O to it fails and does not hang; afterwards all is as before',
  needs: ['simulation', 'steady'],
  draw: (rng, geometry, scale) => drawLoad(rng, geometry, { count: 60 * scale, mix: MIX }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 8, mayFail: true });
      const third = Math.ceil(ops.length / 3);
      await load.run(ops.slice(0, third));
      const disk = stage.rng.pick(disksOf(rig));
      disk.faults.isGone = true;
      await load.run(ops.slice(third, 2 * third));
      disk.faults.isGone = false;
      const failed = load.failed;
      await load.run(ops.slice(2 * third));
      if (load.failed > failed) fail(`I/O failed after ${disk.name} had come back`);
      await load.checkAll();
    });
  },
};

const suspend: Check = {
  name: 'suspend',
  about:
    'nothing reaches a disk below a suspended device; what came meanwhile ends after the resume',
  needs: ['simulation'],
  draw: (rng, geometry, scale) => drawLoad(rng, geometry, { count: 40 * scale, mix: MIX }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const { lab } = rig;
      if (lab === null) return;
      const load = new Load(rig, { depth: 8 });
      const half = Math.floor(ops.length / 2);
      const before = later(load.run(ops.slice(0, half)));
      await rig.settle(lab.dm.suspend(rig.top, { noflush: stage.rng.chance(0.3) }));
      const seen = seenBy(rig);
      const running = rig.flushedDisks.filter((d) => d.dataInFlight > 0);
      if (running.length > 0) fail(`suspended with I/O running on ${running[0]?.name ?? ''}`);
      const meanwhile = new Load(rig, { depth: ops.length }, load.model);
      const held = later(meanwhile.run(ops.slice(half)));
      await rig.settle(new Promise<void>((r) => lab.scheduler.after(100, r)));
      if (seenBy(rig) !== seen)
        fail(`${seenBy(rig) - seen} requests reached disks while suspended`);
      if (meanwhile.ended > 0) fail(`${meanwhile.ended} operations ended while suspended`);
      await rig.settle(lab.dm.resume(rig.top));
      await rig.settle(Promise.all([before, held]));
      await load.checkAll();
    });
  },
};

/** To be awaited further on; until then a failure is nobody's. */
function later<T>(work: Promise<T>): Promise<T> {
  work.catch(() => undefined);
  return work;
}

function seenBy(rig: Rig): number {
  return rig.flushedDisks.reduce((sum, disk) => sum + dataSeen(disk), 0);
}

/** A pool below may commit what it has, which is a flush. */
function dataSeen(disk: SimDisk): number {
  return disk.seen.filter((b) => b.op !== Op.Flush).length;
}

const swap: Check = {
  name: 'swap',
  about: 'suspends, resumes and new tables of any device of the stack lose nothing under load',
  needs: ['simulation'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, { count: 80 * scale, mix: { ...MIX, suspend: 5, reload: 5 } }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 12 });
      await load.run(ops);
      await load.checkAll();
    });
  },
};

const stalls: Check = {
  name: 'stalls',
  about: 'a disk that takes its time delays what needs it and breaks nothing',
  needs: ['simulation'],
  draw: (rng, geometry, scale) => drawLoad(rng, geometry, { count: 40 * scale, mix: MIX }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const disk = stage.rng.pick(disksOf(rig));
      disk.faults.stallRate = 0.3;
      disk.faults.stallMs = 30_000;
      const load = new Load(rig, { depth: 12 });
      await load.run(ops);
      await load.checkAll();
    });
  },
};

const flushErrors: Check = {
  name: 'flush-errors',
  about: 'a flush that a disk fails is not reported as done',
  needs: ['simulation', 'steady'],
  draw: (rng, geometry) => drawLoad(rng, geometry, { count: 12, mix: { write: 1 } }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const load = new Load(rig, { depth: 4 });
      await load.run(ops);
      for (const disk of rig.flushedDisks) {
        const flushes = disk.seen.filter((b) => b.op === Op.Flush).length;
        disk.faults.flushErrorRate = 1;
        disk.faults.status = Status.NoSpace;
        const status = await rig.settle(rig.driver.flush());
        const block = rig.device.limits.logicalBlockBytes;
        const preflush = { flags: BioFlag.Preflush };
        const written = await rig.settle(rig.driver.write(0, new Uint8Array(block), preflush));
        disk.faults.flushErrorRate = 0;
        if (written === Status.Ok) fail('a write was done though the flush before it had failed');
        const reached = disk.seen.filter((b) => b.op === Op.Flush).length > flushes;
        if (!reached) fail(`a flush did not reach ${disk.name}`);
        if (status !== Status.NoSpace) {
          fail(`${disk.name} failed a flush with ENOSPC, it ended with ${statusName(status)}`);
        }
      }
    });
  },
};

const readOnly: Check = {
  name: 'read-only',
  about: 'a read-only table refuses what would change it and can be read',
  needs: ['simulation'],
  draw: (rng, geometry) => drawLoad(rng, geometry, { count: 10, mix: { write: 1 } }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      const { lab } = rig;
      if (lab === null) return;
      const load = new Load(rig, { depth: 4 });
      await load.run(ops);
      const table = await lab.dm.table(rig.top, { showKeys: true });
      const lines = table.map((t) => `${t.startSector} ${t.lenSectors} ${t.type} ${t.params}`);
      await lab.dm.load(rig.top, lines.join('\n'), { isReadOnly: true });
      await rig.settle(lab.dm.resume(rig.top));
      const block = rig.device.limits.logicalBlockBytes;
      const results = await rig.settle(
        Promise.all([
          rig.driver.write(0, new Uint8Array(block).fill(1)),
          rig.driver.zero(0, block),
          rig.driver.discard(0, block),
        ]),
      );
      const wrong = results.find((s) => s !== Status.ReadOnly && s !== Status.NotSupported);
      if (wrong !== undefined)
        fail(`a write to a read-only device ended with ${statusName(wrong)}`);
      await load.checkAll();
    });
  },
};

const depth: Check = {
  name: 'depth',
  about: 'splits and layers do not deepen the call stack',
  needs: ['simulation'],
  draw: (rng, geometry) =>
    drawLoad(rng, geometry, { count: 6, mix: { read: 1, write: 1 }, maxSectors: 1024 }),
  async run(stage, ops) {
    await stage.withRig({}, async (rig) => {
      for (const disk of disksOf(rig)) disk.measuresDepth = true;
      const load = new Load(rig, { depth: 2 });
      await load.run(ops);
      const nested = Math.max(...disksOf(rig).map((d) => d.submitsNestedMax));
      if (nested > 1)
        fail(`${nested} devices were submitting at once, each called by the one above`);
    });
  },
};

export const FAULT_CHECKS: readonly Check[] = [
  errors,
  flushErrors,
  noSpace,
  gone,
  stalls,
  suspend,
  swap,
  readOnly,
  depth,
];
