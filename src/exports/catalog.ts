// All exports of a data plane, by name. One name is one export: a name is taken from the moment somebody
// asks for it, so of two who create it at once the second is refused before its device is opened.

import { assert } from '../base/assert.ts';
import { type Clock, realClock, type Timer } from '../base/clock.ts';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { nameFault, printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { Arena } from '../io/arena.ts';
import type { ExportOptions, ExportStatus } from './control.ts';
import { type ChangeTeller, Export, type OpenDevice } from './export.ts';
import { WriteGate } from './write-gate.ts';

/** What clients can ask for by protocol; longer texts could not be told to them. */
export const EXPORT_TEXT_BYTES_MAX = 4096;

/**
 * How long a removal by force waits for I/O of users that are cut off. A device that is suspended, or does
 * not answer, may have it for ever; the export is gone all the same.
 */
const FORCE_WAIT_MS = 2000;

export interface ExportCatalogOptions {
  /** Where the buffers of write gates come from. */
  readonly arena: Arena;
  readonly clock?: Clock;
  /** Hears of a device that could not be let go in order after its export had been removed. */
  readonly log?: (line: string) => void;
  readonly changes?: ChangeTeller;
  /** Opens a mapped device by name. Throws DmError. */
  openDevice(
    name: string,
    how: { readonly by: string; readonly isReadOnly: boolean; readonly isAlone: boolean },
  ): Promise<OpenDevice>;
}

/** The gate of a device, shared by its exports. */
interface SharedGate {
  readonly gate: WriteGate;
  exports: number;
}

export class ExportCatalog {
  readonly #options: ExportCatalogOptions;
  readonly #exports = new Map<string, Export>();
  /** Names of exports whose devices are being opened. */
  readonly #beingCreated = new Set<string>();
  readonly #gates = new Map<BlockDevice, SharedGate>();
  #isClosed = false;
  /** The first flush that failed of an export that is gone. */
  #unflushed: DmError | undefined;

  constructor(options: ExportCatalogOptions) {
    this.#options = options;
  }

  find(name: string): Export | undefined {
    return this.#exports.get(name);
  }

  /** In the order they were created. */
  list(): Export[] {
    return [...this.#exports.values()];
  }

  /** Throws DmError; nothing is held open then. */
  async create(options: ExportOptions): Promise<ExportStatus> {
    const { name, description = '', isReadOnly = false } = options;
    const { isExclusive = false, isAlone = false } = options;
    checkName(name);
    checkLength(`export '${printable(name)}': description`, description);
    if (this.#exports.has(name) || this.#beingCreated.has(name)) {
      throw new DmError(Status.Exists, `export '${name}': exists already`);
    }
    this.#beingCreated.add(name);
    try {
      const by = `export '${printable(name)}'`;
      const open = await this.#options.openDevice(options.device, { by, isReadOnly, isAlone });
      if (this.#isClosed) {
        await open.close();
        throw new DmError(Status.ShuttingDown, `export '${name}': the server is ending`);
      }
      const user = isExclusive ? this.#userOf(open.device) : undefined;
      if (user !== undefined) {
        await open.close();
        const text = `device ${options.device}: is in use; export '${printable(user.name)}' has clients`;
        throw new DmError(Status.Busy, text);
      }
      const gate = this.#takeGate(open.device);
      if (gate === undefined) {
        await open.close();
        throw new DmError(
          Status.NoMemory,
          `export '${name}': the memory for buffers is spent just now; try again, or use a larger --buffer`,
        );
      }
      const created = new Export(
        {
          name,
          description,
          isReadOnly,
          isExclusive,
          isHeldElsewhere: () => {
            const holder = this.#holderOf(open.device);
            return holder !== undefined && holder.name !== name;
          },
          changes: this.#options.changes,
        },
        open,
        gate,
      );
      this.#exports.set(name, created);
      return created.status();
    } finally {
      this.#beingCreated.delete(name);
    }
  }

  /**
   * With `force`, users are ended; otherwise they make the export busy. Throws DmError. The device is let
   * go when the last I/O of these users has ended, which may be later.
   */
  async remove(name: string, force = false): Promise<void> {
    const found = this.#exports.get(name);
    if (found === undefined) throw this.#unknown(name);
    if (found.userCount > 0 && !force) {
      throw new DmError(
        Status.Busy,
        `export '${name}': ${found.userCount} connections use it; disconnect them or use --force`,
      );
    }
    this.#exports.delete(name);
    await this.#soon(name, this.#close(found));
  }

  /**
   * Closes every export; one that fails does not keep the others open. Throws the first error. A
   * flush that failed while an export was there is one, also when it has been removed since.
   */
  async close(): Promise<void> {
    this.#isClosed = true;
    const all = this.list();
    this.#exports.clear();
    const results = await Promise.allSettled(all.map((found) => this.#close(found)));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    if (this.#unflushed !== undefined) throw this.#unflushed;
  }

  async #close(found: Export): Promise<void> {
    try {
      await found.close();
    } finally {
      this.#noteFailure(found);
      this.#giveGate(found.device);
    }
  }

  #noteFailure({ name, device, flushFailure }: Export): void {
    if (flushFailure === Status.Ok) return;
    this.#unflushed ??= new DmError(
      flushFailure,
      `device ${device.name}: a flush by a client of export '${name}' failed ` +
        `(${errnoText(flushFailure)}): what was written before may not be on the medium`,
    );
  }

  /** Waits for the end of an export, but not for ever. */
  async #soon(name: string, closed: Promise<void>): Promise<void> {
    const { clock = realClock, log = (): void => {} } = this.#options;
    let isLate = false;
    const told = closed.catch((error: unknown) => {
      if (!isLate) throw error;
      log(`export '${name}', removed before: ${errorText(error)}`);
    });
    let timer: Timer | undefined;
    const late = new Promise<void>((resolve) => {
      timer = clock.after(FORCE_WAIT_MS, () => {
        isLate = true;
        resolve();
      });
    });
    try {
      await Promise.race([told, late]);
    } finally {
      timer?.cancel();
    }
  }

  /** The name of the export that has a device to itself; undefined: there is none. */
  holderOf(device: BlockDevice): string | undefined {
    return this.#holderOf(device)?.name;
  }

  #holderOf(device: BlockDevice): Export | undefined {
    return this.list().find((found) => found.device === device && found.holdsAlone);
  }

  /** An export of the device that somebody uses, or has to himself. */
  #userOf(device: BlockDevice): Export | undefined {
    return this.list().find(
      (found) => found.device === device && (found.userCount > 0 || found.holdsAlone),
    );
  }

  /** Undefined: no memory for a new one. */
  #takeGate(device: BlockDevice): WriteGate | undefined {
    let shared = this.#gates.get(device);
    if (shared === undefined) {
      const gate = WriteGate.tryMake(this.#options.arena);
      if (gate === undefined) return undefined;
      shared = { gate, exports: 0 };
      this.#gates.set(device, shared);
    }
    shared.exports++;
    return shared.gate;
  }

  #giveGate(device: BlockDevice): void {
    const shared = this.#gates.get(device);
    assert(shared !== undefined, `exports: device ${device.name} has no write gate`);
    if (--shared.exports > 0) return;
    this.#gates.delete(device);
    shared.gate.close();
  }

  #unknown(name: string): DmError {
    const names = this.list().map((found) => `'${found.name}'`);
    const there = names.length === 0 ? 'none' : names.join(', ');
    return new DmError(
      Status.NoEntry,
      `export '${printable(name)}': no such export; there are ${there}`,
    );
  }
}

function checkName(name: string): void {
  const what = `export name '${printable(name)}'`;
  checkLength(what, name);
  const fault = nameFault(name);
  if (fault !== undefined) throw invalid(`${what}: ${fault}`);
}

function checkLength(what: string, text: string): void {
  const bytes = Buffer.byteLength(text);
  if (bytes <= EXPORT_TEXT_BYTES_MAX) return;
  const shown = what.length > 100 ? `${what.slice(0, 100)}…'` : what;
  throw invalid(`${shown}: ${bytes} bytes; the limit is ${EXPORT_TEXT_BYTES_MAX}`);
}
