// Promises nobody awaits. A slow path started from the I/O path has no caller to reject to; `spawn`
// gives it one: an unexpected rejection is a bug and ends the process with the path's name. The count
// of running slow paths tells an I/O engine that it must keep turning the event loop.

let running = 0;
let onChange: (running: number) => void = () => {};

export function spawn(name: string, work: Promise<unknown>): void {
  onChange(++running);
  work.then(
    () => onChange(--running),
    (error: unknown) => {
      onChange(--running);
      // Thrown outside the promise, so that the process stops instead of noting an unhandled rejection.
      setImmediate(() => {
        throw new Error(`slow path '${name}' failed`, { cause: error });
      });
    },
  );
}

export function slowPathsRunning(): number {
  return running;
}

/** One listener a thread: the I/O engine that owns it. */
export function onSlowPathChange(listener: (running: number) => void): void {
  onChange = listener;
}
