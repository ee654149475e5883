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
const SCALE = 120;
/** Bars end here; a longer one gets a mark where it is cut, and its number as every other. */
const RATIO_MAX = 4;
const NUMBERS = LEFT + RATIO_MAX * SCALE + 24;
const WIDTH = NUMBERS + 140;

function x(ratio: number): string {
  return (LEFT + Math.min(ratio, RATIO_MAX) * SCALE).toFixed(1);
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

/** Ratios as bars, each with median and range in numbers; the dashed line is 1.0, level with the peer. */
export function plot(all: readonly Ratio[]): string {
  const bottom = 34 + all.length * ROW;
  const scale = Array.from({ length: RATIO_MAX + 1 }, (_, ratio) => {
    const dashes = ratio === 1 ? 'stroke="#000" stroke-dasharray="3 3"' : 'stroke="#ddd"';
    return (
      `<path d="M${x(ratio)} 28V${bottom}" ${dashes}/>` +
      `<text x="${x(ratio)}" y="${bottom + 14}" text-anchor="middle" fill="#555">${ratio}</text>`
    );
  });
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${bottom + 22}" ` +
    `font-family="sans-serif" font-size="12"><rect width="${WIDTH}" height="${bottom + 22}" fill="#fff"/>` +
    `<text x="${LEFT}" y="18" font-weight="bold">IOPS, ours over theirs</text>` +
    `<text x="${NUMBERS}" y="18">median [range]</text>` +
    `${scale.join('')}${all.map(bar).join('')}</svg>\n`
  );
}

function bar(ratio: Ratio, index: number): string {
  const y = 34 + index * ROW;
  const [median, low, high] = ratio.iops;
  const label = escape(`${ratio.image} ${ratio.cell} / ${ratio.peer}`);
  const width = (Math.min(median, RATIO_MAX) * SCALE).toFixed(1);
  const numbers = `${median.toFixed(2)} [${low.toFixed(2)}..${high.toFixed(2)}]`;
  return (
    `<text x="${LEFT - 8}" y="${y + 14}" text-anchor="end">${label}</text>` +
    `<rect x="${LEFT}" y="${y + 3}" width="${width}" height="14" fill="${median >= 1 ? '#4a8' : '#c64'}"/>` +
    `<path d="${cap(low, y)}M${x(low)} ${y + 10}H${x(high)}${cap(high, y)}" stroke="#333"/>` +
    (median > RATIO_MAX ? cut(y) : '') +
    `<text x="${NUMBERS}" y="${y + 14}">${numbers}</text>`
  );
}

/** The end of a range, where it is within the picture. */
function cap(ratio: number, y: number): string {
  return ratio > RATIO_MAX ? '' : `M${x(ratio)} ${y + 6}v8`;
}

/** Two slanted white lines through the end of a bar, and an arrow: it goes on. */
function cut(y: number): string {
  const at = LEFT + RATIO_MAX * SCALE;
  return (
    `<path d="M${at - 16} ${y + 19}l6 -18m4 18l6 -18" stroke="#fff" stroke-width="3"/>` +
    `<path d="M${at + 2} ${y + 4}l8 6l-8 6z" fill="#4a8"/>`
  );
}
