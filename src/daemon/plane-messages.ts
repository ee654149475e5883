// What goes over the port between the control plane's thread and the data plane's.

import type { Agreement } from '../exports/front-end.ts';
import type { PlaneVerb, VerbArgs } from './verbs.ts';

/** A call of one verb or another. */
export type PlaneCall<N extends PlaneVerb = PlaneVerb> = {
  readonly [V in N]: { readonly verb: V; readonly args: VerbArgs<V> };
}[N];

export type ToPlane =
  | { readonly kind: 'call'; readonly id: number; readonly call: PlaneCall }
  /** Nobody wants the answer of this call any more: it ends as soon as it can. */
  | { readonly kind: 'abandon'; readonly id: number }
  | {
      readonly kind: 'connect';
      readonly id: number;
      /** The plane's own from now on. */
      readonly fd: number;
      readonly agreement: Agreement;
      readonly rest: Uint8Array;
    }
  | { readonly kind: 'exit' };

export type FromPlane =
  | { readonly kind: 'ready'; readonly wakeFd: number }
  | { readonly kind: 'unavailable'; readonly reason: string }
  /** No start because of something that another engine would not have either. */
  | { readonly kind: 'failed'; readonly status: number; readonly message: string }
  | { readonly kind: 'result'; readonly id: number; readonly value: unknown }
  | {
      readonly kind: 'error';
      readonly id: number;
      readonly message: string;
      /** Set for a DmError. */
      readonly status: number | undefined;
      readonly stack: string | undefined;
    }
  /** The connection with this id is over. */
  | { readonly kind: 'ended'; readonly id: number }
  /** A line for the operator. */
  | { readonly kind: 'log'; readonly line: string };

export interface PlaneWorkerData {
  readonly bufferBytes: number;
  readonly pollMs: number;
  readonly bareWordsAreDevices: boolean;
  readonly patienceMs: number | undefined;
}
