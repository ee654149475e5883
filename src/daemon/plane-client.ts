// A Plane whose every verb is a call by name: over a message port to the data plane's thread, or straight
// to a core in this one. Nobody above can tell which.

import type { ConnectionTaker } from '../exports/front-end.ts';
import type { EngineName } from '../io/engine.ts';
import type { Plane, VerbResult } from './plane.ts';
import { PLANE_VERBS, type PlaneVerb, type VerbArgs } from './verbs.ts';

/** How a call and a connection reach the core. */
export interface PlaneLink extends ConnectionTaker {
  readonly engine: EngineName;
  /** When `signal` is aborted, the call is given up if its verb can be. */
  call<N extends PlaneVerb>(
    verb: N,
    args: VerbArgs<N>,
    signal?: AbortSignal,
  ): Promise<VerbResult<N>>;
  /** After `shutdown` has been called; frees threads and memory. */
  close(): Promise<void>;
}

type PlaneCalls = { readonly [N in PlaneVerb]: (...args: VerbArgs<N>) => Promise<VerbResult<N>> };

export function planeOver(link: PlaneLink): Plane {
  const calls = callsOver(link);
  return {
    ...calls,
    engine: link.engine,
    call: (verb, args, signal) => link.call(verb, args, signal),
    begin: (...connection) => link.begin(...connection),
    shutdown: async () => {
      try {
        await calls.shutdown();
      } finally {
        await link.close();
      }
    },
  };
}

/** A method for each verb. */
function callsOver(link: PlaneLink): PlaneCalls {
  const method =
    <N extends PlaneVerb>(verb: N) =>
    (...args: VerbArgs<N>): Promise<VerbResult<N>> =>
      link.call(verb, args);
  // Complete, because the names are the verbs'.
  return Object.fromEntries(
    PLANE_VERBS.map((verb) => [verb, method(verb)]),
  ) as unknown as PlaneCalls;
}
