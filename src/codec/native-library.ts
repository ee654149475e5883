// Native functions by their prototypes, from Node.js itself or from a library of the system.
//
// A library is bound deeply: Node.js exports a zlib and, from 22.15 on, a zstd of its own, and
// without that the calls inside the system's library would go to functions of the other version.

import koffi from 'koffi';

/** Functions by name. The arguments are numbers; addresses, too. */
export type NativeCalls<Name extends string> = Readonly<
  Record<Name, (...args: (number | string)[]) => number>
>;

export interface Found<Name extends string> {
  /** Which of the files it was; 'node' for Node.js itself. */
  readonly file: string;
  readonly calls: NativeCalls<Name>;
  /** What a function without arguments says in words. */
  words(prototype: string): string;
}

/** The functions in the first of these files that has all of them, undefined if none has. */
export function findCalls<Name extends string>(
  files: readonly (string | null)[],
  prototypes: Readonly<Record<Name, string>>,
): Found<Name> | undefined {
  for (const file of files) {
    try {
      const library = file === null ? koffi.load(null) : koffi.load(file, { deep: true });
      const calls: Record<string, unknown> = {};
      for (const [name, prototype] of Object.entries<string>(prototypes)) {
        calls[name] = library.func(prototype);
      }
      return {
        file: file ?? 'node',
        calls: calls as NativeCalls<Name>,
        words: (prototype) => (library.func(prototype) as unknown as () => string)(),
      };
    } catch {
      // Not installed, or without one of the functions.
    }
  }
  return undefined;
}

/** Remembers what `find` found, nothing included. */
export function once<T>(find: () => T): () => T {
  let found: { readonly value: T } | undefined;
  return () => (found ??= { value: find() }).value;
}

const ends: (() => void)[] = [];

/** Calls `free` when this thread ends by itself, for what native code allocated. */
export function onThreadEnd(free: () => void): void {
  if (ends.length === 0) {
    process.once('exit', () => {
      for (const end of ends) end();
    });
  }
  ends.push(free);
}

/** Memory that does not move, for what native code keeps. It lives as long as this object. */
export class NativeMemory {
  readonly address: number;
  readonly words: Int32Array;

  constructor(lenBytes: number) {
    this.words = new Int32Array(new SharedArrayBuffer(Math.ceil(lenBytes / 8) * 8));
    this.address = Number(koffi.address(this.words));
  }
}
