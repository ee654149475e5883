// Assertions and the debug build.
//
// `assert` is always on: a broken invariant in a block layer is stopped, not survived. The debug build
// (LAMINA_DEBUG=1 in the environment) adds the checks that cost something per I/O: ownership of vectors,
// poison after free, lifetimes of clones and borrowed contexts. `debugBuild` is a module constant, so in
// a release process the optimizing compiler removes every `if (debugBuild)` block.

export const debugBuild: boolean = (process.env['LAMINA_DEBUG'] ?? '') === '1';

/** A broken invariant: a bug in this program, never something a client or an operator did. */
export class BugError extends Error {
  override readonly name = 'BugError';
}

export function bug(why: string): never {
  throw new BugError(why);
}

/**
 * A message with values in it is put together at every call, whether the condition holds or not:
 * where that is per I/O, write `if (...) bug(...)`.
 */
export function assert(condition: unknown, why: string): asserts condition {
  if (!condition) bug(why);
}
