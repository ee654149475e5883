// The NBD server's transmission, whole, in virtual time: random clients on simulated sockets over exports of a
// stack on simulated disks. What is looked at in the end: every request was answered once or its connection is
// gone, what was read and what a power cut leaves is what the model allows, every buffer is back, nobody is
// inside a gate, and the server could be stopped within the time it promises.

import { DmError, errorText } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';
import type { SharedMemory } from '../../base/wasm.ts';
import { Op } from '../../bio/bio.ts';
import { PlaneCore } from '../../daemon/plane-core.ts';
import { NBD_FRONT_END } from '../../frontends/nbd/negotiated.ts';
import { Arena, NONE } from '../../io/arena.ts';
import { WORD_STAMP } from '../stamp.ts';
import { VersionModel } from '../version-model.ts';
import { type Lab, makeLab } from './lab.ts';
import { NbdSimClient } from './nbd-client.ts';
import type { NbdCounts, NbdWorld } from './nbd-world.ts';
import { SimSocket } from './socket.ts';
import { type VerbCounts, VerbStorm } from './verb-storm.ts';

const ENDS = [
  'leaves',
  'resets',
  'half-closes',
  'stays',
  'stops reading',
  'talks nonsense',
] as const;
const LANE_BYTES = 307;
/** Long enough for everything that is on its way, on disks that stall now and then. */
const SETTLED_MS = 60_000;
/** Grace for clients, and what they had sent to disks that stall. */
const END_MS = 30_000;

export interface NbdStormOptions {
  readonly seed: number;
  /** Requests of each client at most; 40 if not given. */
  readonly requests?: number;
  /** Operators change devices, tables and exports all the while. */
  readonly hasOperators?: boolean;
}

export type NbdStormCounts = NbdCounts & VerbCounts;

/** Runs one storm. Throws what was found first, with the seed. */
export async function runNbdStorm(options: NbdStormOptions): Promise<NbdStormCounts> {
  const storm = new NbdStorm(options);
  try {
    return await storm.run();
  } catch (error) {
    throw new Error(`nbd storm, LAMINA_SEED=${options.seed}: ${errorText(error)}`, {
      cause: error,
    });
  }
}

/** Memory of storms that are over, by its size in MiB: getting some costs more than a storm. */
const memories = new Map<number, SharedMemory>();

/** An arena as new: what the storm before did with its memory changes nothing in this one. */
function takeArena(mib: number): Arena {
  const memory = memories.get(mib);
  // Given back when nobody uses any of it.
  memories.delete(mib);
  return new Arena(mib * MIB, memory);
}

class NbdStorm {
  readonly counts: NbdCounts = {
    requests: 0,
    answered: 0,
    refused: 0,
    failed: 0,
    partial: 0,
    streamed: 0,
    cut: 0,
  };
  readonly #rng: Prng;
  readonly #arenaMib: number;
  readonly #lab: Lab;
  readonly #requests: number;
  readonly #hasOperators: boolean;
  #verbs: VerbStorm | null = null;
  readonly #blockBytes: number;
  readonly #sizeBytes: number;
  readonly #modelStart: number;
  readonly #hasFlushes: boolean;
  readonly #isWhole: boolean;
  readonly #clients: NbdSimClient[] = [];
  readonly #failures: string[] = [];
  readonly #model: VersionModel;
  /** From here on the device is disk b. */
  #splitBytes = 0;
  /** Where on disk b. */
  #secondAt = 0;
  #ended = 0;
  #isEnding = false;
  #hasFaults = false;

  constructor({ seed, requests = 40, hasOperators = false }: NbdStormOptions) {
    this.#hasOperators = hasOperators;
    const rng = new Prng(seed ^ 0xbd);
    this.#rng = rng;
    this.#requests = requests;
    this.#arenaMib = rng.pick([5, 6, 8, 16]);
    this.#lab = makeLab({
      seed,
      arena: takeArena(this.#arenaMib),
    });
    this.#blockBytes = rng.pick([512, 512, 4096]);
    this.#modelStart = 4096;
    this.#hasFlushes = rng.chance(0.6);
    this.#isWhole = rng.chance(0.2);
    this.#sizeBytes = 4096 * rng.pick([6, 12, 40]);
    this.#model = new VersionModel(
      (this.#sizeBytes - this.#modelStart) / WORD_STAMP.bytes,
      undefined,
      false,
      WORD_STAMP,
    );
  }

  async run(): Promise<NbdStormCounts> {
    const { scheduler, arena, engine, openBackend } = this.#lab;
    const used = arena.usedBytes;
    const core = new PlaneCore(engine, { openBackend });
    const { dm, exports } = core;
    await this.#makeDevice(core);
    await exports.create({ name: 'disk', device: 'top' });
    await exports.create({ name: 'look', device: 'top', isReadOnly: true });
    const release = this.#hogMemory();
    const clients = this.#rng.between(1, 8);
    for (let i = 0; i < clients; i++) this.#connectSoon(core, i);
    this.#breakDisks();
    this.#verbs?.start();
    await this.#passes(this.#rng.pick([20, 300, 5000]));
    this.#throwFirst();
    // In order; or as it is, with devices suspended and disks failing; or the power goes before.
    const how = this.#rng.pick(['in order', 'in order', 'as it is', 'power cut', 'power cut']);
    if (how === 'in order') {
      this.#mendDisks();
      release();
      await this.#checkAnswered();
    } else this.#verbs?.halt();
    this.#isEnding = true;
    if (how === 'power cut') this.#checkCut();
    if (how !== 'in order') release();
    const before = scheduler.nowMs();
    // A flush of a client's that failed is told again; everything is closed all the same.
    const ended = core.call('shutdown', []).catch(this.#forgive);
    await scheduler.settle(ended, () => `the end hangs: ${this.#describe()}`);
    const took = scheduler.nowMs() - before;
    if (took > END_MS) this.#fail(`the end took ${took} ms`);
    await this.#passes(100);
    if ((this.#verbs?.pending ?? 0) > 0) this.#fail(`verbs hang: ${this.#describe()}`);
    if (dm.openCount > 0) this.#fail(`${dm.openCount} devices below are still open`);
    if (this.#ended !== this.#clients.length) {
      this.#fail(`${this.#clients.length} connections, ${this.#ended} ended`);
    }
    if (arena.usedBytes !== used) this.#fail(`${arena.usedBytes - used} bytes are not back`);
    if (this.#isWhole) this.#checkNothingRead();
    this.#failures.push(...this.#lab.violations);
    this.#throwFirst();
    if (arena.usedBytes === 0) memories.set(this.#arenaMib, arena.memory);
    const none = { verbs: 0, refusedVerbs: 0, givenUpVerbs: 0, tables: 0, forced: 0 };
    return { ...this.counts, ...(this.#verbs?.counts ?? none) };
  }

  /** A disk, or halves of two. */
  async #makeDevice({ dm, exports }: PlaneCore): Promise<void> {
    const sectors = this.#sizeBytes / 512;
    const limits = { logicalBlockBytes: this.#blockBytes };
    const isHalved = this.#hasOperators || this.#rng.chance(0.5);
    const half = isHalved ? Math.floor(sectors / 16) * 8 : sectors;
    this.#splitBytes = half * 512;
    this.#secondAt = this.#hasOperators ? 0 : this.#splitBytes;
    this.#lab.disk('a', sectors, { ...limits, maxDiscardSectors: this.#rng.pick([0, 8, 1 << 20]) });
    this.#lab.disk('b', sectors, limits);
    if (this.#hasOperators) {
      const host = {
        scheduler: this.#lab.scheduler,
        dm,
        exports,
        fail: (what: string): void => this.#fail(what),
        mayFail: (): void => void (this.#hasFaults = true),
      };
      this.#verbs = new VerbStorm(host, new Prng(this.#rng.u32()), sectors);
      await this.#lab.scheduler.settle(this.#verbs.create());
      return;
    }
    const rest = isHalved ? `\n${half} ${sectors - half} linear test:b ${half}` : '';
    const table = `0 ${half} linear test:a 0${rest}`;
    await this.#lab.scheduler.settle(dm.create({ name: 'top', table }));
  }

  /** Sometimes there is hardly any memory, until the server is to end. */
  #hogMemory(): () => void {
    const { arena } = this.#lab;
    if (!this.#isWhole && this.#rng.chance(0.5)) return () => undefined;
    const sizes = [1 << 20, 1 << 18, 1 << 16];
    const taken: (readonly [mem: number, bytes: number])[] = [];
    const leave = this.#rng.pick([1, 2, 3]) * MIB;
    for (const bytes of sizes) {
      while (arena.availableBytes(4096) > leave) {
        const mem = arena.tryAlloc(bytes);
        if (mem === NONE) break;
        taken.push([mem, bytes]);
      }
    }
    return () => {
      for (const [mem, bytes] of taken) arena.free(mem, bytes);
    };
  }

  #connectSoon(core: PlaneCore, index: number): void {
    const rng = new Prng(this.#rng.u32());
    const { scheduler, arena, engine } = this.#lab;
    const violation = (what: string): void => this.#fail(what);
    const socket = new SimSocket(arena, scheduler, rng, violation);
    const isStructured = rng.chance(0.6);
    const isReadOnly = rng.chance(0.15);
    const contextId = isStructured && rng.chance(0.7) ? rng.between(0, 9) : -1;
    const client = new NbdSimClient(this.#world(), socket, rng, {
      name: `client ${index}`,
      isStructured,
      contextId,
      isReadOnly,
      lane: { at: index * LANE_BYTES, lenBytes: LANE_BYTES },
      requestsMax: rng.between(1, this.#requests),
      depth: rng.pick([1, 4, 16]),
      lenBytesMax: rng.pick([100, 8192, 1 << 20]),
      ends: rng.pick(ENDS),
    });
    this.#clients.push(client);
    const negotiated = {
      frontEnd: NBD_FRONT_END,
      exportName: isReadOnly && rng.chance(0.5) ? 'look' : 'disk',
      isReadOnly,
      hasStructuredReplies: isStructured,
      contexts: contextId < 0 ? [] : [{ id: contextId, base: undefined }],
      peer: `sim:${index}`,
    };
    scheduler.after(rng.unit() * rng.pick([0, 100]), () => {
      const rest = client.start(rng.pick([0, 0, 10, 200]));
      // What the server has sent may still be on its way to the client then.
      core.connect(engine.addSocket(socket), negotiated, rest, () => this.#ended++);
    });
    if (rng.chance(0.15)) {
      scheduler.after(rng.unit() * 200, () => {
        socket.reset();
        client.over();
      });
    }
  }

  #world(): NbdWorld {
    return {
      scheduler: this.#lab.scheduler,
      model: this.#model,
      sizeBytes: this.#sizeBytes,
      modelStart: this.#modelStart,
      mayFail: () => this.#hasFaults,
      isEnding: () => this.#isEnding,
      hasFlushes: this.#hasFlushes,
      isWhole: this.#isWhole,
      counts: this.counts,
      fail: (what) => this.#fail(what),
    };
  }

  #breakDisks(): void {
    const rng = this.#rng;
    if (rng.chance(0.5)) return;
    this.#hasFaults = true;
    for (const { faults } of this.#lab.disks.values()) {
      faults.readErrorRate = rng.pick([0, 0.1]);
      faults.writeErrorRate = rng.pick([0, 0.1]);
      faults.flushErrorRate = rng.pick([0, 0.3]);
      faults.status = rng.pick([Status.Io, Status.NoSpace, Status.TimedOut]);
      faults.stallRate = rng.pick([0, 0.05]);
      faults.stallMs = 800;
    }
  }

  #mendDisks(): void {
    for (const { faults } of this.#lab.disks.values()) {
      Object.assign(faults, { readErrorRate: 0, writeErrorRate: 0, flushErrorRate: 0 });
    }
  }

  /** Disks work, nothing is suspended, there is memory: who still reads has all his answers soon. */
  async #checkAnswered(): Promise<void> {
    const { scheduler } = this.#lab;
    const stopped = this.#verbs?.stop() ?? Promise.resolve();
    await scheduler.settle(stopped, () => `verbs hang: ${this.#describe()}`);
    for (const client of this.#clients) client.hurry();
    await this.#passes(SETTLED_MS);
    for (const client of this.#clients) {
      if (client.isReading && client.unanswered > 0) this.#fail(`no answer: ${client.describe()}`);
    }
    this.#throwFirst();
  }

  /** The power goes: what the disks hold is what flushes and FUA have promised the clients. */
  #checkCut(): void {
    this.#hasFaults = true;
    const images = this.#lab.powerCut(this.#rng, this.#rng.pick([0, 0.5, 1]), 0.3);
    const [a, b] = [images.get('test:a') as Uint8Array, images.get('test:b') as Uint8Array];
    const image = Buffer.concat([a.subarray(0, this.#splitBytes), b.subarray(this.#secondAt)]);
    const wrong = this.#model.checkAfterCut(image.subarray(this.#modelStart));
    if (wrong !== undefined) this.#fail(wrong);
  }

  readonly #forgive = (error: unknown): void => {
    if (!this.#hasFaults || !(error instanceof DmError)) throw error;
  };

  #checkNothingRead(): void {
    for (const { name, seen } of this.#lab.disks.values()) {
      const read = seen.find((bio) => bio.op === Op.Read);
      if (read === undefined) continue;
      this.#fail(`${name}: sector ${read.sector} was read to write whole blocks`);
    }
  }

  async #passes(ms: number): Promise<void> {
    const { scheduler } = this.#lab;
    await scheduler.settle(new Promise<void>((resolve) => void scheduler.after(ms, resolve)));
  }

  #fail(what: string): void {
    this.#failures.push(what);
  }

  #throwFirst(): void {
    const [first] = this.#failures;
    if (first !== undefined) throw new Error(first);
  }

  #describe(): string {
    const waiting = this.#clients.map((c, i) => `${i}: ${c.isOver ? 'over' : c.unanswered}`);
    const verbs = this.#verbs?.describe() ?? 'no verb';
    const ended = `${this.#ended} of ${this.#clients.length} ended`;
    return `${ended}; unanswered ${waiting.join(', ')}; under way: ${verbs}`;
  }
}
