// What the program uses of WebAssembly: memory that threads share, and small modules over it. Node has
// it; the type library that knows it is a browser's.

import { DmError } from './errors.ts';
import { Status } from './status.ts';
import { MIB } from './units.ts';

declare const WebAssembly: {
  Memory: new (d: { initial: number; maximum: number; shared: boolean }) => SharedMemory;
  Module: new (bytes: Uint8Array) => object;
  Instance: new (
    module: object,
    imports: Record<string, Record<string, unknown>>,
  ) => { readonly exports: object };
};

/** Can be passed to other threads, which then see the same bytes. */
export interface SharedMemory {
  readonly buffer: SharedArrayBuffer;
}

const PAGE_BYTES = 65536;

/** Fixed in size, `lenBytes` a multiple of 64 KiB; page-aligned, and it never moves. */
export function allocateShared(lenBytes: number): SharedMemory {
  const pages = lenBytes / PAGE_BYTES;
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (cause) {
    // A limit of address space or of memory: the operator's, not ours.
    const text = `${lenBytes / MIB} MiB of memory to share between threads: not to be had here`;
    throw new DmError(Status.NoMemory, text, { cause });
  }
}

/** What a module exports that imports nothing but `memory.shared`. */
export function instantiate(bytes: Uint8Array, memory: SharedMemory): object {
  return new WebAssembly.Instance(new WebAssembly.Module(bytes), { memory: { shared: memory } })
    .exports;
}
