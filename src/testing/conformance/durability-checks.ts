// Checks of what is left after a power cut.

import type { Check, Stage } from './check.ts';
import { drawLoad, Load, type LoadOp } from './load.ts';
import { CheckFailure, type OpenOptions, type PowerCut, type PoweredOff, type Rig } from './rig.ts';

/** How much of what was not durable may be left. */
const CUTS = [
  { keep: 0, tear: 0 },
  { keep: 0.5, tear: 0 },
  { keep: 0.5, tear: 0.4 },
  { keep: 0.95, tear: 0.1 },
] as const;

const flush: Check = {
  name: 'flush',
  about: 'what had completed before a flush was sent is there after a power cut',
  needs: ['power cut'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, { count: 60 * scale, mix: { write: 10, zero: 2, flush: 2 } }),
  async run(stage, ops) {
    await cutAtTheEnd(stage, ops, { keep: 0, tear: 0 }, 'flush');
  },
};

const fua: Check = {
  name: 'fua',
  about: 'a write with FUA is there after a power cut without any flush',
  needs: ['power cut'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, { count: 40 * scale, mix: { write: 10, zero: 2 } }).map((op) => ({
      ...op,
      flags: rng.chance(0.5) ? 1 : 0,
    })),
  async run(stage, ops) {
    await cutAtTheEnd(stage, ops, { keep: 0, tear: 0 }, 'nothing');
  },
};

const suspended: Check = {
  name: 'suspend-flush',
  about: 'what had completed before a suspend is there after a power cut',
  needs: ['simulation', 'power cut'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, { count: 40 * scale, mix: { write: 10, zero: 2 } }),
  async run(stage, ops) {
    await cutAtTheEnd(stage, ops, { keep: 0, tear: 0 }, 'suspend');
  },
};

/** Runs the load to its end and does what comes last; then the power goes. */
async function cutAtTheEnd(
  stage: Stage,
  ops: readonly LoadOp[],
  cut: { readonly keep: number; readonly tear: number },
  last: 'flush' | 'suspend' | 'nothing',
): Promise<void> {
  const rig = await stage.open();
  const load = new Load(rig, { depth: 8 });
  try {
    await load.run(ops);
    if (last === 'flush') {
      const flush = { kind: 'flush', sector: 0, lenSectors: 0, flags: 0, segments: [] } as const;
      await rig.settle(load.one(flush));
    } else if (last === 'suspend') {
      const sent = load.model.sendFlush();
      await rig.settle(rig.lab?.dm.suspend(rig.top) ?? Promise.resolve());
      load.model.flushDone(sent);
    }
    load.isCut = true;
  } catch (error) {
    await rig.abandon();
    throw error;
  }
  const off = await stage.subject.powerCut(rig, { rng: stage.rng, ...cut });
  await lookAfterCut(await off.open(stage.seed + 1, {}), load);
}

async function lookAfterCut(rig: Rig, load: Load): Promise<void> {
  try {
    const data = await rig.settle(readAll(rig));
    const wrong = load.model.checkAfterCut(data);
    if (wrong !== undefined) throw new CheckFailure(wrong);
    await rig.finish();
  } catch (error) {
    await rig.abandon();
    throw error;
  }
}

async function readAll(rig: Rig): Promise<Uint8Array> {
  const total = rig.device.lenSectors * 512;
  const data = new Uint8Array(total);
  const step = 1 << 19;
  for (let at = 0; at < total; at += step) {
    const len = Math.min(step, total - at);
    data.set(await rig.driver.read(at, len), at);
  }
  return data;
}

const crash: Check = {
  name: 'crash',
  about: 'after a power cut at any moment, also while opening: every sector is old or new',
  needs: ['power cut'],
  draw: (rng, geometry, scale) =>
    drawLoad(rng, geometry, {
      count: 60 * scale,
      mix: { write: 20, zero: 3, discard: 2, flush: 2, read: 2 },
    }),
  async run(stage, ops) {
    const { rng } = stage;
    let load: Load | null = null;
    let open: () => Promise<Rig> = async () => await stage.open();
    for (let round = 0; round < 3; round++) {
      const rig = await open();
      const part = ops.slice(
        Math.floor((ops.length * round) / 3),
        Math.floor((ops.length * (round + 1)) / 3),
      );
      if (load !== null) await checkFound(rig, load);
      load = new Load(rig, { depth: 8 }, load?.model);
      const cut = { rng, ...rng.pick(CUTS) };
      const off = await cutSomewhere(stage, rig, load, part, cut);
      const seed = stage.seed + round + 1;
      const options: OpenOptions = { clonesMax: rng.pick([1, 256]) };
      open = async () => await off.open(seed, options);
    }
    const last = await open();
    if (load !== null) await checkFound(last, load);
    try {
      await last.finish();
    } catch (error) {
      await last.abandon();
      throw error;
    }
  },
};

async function checkFound(rig: Rig, load: Load): Promise<void> {
  try {
    const wrong = load.model.checkAfterCut(await rig.settle(readAll(rig)));
    if (wrong !== undefined) throw new CheckFailure(wrong);
  } catch (error) {
    await rig.abandon();
    throw error;
  }
}

/** Runs the load; the power goes at a random moment of it, or at its end. */
async function cutSomewhere(
  stage: Stage,
  rig: Rig,
  load: Load,
  ops: readonly LoadOp[],
  cut: PowerCut,
): Promise<PoweredOff> {
  let off: Promise<PoweredOff> | null = null;
  const cutNow = (): void => {
    load.isCut = true;
    load.onEnded = () => {};
    off = stage.subject.powerCut(rig, cut);
    // Awaited below; what goes wrong until then is not lost.
    off.catch(() => undefined);
  };
  const { lab } = rig;
  if (lab !== null) lab.scheduler.haltAfter(stage.rng.between(1, ops.length * 6), cutNow);
  else {
    const last = stage.rng.between(1, ops.length);
    load.onEnded = () => {
      if (load.ended >= last) cutNow();
    };
  }
  try {
    await load.run(ops);
  } catch (error) {
    if (off === null) {
      await rig.abandon();
      throw error;
    }
  }
  load.isCut = true;
  return await (off ?? stage.subject.powerCut(rig, cut));
}

export const DURABILITY_CHECKS: readonly Check[] = [flush, fua, suspended, crash];
