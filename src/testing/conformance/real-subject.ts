// A real device as a subject: any table over any backends, in this process, with real I/O. Its content is
// overwritten.

import { DmError, errorText } from '../../base/errors.ts';
import { statusName } from '../../base/status.ts';
import { MIB, SECTOR_BYTES } from '../../base/units.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { PlaneCore } from '../../daemon/plane-core.ts';
import { escapeArg } from '../../dm/table-text.ts';
import { Arena } from '../../io/arena.ts';
import { NodeEngine } from '../../io/node-engine.ts';
import { Account, CheckFailure, fail, type PoweredOff, type Rig, type Subject } from './rig.ts';

export interface RealOptions {
  /** How much of a large device is used: half of it at its start, half at its end. Bytes. */
  readonly windowBytes?: number;
  /** What does not end within this time has failed, ms. */
  readonly timeoutMs?: number;
}

const WINDOW_BYTES = 2 * MIB;
const TIMEOUT_MS = 60_000;
const NAME = 'conformance';

let arena: Arena | null = null;

/** An arena for all of them: they follow each other. */
function sharedArena(): Arena {
  arena ??= new Arena(64 * MIB);
  return arena;
}

/** A table of lamina's, over real backends. */
export class TableSubject implements Subject {
  readonly name: string;
  readonly description: string;
  readonly isSimulated = false;
  readonly isSteady = false;
  readonly canCutPower = false;
  readonly #table: string;
  readonly #options: RealOptions;

  constructor(table: string, options: RealOptions = {}) {
    this.name = 'table';
    this.description = table.replaceAll('\n', ' | ');
    this.#table = table;
    this.#options = options;
  }

  async open(): Promise<Rig> {
    const core = newCore();
    try {
      return await RealRig.open(core, this.#table, this.#options);
    } catch (error) {
      await close(core);
      throw error;
    }
  }

  powerCut(): Promise<PoweredOff> {
    return fail('power cut of a device that is not under our control');
  }
}

/** What a table could name: a path, an NBD URI. */
export class BackendSubject implements Subject {
  readonly name: string;
  readonly description: string;
  readonly isSimulated = false;
  readonly isSteady = false;
  readonly canCutPower = false;
  readonly #reference: string;
  readonly #options: RealOptions;

  constructor(reference: string, options: RealOptions = {}) {
    this.name = reference;
    this.description = reference;
    this.#reference = reference;
    this.#options = options;
  }

  async open(): Promise<Rig> {
    return await openReference(this.#reference, this.#options);
  }

  powerCut(): Promise<PoweredOff> {
    return fail('power cut of a device that is not under our control');
  }
}

/** Opens a window of what `reference` names, zeroed. Throws CheckFailure. */
export async function openReference(
  reference: string,
  options: RealOptions,
  keepsContent = false,
): Promise<Rig> {
  const core = newCore();
  try {
    const { lenSectors } = await core.dm.measure(reference, { readOnly: false });
    return await RealRig.open(
      core,
      windowTable(reference, lenSectors, options),
      options,
      keepsContent,
    );
  } catch (error) {
    await close(core);
    if (error instanceof DmError) return fail(`cannot be opened: ${errorText(error)}`);
    throw error;
  }
}

/** Both ends of a large device, all of a small one. */
function windowTable(reference: string, lenSectors: number, options: RealOptions): string {
  const window = Math.floor((options.windowBytes ?? WINDOW_BYTES) / SECTOR_BYTES / 16) * 16;
  const device = escapeArg(reference);
  if (lenSectors <= window) return `0 ${lenSectors} linear ${device} 0`;
  const half = window / 2;
  const tail = Math.floor((lenSectors - half) / 8) * 8;
  const rest = lenSectors - tail;
  return `0 ${half} linear ${device} 0\n${half} ${rest} linear ${device} ${tail}`;
}

function newCore(): PlaneCore {
  return new PlaneCore(new NodeEngine(sharedArena()));
}

async function close(core: PlaneCore): Promise<void> {
  try {
    await core.dm.close();
  } finally {
    core.engine.close();
  }
}

class RealRig implements Rig {
  readonly device: BlockDevice;
  readonly arena: Arena;
  readonly driver;
  readonly lab = null;
  readonly top = NAME;
  readonly flushedDisks = [];
  readonly #account: Account;
  readonly #core: PlaneCore;
  readonly #timeoutMs: number;
  readonly #release: () => Promise<void>;
  #isClosed = false;

  static async open(
    core: PlaneCore,
    table: string,
    options: RealOptions,
    keepsContent = false,
  ): Promise<RealRig> {
    await core.dm.create({ name: NAME, table });
    const opened = await core.dm.openDevice(NAME);
    const rig = new RealRig(core, opened.device, options, () => opened.close());
    if (keepsContent) return rig;
    try {
      await rig.#zero();
    } catch (error) {
      await rig.abandon();
      throw error;
    }
    return rig;
  }

  private constructor(
    core: PlaneCore,
    device: BlockDevice,
    options: RealOptions,
    release: () => Promise<void>,
  ) {
    this.#core = core;
    this.device = device;
    this.arena = core.engine.arena;
    this.#account = new Account(device, this.arena, [], null);
    this.driver = this.#account.driver;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.#release = release;
  }

  async settle<T>(work: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        const pending = this.driver.describePending();
        reject(new CheckFailure(`no end within ${this.#timeoutMs / 1000} s: ${pending}`));
      }, this.#timeoutMs);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async control(): Promise<void> {
    await Promise.resolve();
  }

  async finish(): Promise<void> {
    this.#account.check();
    this.#isClosed = true;
    await this.#release();
    try {
      await this.settle(close(this.#core));
      this.#account.checkClosed();
    } catch (error) {
      if (error instanceof DmError) fail(`closing: ${errorText(error)}`);
      throw error;
    }
  }

  async abandon(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#release();
    await this.settle(close(this.#core)).catch(() => undefined);
    // Buffers of I/O that never ended are still taken.
    if (this.driver.pending.size > 0) arena = null;
  }

  async #zero(): Promise<void> {
    const total = this.device.lenSectors * SECTOR_BYTES;
    const step = 256 * 1024;
    const zeroes = new Uint8Array(step);
    for (let at = 0; at < total; at += step) {
      const part = zeroes.subarray(0, Math.min(step, total - at));
      const status = await this.settle(this.driver.write(at, part));
      if (status !== 0) fail(`filling it with zeroes: write at byte ${at}: ${statusName(status)}`);
    }
    const status = await this.settle(this.driver.flush());
    if (status !== 0) fail(`filling it with zeroes: flush: ${statusName(status)}`);
  }
}
