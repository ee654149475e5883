// All exports of a data plane, by name. One name is one export: a name is taken from the moment somebody
// asks for it, so of two who create it at once the second is refused before its device is opened.

import { DmError, invalid } from '../base/errors.ts';
import { nameFault, printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { ExportOptions, ExportStatus } from './control.ts';
import { Export, type OpenDevice } from './export.ts';
import { WriteGate } from './write-gate.ts';

/** What clients can ask for by protocol; longer texts could not be told to them. */
export const EXPORT_TEXT_BYTES_MAX = 4096;

export interface ExportCatalogOptions {
  /** Opens a mapped device by name. Throws DmError. */
  openDevice(name: string): Promise<OpenDevice>;
}

export class ExportCatalog {
  readonly #options: ExportCatalogOptions;
  readonly #exports = new Map<string, Export>();
  /** Names of exports whose devices are being opened. */
  readonly #beingCreated = new Set<string>();
  readonly #gates = new WeakMap<BlockDevice, WriteGate>();
  #isClosed = false;

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
    checkName(name);
    checkLength(`export '${printable(name)}': description`, description);
    if (this.#exports.has(name) || this.#beingCreated.has(name)) {
      throw new DmError(Status.Exists, `export '${name}': exists already`);
    }
    this.#beingCreated.add(name);
    try {
      const open = await this.#options.openDevice(options.device);
      if (this.#isClosed) {
        await open.close();
        throw new DmError(Status.ShuttingDown, `export '${name}': the server is ending`);
      }
      const settings = { name, description, isReadOnly };
      const created = new Export(settings, open, this.#gateOf(open.device));
      this.#exports.set(name, created);
      return created.status();
    } finally {
      this.#beingCreated.delete(name);
    }
  }

  /** With `force`, users are ended; otherwise they make the export busy. Throws DmError. */
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
    await found.close();
  }

  /** Closes every export; one that fails does not keep the others open. Throws the first error. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const all = this.list();
    this.#exports.clear();
    const results = await Promise.allSettled(all.map((found) => found.close()));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  #gateOf(device: BlockDevice): WriteGate {
    let gate = this.#gates.get(device);
    if (gate === undefined) {
      gate = new WriteGate();
      this.#gates.set(device, gate);
    }
    return gate;
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
