// Closing several things: an error of one is no reason to leave the others open.

/** Runs every closer, one after the other, also behind one that failed. Throws the first error at the end. */
export async function closeAll(closers: Iterable<() => Promise<void> | void>): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closers) {
    try {
      await close();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}
