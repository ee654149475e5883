// Makes a failing case small: leaves out what the failure does not need.

/**
 * The shortest list found by leaving out items of `items` for which `fails` still answers true. `fails` is
 * asked at most `runsMax` times; `items` itself is taken to fail. Delta debugging: halves first, then
 * quarters, down to single items.
 */
export async function shrink<T>(
  items: readonly T[],
  fails: (candidate: readonly T[]) => Promise<boolean>,
  runsMax = 200,
): Promise<readonly T[]> {
  let best = items;
  let runs = 0;
  for (let size = Math.ceil(best.length / 2); size >= 1; ) {
    let isSmaller = false;
    // From the end: what comes last is needed least often.
    for (let end = best.length; end > 0 && runs < runsMax; end -= size) {
      const candidate = [...best.slice(0, Math.max(0, end - size)), ...best.slice(end)];
      if (candidate.length === best.length) continue;
      runs++;
      if (!(await fails(candidate))) continue;
      best = candidate;
      isSmaller = true;
    }
    if (runs >= runsMax) break;
    if (size === 1 && !isSmaller) break;
    size = isSmaller ? Math.min(size, Math.ceil(best.length / 2)) : Math.floor(size / 2);
    if (size === 0) break;
  }
  return best;
}
