// The workloads, as arguments of the load generator.

import type { Transport } from './servers.ts';

export interface Cell {
  readonly name: string;
  readonly load: readonly string[];
  readonly transport: Transport;
  /** The image is dropped from the page cache before each run. */
  readonly isCold?: boolean;
}

function four(prefix: string, transport: Transport, extra: readonly string[]): Cell[] {
  const cell = (name: string, load: readonly string[]): Cell => ({
    name: prefix + name,
    load: [...load, ...extra],
    transport,
  });
  return [
    cell('4k-read', ['-b', '4k', '-q', '32']),
    cell('4k-write', ['-b', '4k', '-q', '32', '-r', '0']),
    cell('1m-read', ['-b', '1m', '-q', '8', '-s']),
    cell('1m-write', ['-b', '1m', '-q', '8', '-s', '-r', '0']),
  ];
}

export const CELLS: readonly Cell[] = [
  ...four('', 'unix', []),
  ...four('4conn-', 'unix', ['-c', '4']),
  ...four('tcp-', 'tcp', []),
  { name: 'qd1-read', load: ['-b', '4k', '-q', '1'], transport: 'unix' },
  { name: 'qd1-write', load: ['-b', '4k', '-q', '1', '-r', '0'], transport: 'unix' },
  { name: 'cold-4k-read', load: ['-b', '4k', '-q', '32'], transport: 'unix', isCold: true },
];
