// What a handshake that ended in transmission has agreed on.

import type { Agreement, ConnectionTaker } from '../../exports/front-end.ts';

/** The name of this front end, for connections on their way to it. */
export const NBD_FRONT_END = 'nbd';

/** A metadata context: an id that the client was given, and what it tells. */
export interface MetaContext {
  readonly id: number;
  /** The device since which changes are told; undefined: base:allocation. */
  readonly base: string | undefined;
}

/** The outcome of a handshake that ended in transmission. */
export interface Negotiated extends Agreement {
  readonly exportName: string;
  readonly isReadOnly: boolean;
  readonly hasStructuredReplies: boolean;
  /** What the client has selected for its block status requests, in the order of the answer. */
  readonly contexts: readonly MetaContext[];
  /** For logs and contexts: `unix:3` or `127.0.0.1:40312`. */
  readonly peer: string;
}

/** Takes a connection over from the handshake. */
export type Transmission = ConnectionTaker;
