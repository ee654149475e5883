// The devices of a pool as thin_ls (thin-provisioning-tools 0.9.0) prints them, to the byte.

import { SECTOR_BYTES } from '../../base/units.ts';
import { entryCount, valueAt } from '../../persistent-data/btree-node.format.ts';
import { mappedDataBlock } from '../../targets/thin/metadata.format.ts';
import type { PoolReader } from './pool-reader.ts';
import { countByDevices } from './used-blocks.ts';

export interface ListedDevice {
  readonly id: number;
  readonly mappedBlocks: number;
  /** Undefined if nobody asked for what costs reading all mappings. */
  readonly exclusiveBlocks: number | undefined;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}

type Amount = 'mapped' | 'exclusive' | 'shared';
type Column = (device: ListedDevice, blockSectors: number) => string;

function blocksOf(device: ListedDevice, amount: Amount): number {
  const { mappedBlocks, exclusiveBlocks = 0 } = device;
  if (amount === 'mapped') return mappedBlocks;
  return amount === 'exclusive' ? exclusiveBlocks : mappedBlocks - exclusiveBlocks;
}

function amounts(amount: Amount): Record<string, Column> {
  const name = amount.toUpperCase();
  return {
    [`${name}_BLOCKS`]: (device) => String(blocksOf(device, amount)),
    [`${name}_SECTORS`]: (device, sectors) => String(blocksOf(device, amount) * sectors),
    [`${name}_BYTES`]: (device, sectors) => bytesOf(device, amount, sectors).toString(),
    [name]: (device, sectors) => shortSize(bytesOf(device, amount, sectors)),
  };
}

function bytesOf(device: ListedDevice, amount: Amount, blockSectors: number): bigint {
  return BigInt(blocksOf(device, amount)) * BigInt(blockSectors * SECTOR_BYTES);
}

const COLUMNS: Readonly<Record<string, Column>> = {
  DEV: ({ id }) => String(id),
  ...amounts('mapped'),
  ...amounts('exclusive'),
  ...amounts('shared'),
  TRANSACTION: ({ transactionId }) => String(transactionId),
  CREATE_TIME: ({ creationTime }) => String(creationTime),
  SNAP_TIME: ({ snapshottedTime }) => String(snapshottedTime),
};

export const LIST_FIELDS: readonly string[] = Object.keys(COLUMNS);
export const LIST_FIELDS_USUAL: readonly string[] = ['DEV', 'MAPPED', 'CREATE_TIME', 'SNAP_TIME'];

const UNITS = ['', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
const UNIT = 1024n;
/** The largest number that is printed before the next unit is taken. */
const NUMBER_MAX = 8192n;

/** Numbers of four digits are rounded down, shorter ones to the nearest. */
function shortSize(bytes: bigint): string {
  let [value, rest, unit] = [bytes, 0n, 0];
  for (; value > NUMBER_MAX; unit++) [value, rest] = [value / UNIT, value % UNIT];
  if (value < UNIT && rest >= UNIT / 2n) value++;
  return `${value}${UNITS[unit] ?? ''}`;
}

/** Does a field tell what devices share? Only then all mappings are read. */
export function needsShares(fields: readonly string[]): boolean {
  return fields.some((field) => /^(EXCLUSIVE|SHARED)/.test(field));
}

/** All devices, ids ascending. */
export async function listDevices(pool: PoolReader, withShares: boolean): Promise<ListedDevice[]> {
  const uses = withShares ? await countByDevices(pool) : undefined;
  const listed: ListedDevice[] = [];
  for (const { id, root, details } of await pool.devices()) {
    let exclusiveBlocks: number | undefined;
    if (uses !== undefined) {
      exclusiveBlocks = 0;
      for await (const leaf of pool.leaves(root)) {
        const count = entryCount(leaf);
        for (let i = 0; i < count; i++) {
          if (uses.get(mappedDataBlock(leaf, valueAt(leaf, i))) === 1) exclusiveBlocks++;
        }
      }
    }
    listed.push({ id, exclusiveBlocks, ...details });
  }
  return listed;
}

/** A line for each device, and one of headings. */
export function listText(
  devices: readonly ListedDevice[],
  look: {
    readonly fields: readonly string[];
    readonly blockSectors: number;
    readonly hasHeaders: boolean;
  },
): string {
  const { fields, blockSectors, hasHeaders } = look;
  const rows = devices.map((d) => fields.map((field) => COLUMNS[field]?.(d, blockSectors) ?? ''));
  if (hasHeaders) rows.unshift([...fields]);
  const widths = fields.map((_, i) => rows.reduce((w, row) => Math.max(w, row[i]?.length ?? 0), 0));
  const lines = rows.map((row) =>
    row.map((cell, i) => `${cell.padStart(widths[i] ?? 0)} `).join(''),
  );
  return lines.map((line) => `${line}\n`).join('');
}
