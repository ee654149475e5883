// What the handshake must know of an export, and what it has agreed on when it is done.

import type { Duplex } from 'node:stream';

/** An export as a client may be told of it. */
export interface ExportInfo {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  /** Fast-only zeroing is answered (perhaps with ENOTSUP) at once. */
  readonly canFastZero: boolean;
  /** A flush on one connection covers what the others were told is done. */
  readonly canMultiConn: boolean;
  readonly isRotational: boolean;
  /** Block sizes, bytes: smallest, best, largest request. */
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  readonly maxBlockBytes: number;
}

/** Where the handshake looks exports up. Free of side effects. */
export interface ExportCatalog {
  /** Undefined: no such export. '' is the default one. */
  lookup(name: string): Promise<ExportInfo | undefined>;
  listNames(): Promise<readonly { readonly name: string; readonly description: string }[]>;
}

/** The outcome of a handshake that ended in transmission. */
export interface Negotiated {
  readonly exportName: string;
  readonly isReadOnly: boolean;
  readonly hasStructuredReplies: boolean;
  /** Context id that the client was given for base:allocation; -1 when it did not ask. */
  readonly allocationContextId: number;
  /** For logs and contexts: `unix:3` or `127.0.0.1:40312`. */
  readonly peer: string;
}

/** Takes a connection over from the handshake: the socket, and the bytes that came behind the handshake. */
export interface Transmission {
  /** `ended` is called once when the connection is over; not when this rejects. */
  begin(socket: Duplex, negotiated: Negotiated, rest: Uint8Array, ended: () => void): Promise<void>;
}
