// What the handshake's state machine tells its caller to do next, and which options need what.

import { Opt } from '../../format/nbd.ts';
import type { Negotiated } from './negotiated.ts';
import { encodeErrorReply } from './handshake.format.ts';

export type Step =
  /** Everything fed so far is used up: feed more, then ask again. */
  | { readonly kind: 'input' }
  /** Send and ask again. */
  | { readonly kind: 'reply'; readonly send: Uint8Array }
  /** Send, then transmission begins with `rest`. */
  | {
      readonly kind: 'negotiated';
      readonly send: Uint8Array;
      readonly negotiated: Negotiated;
      readonly rest: Uint8Array;
    }
  /** Send, start TLS, and go on with what comes through it. */
  | { readonly kind: 'starttls'; readonly send: Uint8Array }
  /** The client is done: send and close. */
  | { readonly kind: 'abort'; readonly send: Uint8Array }
  /** Close without a word. */
  | { readonly kind: 'fatal'; readonly why: string };

export const INPUT: Step = { kind: 'input' };
/** Options whose payload has fields; of all others it is dropped. */
export const PARSED_OPTIONS: ReadonlySet<number> = new Set([
  Opt.ExportName,
  Opt.Info,
  Opt.Go,
  Opt.ListMetaContext,
  Opt.SetMetaContext,
]);
/** Options that must come without data. ABORT may have some, which is ignored. */
export const EMPTY_OPTIONS: ReadonlySet<number> = new Set([
  Opt.List,
  Opt.StartTls,
  Opt.StructuredReply,
]);

export function fatal(why: string): Step {
  return { kind: 'fatal', why };
}

export function refuse(code: number, type: number, text: string): Step {
  return { kind: 'reply', send: encodeErrorReply(code, type, text) };
}

export function noExport(name: string): string {
  return `export '${name}': no such export`;
}
