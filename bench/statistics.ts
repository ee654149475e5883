// What benchmarks say of several runs.

/** Median, smallest, largest; NaN without values. */
export type Spread = readonly [number, number, number];

export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (i: number): number => sorted[i] ?? Number.NaN;
  const middle = (sorted.length - 1) / 2;
  return [(at(Math.floor(middle)) + at(Math.ceil(middle))) / 2, at(0), at(sorted.length - 1)];
}

export function median(values: readonly number[]): number {
  return spread(values)[0];
}

export function showSpread([middle, low, high]: Spread): string {
  return `${middle.toFixed(2)} [${low.toFixed(2)}..${high.toFixed(2)}]`;
}

/** Pair by pair, of values that were measured side by side. */
export function showRatios(ours: readonly number[], theirs: readonly number[]): string {
  return showSpread(spread(ours.map((value, i) => value / (theirs[i] ?? Number.NaN))));
}
