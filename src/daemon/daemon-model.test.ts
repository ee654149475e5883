// The daemon against a model of it: random verbs, with the state file failing at any call, the process ending
// at any call or in order, and files that go and come back. After each step everything that can be looked at is
// the model's; what is missing after a restart is so for a reason, and comes back when the reason is gone.

import assert from 'node:assert/strict';
import { mkdtempSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { DaemonModel, lenOf, type ModelTable, type Step } from '../testing/daemon-model.ts';
import { BROKEN, FaultyFiles, FULL } from '../testing/faulty-files.ts';
import { SEED } from '../testing/seed.ts';
import { StandingClock } from '../testing/standing-clock.ts';
import { createPlane } from './create-plane.ts';
import { Daemon } from './daemon.ts';
import type { Plane } from './plane.ts';
import { EMPTY_STATE, parseState, printState } from './state-file.ts';
import { StateStore } from './state-store.ts';

const NAMES = ['alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta'];
const EXPORTS = ['', 'one', 'two'];
const FILES = 3;
const FILE_SECTORS = 128;
const LENGTHS = [16, 32, 64];
/** How long what comes back by itself is waited for. */
const PATIENCE_MS = 20_000;
const PATH = '/state/state.json';

/** A daemon that can be ended and started again, over one state and one folder of files. */
class Rig {
  readonly rng: Prng;
  readonly folder = mkdtempSync(join(tmpdir(), 'lamina-model-'));
  readonly clock = new StandingClock();
  files = new FaultyFiles();
  model = new DaemonModel();
  /** Where each file is: in its place, or away, or cut short. */
  readonly state: ('there' | 'away' | 'short')[] = [];
  #plane: Plane | undefined;
  #daemon: Daemon | undefined;

  constructor(seed: number) {
    this.rng = new Prng(seed);
    for (let i = 0; i < FILES; i++) {
      writeFileSync(this.file(i), '');
      truncateSync(this.file(i), FILE_SECTORS * 512);
      this.state.push('there');
    }
  }

  get daemon(): Daemon {
    assert.ok(this.#daemon);
    return this.#daemon;
  }

  file(i: number): string {
    return join(this.folder, `disk${i}.img`);
  }

  async start(): Promise<void> {
    const plane = await createPlane({
      engine: 'node',
      bufferBytes: 8 << 20,
      pollMs: 0,
      bareWordsAreDevices: true,
    });
    this.#plane = plane;
    this.#daemon = await Daemon.start({
      plane,
      store: new StateStore(PATH, this.files),
      log: () => undefined,
      stop: () => undefined,
      clock: this.clock,
      look: (path) => {
        const found = statSync(path, { throwIfNoEntry: false });
        return Promise.resolve(`${found?.ino} ${found?.size} ${found?.mtimeMs}`);
      },
    });
  }

  async end(how: 'in order' | 'killed'): Promise<void> {
    if (how === 'in order') await this.#daemon?.end();
    else this.files.isKilled = true;
    await this.#plane?.shutdown();
    this.files = this.files.afterwards();
  }

  /** Time goes by, and what is due is begun. */
  async pass(ms: number): Promise<void> {
    this.clock.advance(ms);
    await this.turns(20);
  }

  async turns(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  async run(step: Step): Promise<void> {
    const { daemon } = this;
    switch (step.verb) {
      case 'create': {
        const { name, uuid, table, isVolatile } = step;
        const loaded = table && { table: table.text, isReadOnly: table.isReadOnly };
        await daemon.run('create', [{ name, uuid, isVolatile, ...loaded }]);
        break;
      }
      case 'load': {
        const { text, isReadOnly } = step.table;
        await daemon.run('load', [step.name, text, { isReadOnly }]);
        break;
      }
      case 'clear':
      case 'resume':
        await daemon.run(step.verb, [step.name]);
        break;
      case 'suspend':
        await daemon.run('suspend', [step.name, undefined]);
        break;
      case 'remove':
        await daemon.run('remove', [step.name, { deferred: step.isDeferred }]);
        break;
      case 'rename':
        await daemon.run('rename', [step.name, step.newName]);
        break;
      case 'setUuid':
        await daemon.run('setUuid', [step.name, step.uuid]);
        break;
      case 'createExport':
        await daemon.run('createExport', [{ name: step.name, device: step.device }]);
        break;
      case 'removeExport':
        await daemon.run('removeExport', [step.name, undefined]);
        break;
    }
  }

  step(): Step {
    const { rng } = this;
    const any = (): string => NAMES[rng.below(NAMES.length)] as string;
    const known = [...this.model.devices.keys()];
    const name =
      known.length === 0 || rng.below(8) === 0 ? any() : (known[rng.below(known.length)] as string);
    const uuid = rng.below(3) > 0 ? '' : `U-${rng.below(12)}`;
    const isVolatile = rng.below(6) === 0;
    const draw = rng.below(20);
    if (draw < 5) {
      const table = rng.below(6) === 0 ? undefined : this.#table();
      return { verb: 'create', name: any(), uuid, table, isVolatile };
    }
    if (draw < 8) return { verb: 'load', name, table: this.#table() };
    if (draw < 9) return { verb: 'clear', name };
    if (draw < 10) return { verb: 'suspend', name };
    if (draw < 13) return { verb: 'resume', name };
    if (draw < 15) return { verb: 'remove', name, isDeferred: rng.below(2) === 0 };
    if (draw < 16) return { verb: 'rename', name, newName: any() };
    if (draw < 17) return { verb: 'setUuid', name, uuid: `U-${rng.below(12)}` };
    const exported = EXPORTS[rng.below(EXPORTS.length)] as string;
    if (draw < 19) return { verb: 'createExport', name: exported, device: name };
    return { verb: 'removeExport', name: exported };
  }

  #table(): ModelTable {
    const { rng } = this;
    const isReadOnly = rng.below(5) === 0;
    const lines: string[] = [];
    let start = 0;
    for (let left = 1 + rng.below(2); left > 0; left--) {
      const len = LENGTHS[rng.below(LENGTHS.length)] as number;
      lines.push(`${start} ${len} ${this.#target(len)}`);
      start += len;
    }
    return { text: lines.join('\n'), isReadOnly };
  }

  #target(len: number): string {
    const { rng } = this;
    const draw = rng.below(5);
    if (draw === 0) return 'zero';
    if (draw < 3) return `linear ${this.file(rng.below(FILES))} ${rng.below(FILE_SECTORS - len)}`;
    const lower = NAMES[rng.below(NAMES.length)] as string;
    const sectors = lenOf(this.model.devices.get(lower)?.live?.text ?? '');
    return `linear ${lower} ${rng.below(Math.max(1, sectors - len + 1))}`;
  }

  /** While no daemon has them open. */
  moveFiles(): void {
    for (let i = 0; i < FILES; i++) {
      if (this.rng.below(3) > 0) continue;
      this.putBack(i);
      if (this.rng.below(2) === 0) continue;
      if (this.rng.below(2) === 0) {
        renameSync(this.file(i), `${this.file(i)}.away`);
        this.state[i] = 'away';
      } else {
        truncateSync(this.file(i), 512);
        this.state[i] = 'short';
      }
    }
  }

  putBack(i: number): void {
    if (this.state[i] === 'away') renameSync(`${this.file(i)}.away`, this.file(i));
    if (this.state[i] === 'short') truncateSync(this.file(i), FILE_SECTORS * 512);
    this.state[i] = 'there';
  }
}

async function agrees(rig: Rig, what: string): Promise<void> {
  const found = await rig.model.difference(rig.daemon);
  assert.equal(found, undefined, what);
}

async function nothingMissesForNothing(rig: Rig, what: string): Promise<void> {
  for (const until = performance.now() + PATIENCE_MS; ; ) {
    const listed = await rig.daemon.run('list', []);
    const exports = await rig.daemon.run('listExports', []);
    const found = rig.model.couldBeThere(listed, exports);
    if (found === undefined) return;
    assert.ok(performance.now() < until, `${what}: ${found}`);
    await rig.turns(20);
  }
}

/** One verb, perhaps with a fault. True when it was done; undefined when the process ended in it. */
async function oneStep(rig: Rig, step: Step, what: string): Promise<boolean | undefined> {
  const { rng, files } = rig;
  const draw = rng.below(6);
  const after = rng.below(10);
  if (draw === 0) files.injectAfter(after, rng.below(2) === 0 ? FULL : BROKEN);
  if (draw === 1) files.injectAfter(after, { kind: 'short' });
  const killed = new Promise<undefined>((resolve) => {
    if (draw === 2) files.injectAfter(after, { kind: 'kill' }, () => resolve(undefined));
  });
  const done = rig.run(step).then(
    () => true,
    (error: unknown) => {
      assert.ok(error instanceof DmError, `${what}: ${(error as Error).stack}`);
      return false;
    },
  );
  const result = await Promise.race([done, killed]);
  if (result === undefined) return undefined;
  files.disarm();
  if (result) rig.model.apply(step);
  await agrees(rig, `${what}: ${result ? 'done' : 'refused'}`);
  return result;
}

/** The process ended in the step: the state has it, or not. */
async function afterKill(rig: Rig, step: Step, what: string): Promise<void> {
  const before = new DaemonModel(rig.model);
  const after = new DaemonModel(rig.model);
  after.apply(step);
  before.restart();
  after.restart();
  const differences = [await before.difference(rig.daemon), await after.difference(rig.daemon)];
  assert.ok(differences.includes(undefined), `${what}: ${differences.join('; ')}`);
  const state = parseState(PATH, (await rig.files.read(PATH)) ?? printState(EMPTY_STATE));
  const isSure = differences[1] !== undefined || before.isSaved(state);
  const isBefore = differences[0] === undefined && isSure;
  rig.model = isBefore ? before : after;
}

async function history(seed: number, steps: number, done: Map<string, number>): Promise<void> {
  const rig = new Rig(seed);
  const { rng } = rig;
  await rig.start();
  try {
    for (let i = 0; i < steps; i++) {
      const step = rig.step();
      if (rig.model.wouldWait(step)) continue;
      const what = `LAMINA_SEED=${seed} step ${i}: ${JSON.stringify(step)}`;
      const result = await oneStep(rig, step, what);
      if (result === true) done.set(step.verb, (done.get(step.verb) ?? 0) + 1);
      if (result !== undefined) {
        // What could not be saved at once is saved by now.
        await rig.pass(5000);
        await agrees(rig, `${what}: later`);
      }
      if (result !== undefined && rng.below(12) > 0) continue;
      await rig.end(result === undefined ? 'killed' : rng.below(2) === 0 ? 'in order' : 'killed');
      rig.moveFiles();
      await rig.start();
      if (result === undefined) await afterKill(rig, step, `${what}: after a kill`);
      else rig.model.restart();
      await agrees(rig, `${what}: restarted`);
      await nothingMissesForNothing(rig, `${what}: restarted`);
      if (rng.below(2) === 0) {
        for (let file = 0; file < FILES; file++) rig.putBack(file);
        if (rng.below(2) === 0) await rig.daemon.run('retry', [undefined]);
        else await rig.pass(5000);
        await agrees(rig, `${what}: files are back`);
        await nothingMissesForNothing(rig, `${what}: files are back`);
      }
    }
  } finally {
    await rig.end('killed');
    rmSync(rig.folder, { recursive: true });
  }
}

test(`the daemon is what the model is, whatever fails and whenever it ends (seed ${SEED})`, async () => {
  const done = new Map<string, number>();
  for (let i = 0; i < 8; i++) await history(SEED + i, 150, done);
  for (const verb of [
    'create',
    'load',
    'clear',
    'suspend',
    'resume',
    'remove',
    'rename',
    'setUuid',
    'createExport',
    'removeExport',
  ]) {
    assert.ok((done.get(verb) ?? 0) > 0, `${verb} was done ${done.get(verb) ?? 0} times`);
  }
});
