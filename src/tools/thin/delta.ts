// The difference of two devices as the XML of thin_delta (thin-provisioning-tools 0.9.0), to the byte: what is
// the same is named as well, and with `isVerbose` the data blocks, too. So all mappings of both are read;
// `diffTrees` reads only what is not shared.

import type { DiffKind } from './diff.ts';
import type { MappingRun, PoolDevice, PoolReader } from './pool-reader.ts';

/** A range within which the data blocks of both sides go on without a gap. */
export interface DeltaRange {
  readonly kind: DiffKind;
  readonly begin: number;
  length: number;
  readonly leftData: number | undefined;
  readonly rightData: number | undefined;
}

/** What is left of the runs of one device. */
class Runs {
  readonly #pieces: AsyncGenerator<readonly MappingRun[]>;
  #runs: readonly MappingRun[] = [];
  #next = 0;
  #used = 0;

  constructor(pieces: AsyncGenerator<readonly MappingRun[]>) {
    this.#pieces = pieces;
  }

  get run(): MappingRun | undefined {
    return this.#runs[this.#next];
  }

  get begin(): number {
    return this.run === undefined ? Number.POSITIVE_INFINITY : this.run.originBegin + this.#used;
  }

  get data(): number {
    return (this.run?.dataBegin ?? 0) + this.#used;
  }

  get end(): number {
    return this.run === undefined
      ? Number.POSITIVE_INFINITY
      : this.run.originBegin + this.run.length;
  }

  /** Leaves the next `length` blocks of the run behind. */
  async take(length: number): Promise<void> {
    this.#used += length;
    if (this.run !== undefined && this.#used < this.run.length) return;
    this.#used = 0;
    this.#next++;
    await this.fill();
  }

  async fill(): Promise<void> {
    if (this.#next < this.#runs.length) return;
    const { value, done } = await this.#pieces.next();
    this.#runs = done === true ? [] : value;
    this.#next = 0;
  }
}

export async function* deltaRanges(
  pool: PoolReader,
  leftRoot: number,
  rightRoot: number,
): AsyncGenerator<DeltaRange> {
  const left = new Runs(pool.runs(leftRoot));
  const right = new Runs(pool.runs(rightRoot));
  await left.fill();
  await right.fill();
  let last: DeltaRange | undefined;
  while (left.run !== undefined || right.run !== undefined) {
    const range = nextRange(left, right);
    if (range.leftData !== undefined) await left.take(range.length);
    if (range.rightData !== undefined) await right.take(range.length);
    if (last !== undefined && continues(last, range)) {
      last.length += range.length;
      continue;
    }
    if (last !== undefined) yield last;
    last = range;
  }
  if (last !== undefined) yield last;
}

function nextRange(left: Runs, right: Runs): DeltaRange {
  const begin = Math.min(left.begin, right.begin);
  const hasLeft = left.begin === begin;
  const hasRight = right.begin === begin;
  const end = Math.min(hasLeft ? left.end : left.begin, hasRight ? right.end : right.begin);
  const leftData = hasLeft ? left.data : undefined;
  const rightData = hasRight ? right.data : undefined;
  const both = leftData === rightData ? 'same' : 'different';
  const kind = hasLeft && hasRight ? both : hasLeft ? 'left-only' : 'right-only';
  return { kind, begin, length: end - begin, leftData, rightData };
}

function continues(last: DeltaRange, next: DeltaRange): boolean {
  const follows = (before: number | undefined, after: number | undefined): boolean =>
    before === undefined ? after === undefined : before + last.length === after;
  return (
    last.kind === next.kind &&
    last.begin + last.length === next.begin &&
    follows(last.leftData, next.leftData) &&
    follows(last.rightData, next.rightData)
  );
}

const TAGS: Readonly<Record<DiffKind, string>> = {
  same: 'same',
  different: 'different',
  'left-only': 'left_only',
  'right-only': 'right_only',
};

export async function* deltaXml(
  pool: PoolReader,
  sides: { readonly left: PoolDevice; readonly right: PoolDevice; readonly isVerbose: boolean },
): AsyncGenerator<string> {
  const { left, right, isVerbose } = sides;
  const { fields, dataMap } = pool.superblock;
  const held = fields.heldRoot === 0 ? '' : ` metadata_snap="${fields.heldRoot}"`;
  yield `<superblock uuid="" time="${fields.time}" transaction="${fields.transactionId}" ` +
    `data_block_size="${fields.dataBlockSize}" nr_data_blocks="${dataMap.nrBlocks}"${held}>\n` +
    `  <diff left="${left.id}" right="${right.id}">\n`;
  const ranges = deltaRanges(pool, left.root, right.root);
  if (isVerbose) yield* verboseXml(ranges);
  else yield* briefXml(ranges);
  yield '  </diff>\n</superblock>\n';
}

async function* verboseXml(ranges: AsyncIterable<DeltaRange>): AsyncGenerator<string> {
  let open: DiffKind | undefined;
  for await (const { kind, begin, length, leftData, rightData } of ranges) {
    if (open !== undefined && kind !== open) yield `    </${TAGS[open]}>\n`;
    if (kind !== open) yield `    <${TAGS[kind]}>\n`;
    open = kind;
    const data =
      kind === 'different'
        ? `left_data_begin="${leftData}" right_data_begin="${rightData}"`
        : `data_begin="${leftData ?? rightData}"`;
    yield `      <range begin="${begin}" ${data} length="${length}"/>\n`;
  }
  if (open !== undefined) yield `    </${TAGS[open]}>\n`;
}

async function* briefXml(ranges: AsyncIterable<DeltaRange>): AsyncGenerator<string> {
  let last: { kind: DiffKind; begin: number; end: number } | undefined;
  const text = ({ kind, begin, end }: NonNullable<typeof last>): string =>
    `    <${TAGS[kind]} begin="${begin}" length="${end - begin}"/>\n`;
  for await (const { kind, begin, length } of ranges) {
    if (last?.kind === kind && last.end === begin) {
      last.end += length;
      continue;
    }
    if (last !== undefined) yield text(last);
    last = { kind, begin, end: begin + length };
  }
  if (last !== undefined) yield text(last);
}
