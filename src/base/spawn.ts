// Promises nobody awaits. A slow path started from the I/O path has no caller to reject to; `spawn`
// gives it one: an unexpected rejection is a bug and ends the process with the path's name.

export function spawn(name: string, work: Promise<unknown>): void {
  work.catch((error: unknown) => {
    // Thrown outside the promise, so that the process stops instead of noting an unhandled rejection.
    setImmediate(() => {
      throw new Error(`slow path '${name}' failed`, { cause: error });
    });
  });
}
