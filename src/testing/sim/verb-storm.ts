// Operators under whom a storm goes on: several at once create, load, suspend, resume, rename and remove, make
// and remove exports, and give up what takes too long. Whatever they do, the data stays what it is: tables
// that change map the same sectors to the same places, in other pieces or with a target in between.

import { DmError } from '../../base/errors.ts';
import type { Prng } from '../../base/prng.ts';
import type { DeviceMapper } from '../../dm/device-mapper.ts';
import type { ExportCatalog } from '../../exports/catalog.ts';
import type { Scheduler } from './scheduler.ts';

/** A device of the stack, by the name that tables use for what is below it. */
interface Layer {
  /** What the device is called now. */
  name: string;
  readonly below: readonly { readonly layer: Layer | null; readonly disk: string }[];
  readonly sectorsOfEach: number;
}

export interface VerbStormHost {
  readonly scheduler: Scheduler;
  readonly dm: DeviceMapper;
  readonly exports: ExportCatalog;
  fail(what: string): void;
  /** From now on I/O may fail: a device was removed by force. */
  mayFail(): void;
}

export interface VerbCounts {
  verbs: number;
  refusedVerbs: number;
  givenUpVerbs: number;
  tables: number;
  forced: number;
}

const OPERATORS_MAX = 3;
const SCRATCH = ['x0', 'x1'] as const;

export class VerbStorm {
  readonly counts: VerbCounts = {
    verbs: 0,
    refusedVerbs: 0,
    givenUpVerbs: 0,
    tables: 0,
    forced: 0,
  };
  readonly #host: VerbStormHost;
  readonly #rng: Prng;
  readonly #layers: readonly Layer[];
  readonly #pending = new Map<Promise<void>, string>();
  #isOver = false;
  #names = 0;

  /** Devices `low0` and `low1` over disks a and b, `top` over both: `sectors` in all. */
  constructor(host: VerbStormHost, rng: Prng, sectors: number) {
    this.#host = host;
    this.#rng = rng;
    const half = sectors / 2;
    const low = (disk: string, name: string): Layer => ({
      name,
      below: [{ layer: null, disk }],
      sectorsOfEach: half,
    });
    const lows = [low('test:a', 'low0'), low('test:b', 'low1')];
    const below = lows.map((layer) => ({ layer, disk: '' }));
    this.#layers = [...lows, { name: 'top', below, sectorsOfEach: half }];
  }

  async create(): Promise<void> {
    for (const layer of this.#layers) {
      await this.#host.dm.create({ name: layer.name, table: this.#table(layer) });
    }
  }

  start(): void {
    for (let n = this.#rng.between(1, OPERATORS_MAX); n > 0; n--) this.#soon();
  }

  /** Nobody does anything more; resolves when all that was begun has ended. */
  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#mend();
    await Promise.all(this.#pending.keys());
    // What was under way may have suspended a device after all.
    await this.#mend();
  }

  /** Nobody does anything more; what was begun is left as it is. */
  halt(): void {
    this.#isOver = true;
  }

  /** Verbs that have not ended. */
  get pending(): number {
    return this.#pending.size;
  }

  describe(): string {
    return [...this.#pending.values()].join(', ') || 'no verb';
  }

  /** Lets everything go that is suspended, with the table that it ought to have. */
  async #mend(): Promise<void> {
    const { dm } = this.#host;
    for (const layer of this.#layers) {
      const verbs = async (): Promise<void> => {
        await dm.load(layer.name, this.#table(layer));
        await dm.resume(layer.name);
      };
      await this.#noted(`load and resume ${layer.name}`, verbs());
    }
    for (const { name, state } of await dm.list()) {
      if (state === 'SUSPENDED') await this.#noted(`resume ${name}`, dm.resume(name));
    }
  }

  #soon(): void {
    if (this.#isOver) return;
    const ms = this.#rng.unit() * this.#rng.pick([1, 20, 100]);
    this.#host.scheduler.after(ms, () => {
      if (this.#isOver) return;
      const done = this.#one();
      void done.then(() => this.#soon());
    });
  }

  /** A verb; resolves when it has ended, whichever way. */
  #one(): Promise<void> {
    const rng = this.#rng;
    const { dm, scheduler, exports } = this.#host;
    this.counts.verbs++;
    const giveUp = new AbortController();
    const { signal } = giveUp;
    if (rng.chance(0.2)) scheduler.after(rng.unit() * 50, () => giveUp.abort());
    const layer = rng.pick(this.#layers);
    const { name } = layer;
    const scratch = rng.pick(SCRATCH);
    switch (rng.below(13)) {
      case 0:
      case 1:
        return this.#noted(`suspend ${name}`, dm.suspend(name, {}, signal));
      case 2:
        return this.#noted(
          `suspend --noflush ${name}`,
          dm.suspend(name, { noflush: true }, signal),
        );
      case 3:
      case 4:
      case 5:
        return this.#noted(`resume ${name}`, dm.resume(name, signal));
      case 6:
      case 7: {
        this.counts.tables++;
        return this.#noted(`load ${name}`, dm.load(name, this.#table(layer), {}, signal));
      }
      case 8:
        return this.#noted(`clear ${name}`, dm.clear(name, signal));
      case 9:
        return this.#rename(layer);
      case 10:
        return this.#remove(layer, signal);
      case 11:
        return rng.chance(0.5)
          ? this.#noted(`create ${scratch}`, this.#createScratch(scratch))
          : this.#noted(
              `remove ${scratch}`,
              dm.remove(scratch, { deferred: rng.chance(0.3) }, signal),
            );
      default: {
        const top = this.#layers[2]?.name ?? '';
        return rng.chance(0.5)
          ? this.#noted('export', exports.create({ name: 'more', device: top }))
          : this.#noted('unexport', exports.remove('more', rng.chance(0.5)));
      }
    }
  }

  async #rename(layer: Layer): Promise<void> {
    const newName = `n${++this.#names}`;
    const old = layer.name;
    const verb = async (): Promise<void> => {
      await this.#host.dm.rename(old, newName);
      layer.name = newName;
    };
    await this.#noted(`rename ${old} ${newName}`, verb());
  }

  /** All of them are in use: refused, or by force a table of `error`. */
  async #remove(layer: Layer, signal: AbortSignal): Promise<void> {
    const { dm } = this.#host;
    const force = this.#rng.chance(0.3);
    if (force) {
      this.counts.forced++;
      this.#host.mayFail();
    }
    await this.#noted(
      `remove ${force ? '--force ' : ''}${layer.name}`,
      dm.remove(layer.name, { force }, signal),
    );
  }

  /** Over the top device, which it only reads; so it may come and go. */
  async #createScratch(name: string): Promise<void> {
    const top = this.#layers[2] as Layer;
    const table = `0 ${top.sectorsOfEach} linear ${top.name} 0`;
    await this.#host.dm.create({ name, table, isReadOnly: true });
  }

  /** A refusal is a DmError, and nothing else is one. */
  async #noted(what: string, work: Promise<unknown>): Promise<void> {
    const done = work.then(
      () => undefined,
      (error: unknown) => {
        if (!(error instanceof DmError)) {
          const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
          this.#host.fail(`${what}: ${text}`);
        } else if (/given up/.test(error.message)) this.counts.givenUpVerbs++;
        else this.counts.refusedVerbs++;
      },
    );
    this.#pending.set(done, what);
    await done;
    this.#pending.delete(done);
  }

  /** One of the tables that mean the same. */
  #table(layer: Layer): string {
    const rng = this.#rng;
    const lines: string[] = [];
    for (const [i, { layer: below, disk }] of layer.below.entries()) {
      const name = below?.name ?? disk;
      const len = layer.sectorsOfEach;
      const cut = rng.chance(0.5) ? rng.between(1, len / 8 - 1) * 8 : len;
      for (const [from, to] of [[0, cut] as const, [cut, len] as const]) {
        if (to <= from) continue;
        const words = rng.pick([
          `linear ${name} ${from}`,
          `linear ${name} ${from}`,
          `striped 1 8 ${name} ${from}`,
          `delay ${name} ${from} ${rng.pick([0, 5])}`,
          `flakey ${name} ${from} 1000000 0`,
        ]);
        lines.push(`${i * len + from} ${to - from} ${words}`);
      }
    }
    return lines.join('\n');
  }
}
