// The data plane's side of the NBD server: exports, and the connections that transmit.

import type { Duplex } from 'node:stream';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { ExportOptions, ExportStatus } from '../../dm/control.ts';
import type { IoEngine } from '../../io/engine.ts';
import { NBD_STRING_MAX } from '../../format/nbd.ts';
import { NbdConnection } from './connection.ts';
import type { ExportInfo, Negotiated } from './export.ts';
import { NbdExport } from './nbd-export.ts';
import { RequestPool } from './request.ts';
import { WriteGate } from './write-gate.ts';

/** A device held open for an export. */
export interface OpenDevice {
  readonly device: BlockDevice;
  close(): Promise<void> | void;
}

export interface TransmissionOptions {
  readonly engine: IoEngine;
  /** Opens a mapped device by name. Throws DmError. */
  openDevice(name: string): Promise<OpenDevice>;
}

/** How long clients have for their last replies when the server ends. */
const SHUTDOWN_GRACE_MS = 5000;

export class TransmissionServer {
  readonly #options: TransmissionOptions;
  readonly #exports = new Map<string, NbdExport>();
  readonly #connections = new Set<NbdConnection>();
  readonly #pool = new RequestPool();
  readonly #gates = new WeakMap<BlockDevice, WriteGate>();
  #endedRequests = 0;

  constructor(options: TransmissionOptions) {
    this.#options = options;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Requests taken since the start. */
  get requestCount(): number {
    let count = this.#endedRequests;
    for (const connection of this.#connections) count += connection.requestCount;
    return count;
  }

  async createExport(options: ExportOptions): Promise<ExportStatus> {
    const { name } = options;
    if (Buffer.byteLength(name) > NBD_STRING_MAX) {
      const found = Buffer.byteLength(name);
      throw new DmError(
        Status.Invalid,
        `export name: ${found} bytes; the limit is ${NBD_STRING_MAX}`,
      );
    }
    this.#refuseExisting(name);
    const open = await this.#options.openDevice(options.device);
    if (this.#exports.has(name)) await open.close();
    this.#refuseExisting(name);
    let gate = this.#gates.get(open.device);
    if (gate === undefined) {
      gate = new WriteGate();
      this.#gates.set(open.device, gate);
    }
    const full = {
      name,
      device: options.device,
      description: options.description ?? '',
      isReadOnly: options.isReadOnly ?? false,
    };
    const created = new NbdExport(full, open.device, gate, async () => {
      await open.close();
    });
    this.#exports.set(name, created);
    return created.status();
  }

  async removeExport(name: string, force = false): Promise<void> {
    const found = this.#find(name);
    if (found.users.size > 0 && !force) {
      throw new DmError(
        Status.Busy,
        `export '${name}': ${found.users.size} connections use it; disconnect them or use --force`,
      );
    }
    this.#exports.delete(name);
    await Promise.all(
      [...this.#connections].filter((c) => c.export === found).map((c) => this.#end(c)),
    );
    await found.release();
  }

  listExports(): ExportStatus[] {
    return [...this.#exports.values()].map((e) => e.status());
  }

  lookup(name: string): ExportInfo | undefined {
    return this.#exports.get(name)?.info(name);
  }

  /**
   * Begins transmission on a connected socket; `source` is what the engine's `openStream` takes. `ended`
   * is called once, when the connection is over.
   */
  connect(
    source: number | Duplex,
    negotiated: Negotiated,
    rest: Uint8Array,
    ended: () => void,
  ): void {
    const stream = this.#options.engine.openStream(source);
    const found = this.#exports.get(negotiated.exportName);
    if (found === undefined) {
      // Removed since the handshake looked it up.
      stream.close();
      ended();
      return;
    }
    const connection = new NbdConnection({
      engine: this.#options.engine,
      pool: this.#pool,
      export: found,
      negotiated,
      stream,
      rest,
      onClosed: (closed) => {
        this.#connections.delete(closed);
        this.#endedRequests += closed.requestCount;
        ended();
      },
    });
    this.#connections.add(connection);
    connection.pump();
  }

  /** Answers what is in flight, closes every connection, lets every export's device go. */
  async shutdown(): Promise<void> {
    // A client that does not read its replies holds up the end only so long.
    const timer = this.#options.engine.clock.after(SHUTDOWN_GRACE_MS, () => {
      for (const connection of this.#connections) connection.abort();
    });
    await Promise.all([...this.#connections].map((c) => c.drain()));
    timer.cancel();
    for (const found of this.#exports.values()) await found.release();
    this.#exports.clear();
  }

  async #end(connection: NbdConnection): Promise<void> {
    const closed = connection.drain();
    connection.abort();
    await closed;
  }

  #find(name: string): NbdExport {
    const found = this.#exports.get(name);
    if (found !== undefined) return found;
    const names = [...this.#exports.keys()].map((n) => `'${n}'`).join(', ');
    throw new DmError(
      Status.NoEntry,
      `export '${name}': no such export; there are ${names === '' ? 'none' : names}`,
    );
  }

  #refuseExisting(name: string): void {
    if (this.#exports.has(name)) {
      throw new DmError(Status.Exists, `export '${name}': exists already`);
    }
  }
}
