// What came out: a table of ratios for people, JSON for machines, bars for those who would rather look.

import { showSpread, type Spread, spread } from './statistics.ts';

export interface Sample {
  readonly iops: number;
  readonly mbps: number;
  readonly p50us: number;
  readonly p99us: number;
  readonly serverCpuUs: number;
}

export interface CellResult {
  readonly cell: string;
  readonly image: string;
  /** Per server, a sample a round; rounds of different servers belong together. */
  readonly samples: Readonly<Record<string, readonly Sample[]>>;
}

export interface Ratio {
  readonly cell: string;
  readonly image: string;
  readonly peer: string;
  /** Ours over the peer's, pair by pair: median, smallest, largest. */
  readonly iops: Spread;
  readonly serverCpu: Spread;
}

export function ratios(results: readonly CellResult[], ours: string): Ratio[] {
  const all: Ratio[] = [];
  for (const { cell, image, samples } of results) {
    const mine = samples[ours] ?? [];
    for (const [peer, theirs] of Object.entries(samples)) {
      if (peer === ours) continue;
      const pairs = mine.map((m, i) => [m, theirs[i]] as const);
      const of = (value: (s: Sample) => number): Spread =>
        spread(pairs.map(([a, b]) => (b === undefined ? Number.NaN : value(a) / value(b))));
      all.push({
        cell,
        image,
        peer,
        iops: of((s) => s.iops),
        serverCpu: of((s) => s.serverCpuUs),
      });
    }
  }
  return all;
}

export function table(results: readonly CellResult[], ours: string): string {
  const lines = [
    `${'cell'.padEnd(16)} ${'image'.padEnd(6)} ${'server'.padEnd(17)} ${'IOPS'.padStart(8)} ` +
      `${'MB/s'.padStart(7)} ${'p50 us'.padStart(7)} ${'p99 us'.padStart(8)} ${'CPU us/op'.padStart(9)}  ` +
      `${ours} / server: IOPS, CPU`,
  ];
  const found = ratios(results, ours);
  for (const { cell, image, samples } of results) {
    for (const [server, runs] of Object.entries(samples)) {
      const median = (value: (s: Sample) => number): number => spread(runs.map(value))[0];
      const ratio = found.find((r) => r.cell === cell && r.image === image && r.peer === server);
      const compared =
        ratio === undefined ? '' : `${showSpread(ratio.iops)}  ${showSpread(ratio.serverCpu)}`;
      lines.push(
        `${cell.padEnd(16)} ${image.padEnd(6)} ${server.padEnd(17)} ` +
          `${median((s) => s.iops)
            .toFixed(0)
            .padStart(8)} ` +
          `${median((s) => s.mbps)
            .toFixed(0)
            .padStart(7)} ` +
          `${median((s) => s.p50us)
            .toFixed(1)
            .padStart(7)} ` +
          `${median((s) => s.p99us)
            .toFixed(1)
            .padStart(8)} ` +
          `${median((s) => s.serverCpuUs)
            .toFixed(2)
            .padStart(9)}  ${compared}`.trimEnd(),
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

const ROW = 22;
const LEFT = 330;
const SCALE = 140;

/** Ratios as bars; the line is 1.0, level with the peer. */
export function plot(all: readonly Ratio[]): string {
  const height = all.length * ROW + 40;
  const bars = all.map((ratio, i) => {
    const y = 30 + i * ROW;
    const [median, low, high] = ratio.iops;
    const width = Math.min(median, 4) * SCALE;
    const colour = median >= 1 ? '#4a8' : '#c64';
    const label = `${ratio.image} ${ratio.cell} / ${ratio.peer}`;
    return (
      `<text x="${LEFT - 8}" y="${y + 14}" text-anchor="end">${label}</text>` +
      `<rect x="${LEFT}" y="${y + 3}" width="${width.toFixed(1)}" height="14" fill="${colour}"/>` +
      `<path d="M${LEFT + Math.min(low, 4) * SCALE} ${y + 10}H${LEFT + Math.min(high, 4) * SCALE}" ` +
      `stroke="#333"/><text x="${LEFT + width + 6}" y="${y + 14}">${median.toFixed(2)}</text>`
    );
  });
  const one = LEFT + SCALE;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 ${height}" font-family="sans-serif" ` +
    `font-size="12"><rect width="960" height="${height}" fill="#fff"/>` +
    `<text x="${LEFT}" y="18" font-weight="bold">IOPS, ours over theirs: median, range</text>` +
    `${bars.join('')}<path d="M${one} 26V${height - 8}" stroke="#000" stroke-dasharray="3 3"/></svg>\n`
  );
}
