// What goes over the port between the control plane's thread and the data plane's.

import type { Agreement } from '../exports/front-end.ts';

export type ToPlane =
  | {
      readonly kind: 'call';
      readonly id: number;
      readonly method: string;
      readonly args: unknown[];
    }
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
  | { readonly kind: 'ended'; readonly id: number };

export interface PlaneWorkerData {
  readonly bufferBytes: number;
  readonly pollMs: number;
}
