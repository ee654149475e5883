// The data plane's side of the NBD server: the connections that transmit.

import type { Duplex } from 'node:stream';
import type { ExportCatalog } from '../../exports/catalog.ts';
import type { FrontEnd, FrontEndStats } from '../../exports/front-end.ts';
import type { IoEngine } from '../../io/engine.ts';
import { LineLog } from '../../base/line-log.ts';
import { BufferMemory } from './buffer-memory.ts';
import { NbdConnection } from './connection.ts';
import { NBD_FRONT_END, type Negotiated } from './negotiated.ts';
import { RequestPool } from './request.ts';

/** How long a connection that was cut off may take to end; longer only when its device does not answer. */
const CUT_OFF_MS = 1000;

export interface TransmissionOptions {
  /** Hears why a connection was ended from here, a line each. */
  readonly log?: ((line: string) => void) | undefined;
  /** How long a client may owe something while buffers are short; see BufferMemory. */
  readonly patienceMs?: number | undefined;
}

export class TransmissionServer implements FrontEnd {
  readonly name = NBD_FRONT_END;
  readonly #engine: IoEngine;
  readonly #exports: ExportCatalog;
  readonly #connections = new Set<NbdConnection>();
  readonly #pool = new RequestPool();
  readonly #memory: BufferMemory;
  readonly #log: LineLog;
  #endedRequests = 0;
  #isStopping = false;

  constructor(engine: IoEngine, exports: ExportCatalog, options: TransmissionOptions = {}) {
    this.#engine = engine;
    this.#exports = exports;
    this.#memory = new BufferMemory(engine, options.patienceMs);
    this.#log = new LineLog(options.log ?? (() => {}), engine.clock);
  }

  stats(): FrontEndStats {
    let requests = this.#endedRequests;
    for (const connection of this.#connections) requests += connection.requestCount;
    return { connections: this.#connections.size, requests };
  }

  connect(
    source: number | Duplex,
    negotiated: Negotiated,
    rest: Uint8Array,
    ended: () => void,
  ): void {
    const stream = this.#engine.openStream(source);
    const found = this.#exports.find(negotiated.exportName);
    // An export may have been removed since the handshake looked it up.
    if (found === undefined || this.#isStopping) {
      stream.close();
      ended();
      return;
    }
    const connection = new NbdConnection({
      engine: this.#engine,
      pool: this.#pool,
      memory: this.#memory,
      log: this.#log.line,
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

  async stop(graceMs: number): Promise<void> {
    this.#isStopping = true;
    const { clock } = this.#engine;
    const drained = Promise.all([...this.#connections].map((c) => c.drain()));
    await new Promise<void>((resolve) => {
      let timer = clock.after(graceMs, () => {
        for (const connection of this.#connections) connection.abort();
        timer = clock.after(CUT_OFF_MS, resolve);
      });
      void drained.then(() => {
        timer.cancel();
        resolve();
      });
    });
  }
}
