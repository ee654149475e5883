// The case that hung Linux: an origin over a snapshot, and a snapshot of that, with one clone for
// each device and one pending exception for each snapshot. One writer's write is split into chunks
// that must be copied first; others wait for exceptions, and for the clones and copies that these
// need. A schedule is a draw of who writes what and when, and of how long each request takes.

import { Prng } from '../base/prng.ts';
import { Status, statusName } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { MappedDevice } from '../dm/mapped-device.ts';
import { BioDriver } from './bio-driver.ts';
import { CheckFailure } from './conformance/rig.ts';
import { type Lab, makeLab } from './sim/lab.ts';

const CHUNK = 8;
/** Sectors that one schedule has for itself: what has been copied needs no copy any more. */
const PART = 6 * CHUNK;
/** Schedules on one stack. */
const PARTS = 25;
const SECTORS = PART * PARTS;

const DEVICES: readonly (readonly [name: string, table: string])[] = [
  ['under', `0 ${SECTORS} snapshot-origin test:base`],
  ['middle', `0 ${SECTORS} snapshot test:base test:cow1 P ${CHUNK}`],
  ['over', `0 ${SECTORS} snapshot-origin middle`],
  ['cow', `0 ${SECTORS * 2} linear test:cow2 0`],
  ['top', `0 ${SECTORS} snapshot middle cow P ${CHUNK}`],
];

/** Runs so many schedules. Throws StallError, which says who holds what, when one does not end. */
export async function runDeadlockSchedules(seed: number, count: number): Promise<void> {
  for (let done = 0; done < count; done += PARTS) {
    await runStack(seed + done, Math.min(PARTS, count - done));
  }
}

async function runStack(seed: number, schedules: number): Promise<void> {
  const rng = new Prng(seed ^ 0xdead);
  const lab = makeLab({ seed, clonesMax: 1 });
  lab.disk('base', SECTORS);
  lab.disk('cow1', SECTORS * 2);
  lab.disk('cow2', SECTORS * 2);
  for (const [name, table] of DEVICES) {
    await lab.scheduler.settle(lab.dm.create({ name, table }));
  }
  const held = await Promise.all(DEVICES.map(async ([name]) => await lab.dm.openDevice(name)));
  const devices = held.map(({ device }) => device as MappedDevice);
  for (let part = 0; part < schedules; part++) {
    const [under, middle, over, , top] = devices as [MappedDevice, ...MappedDevice[]];
    const drivers = [over, top, under, middle].map(
      (d) => new BioDriver(d as MappedDevice, lab.arena),
    );
    const all = writers(rng, part * PART).map(
      async (write) => await send(lab, drivers[write.device] as BioDriver, write),
    );
    await lab.scheduler.settle(
      Promise.all(all),
      () => `seed ${seed}, schedule ${part}: ${describe(devices, drivers)}`,
    );
  }
  for (const open of held) await open.close();
  await lab.scheduler.settle(lab.dm.close());
  const [violation] = lab.violations;
  if (violation !== undefined) throw new CheckFailure(violation);
}

interface Writer {
  /** 0: the upper origin, 1: its snapshot, 2: the lower origin, 3: the snapshot in between. */
  readonly device: number;
  readonly sector: number;
  readonly sectors: number;
  readonly atMs: number;
}

/** The first write is split; the others meet it, or come before it. */
function writers(rng: Prng, from: number): Writer[] {
  const large = { device: 0, sector: from, sectors: PART, atMs: rng.unit() * 5 };
  const others = Array.from({ length: rng.between(1, 3) }, () => {
    const sectors = rng.pick([1, CHUNK, 3 * CHUNK]);
    return {
      device: rng.below(4),
      sector: from + rng.below(PART - sectors + 1),
      sectors,
      atMs: rng.unit() * 20,
    };
  });
  return [large, ...others];
}

async function send(lab: Lab, driver: BioDriver, write: Writer): Promise<void> {
  await new Promise<void>((resolve) => lab.scheduler.after(write.atMs, resolve));
  const data = new Uint8Array(write.sectors * SECTOR_BYTES).fill(write.device + 1);
  const status = await driver.write(write.sector * SECTOR_BYTES, data);
  if (status !== Status.Ok) throw new CheckFailure(`write: ${statusName(status)}`);
}

/** Pools, queues and holders of all that has not ended. */
function describe(devices: readonly MappedDevice[], drivers: readonly BioDriver[]): string {
  const said: string[] = [];
  for (const device of devices) {
    const { set, inFlight, waitingForClone, live } = device;
    if (inFlight > 0 || set.outstanding > 0) {
      const clones = `${set.outstanding} of ${set.max} clones out, ${waitingForClone} wait for one`;
      said.push(`${device.name}: ${inFlight} bios below, ${clones}`);
    }
    for (const { target } of live?.entries ?? []) said.push(target.waitsFor?.() ?? '');
  }
  const bios = drivers.map((driver) => `${driver.device.name}: ${driver.describePending()}`);
  return [...said.filter((text) => text !== ''), ...bios].join('; ');
}
