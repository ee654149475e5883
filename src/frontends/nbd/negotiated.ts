// What a handshake that ended in transmission has agreed on.

import type { Agreement, ConnectionTaker } from '../../exports/front-end.ts';

/** The name of this front end, for connections on their way to it. */
export const NBD_FRONT_END = 'nbd';

/** The outcome of a handshake that ended in transmission. */
export interface Negotiated extends Agreement {
  readonly exportName: string;
  readonly isReadOnly: boolean;
  readonly hasStructuredReplies: boolean;
  /** Context id that the client was given for base:allocation; -1 when it did not ask. */
  readonly allocationContextId: number;
  /** For logs and contexts: `unix:3` or `127.0.0.1:40312`. */
  readonly peer: string;
}

/** Takes a connection over from the handshake. */
export type Transmission = ConnectionTaker;
