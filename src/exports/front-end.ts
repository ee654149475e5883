// What the data plane knows of a front end: a server of exports that takes connections, counts, and ends.
//
// A front end is made with the catalog. It looks an export up by the name its client asked for, attaches
// one ExportUser for each connection, sends bios to `export.device` on a context of its own, and detaches
// when the last of them has ended. What changes the device goes through `export.gate`, which all front
// ends share. An export that is removed by force ends its users; a front end never holds on to one
// without being attached.

import type { Duplex } from 'node:stream';

/**
 * What a client and a front end agreed on before the data plane takes the connection. Plain data,
 * because it may cross to another thread.
 */
export interface Agreement {
  /** Name of the front end that is to have the connection. */
  readonly frontEnd: string;
}

/** Takes a connection over from whoever accepted it: its socket, and bytes that came ahead. */
export interface ConnectionTaker {
  /** `ended` is called once when the connection is over; not when this rejects. */
  begin(socket: Duplex, agreement: Agreement, rest: Uint8Array, ended: () => void): Promise<void>;
}

export interface FrontEndStats {
  readonly connections: number;
  /** Requests taken since the start. */
  readonly requests: number;
}

export interface FrontEnd {
  readonly name: string;
  /**
   * Serves a connected socket; `source` is what the engine's `openStream` takes. `ended` is called once,
   * when the connection is over.
   */
  connect(source: number | Duplex, agreement: Agreement, rest: Uint8Array, ended: () => void): void;
  /**
   * Takes nothing new, answers what is in flight for at most `graceMs`, then cuts off whoever is left.
   * Resolves when no connection is left that could be ended: what waits for a device that does not
   * answer ends with the device.
   */
  stop(graceMs: number): Promise<void>;
  stats(): FrontEndStats;
}
