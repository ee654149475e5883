// The data plane as the control plane sees it: a device mapper, its exports, and connections
// handed to it. It lives in a thread of its own (uring engine) or in this one (node engine);
// nobody above can tell.

import type { DmControl } from '../dm/control.ts';
import type { ExportControl } from '../exports/control.ts';
import type { ConnectionTaker } from '../exports/front-end.ts';
import type { EngineName } from '../io/engine.ts';
import type { NodeLoop } from '../io/node-loop.ts';
import type { PlaneVerb, VerbArgs } from './verbs.ts';

/** What a verb of the plane answers. */
export type VerbResult<N extends PlaneVerb> = Awaited<ReturnType<Plane[N]>>;

export interface PlaneOptions {
  /** `auto` probes: uring where the kernel and the sandbox allow it, else node. */
  readonly engine: EngineName | 'auto';
  /** Budget for I/O buffers, bytes. */
  readonly bufferBytes: number;
  /**
   * How long the data plane's thread looks for work before it sleeps, while that pays. 0: not
   * at all.
   */
  readonly pollMs: number;
  /**
   * A bare word in a table that names no mapped device is an error. Otherwise such a word is a
   * file of the current folder, which is right where a person's own words come first hand.
   */
  readonly bareWordsAreDevices?: boolean;
  /** Hears what an operator should know of clients and devices, a line each. */
  readonly log?: ((line: string) => void) | undefined;
  /** How long a client may take nothing of its replies while buffers are short; 10 s if not given. */
  readonly patienceMs?: number | undefined;
}

export interface PlaneStats {
  readonly engine: EngineName;
  /**
   * How the plane's thread hears of what waits for Node's event loop; undefined where it lives
   * in that loop.
   */
  readonly loop: NodeLoop['scheme'] | undefined;
  readonly connections: number;
  readonly requests: number;
  readonly bufferBytes: number;
  readonly bufferBytesUsed: number;
  readonly bufferBytesPeak: number;
}

export interface Plane extends DmControl, ExportControl, ConnectionTaker {
  readonly engine: EngineName;
  /** Any verb by its name. When `signal` is aborted, the call is given up if the verb can be. */
  call<N extends PlaneVerb>(
    verb: N,
    args: VerbArgs<N>,
    signal?: AbortSignal,
  ): Promise<VerbResult<N>>;
  /** Size of what a table could name: opened, measured, closed. Throws DmError. */
  measure(
    reference: string,
    options: { readonly readOnly: boolean },
  ): Promise<{ readonly lenSectors: number; readonly sizeNote: string | undefined }>;
  stats(): Promise<PlaneStats>;
  /** Has files looked after: what is deleted or replaced while it is open is told. Never rejects. */
  look(): Promise<void>;
  /** While `shutdown` runs: what it has not done yet, a line each. */
  unflushed(): Promise<readonly string[]>;
  /**
   * Ends in order: no new requests are read, running ones finish and are answered, connections
   * close, every device is flushed and closed. Rejects when a flush failed.
   */
  shutdown(): Promise<void>;
}
