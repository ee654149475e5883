// What bench:thin compares: a thin device, a linear one and qcow2, each in a folder of its own.

import { execFileSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openStack } from '../src/index.ts';
import { type RunningServer, startServer } from './servers.ts';

const LAMINA = fileURLToPath(new URL('../../bin/lamina', import.meta.url));
export const MIB = 1 << 20;

/** qemu-io takes less than 2 GiB at once. */
const PIECE_BYTES = 512 * MIB;

export interface Image {
  readonly name: string;
  /** Makes it in the folder, empty. */
  create(folder: string): Promise<void>;
  snapshot(folder: string): Promise<void>;
  /** Unmaps what it holds; the pages of its files stay. */
  empty(folder: string): Promise<void>;
  command(folder: string, socket: string): string[];
}

function poolTable(folder: string, sizeBytes: number): string {
  const files = `${join(folder, 'meta')} ${join(folder, 'data')}`;
  return `0 ${(sizeBytes * 2) / 512} thin-pool ${files} 128 0 1 skip_block_zeroing`;
}

async function onPool(table: string, ...messages: string[]): Promise<void> {
  const stack = await openStack(`pool,,,rw,${table}`);
  for (const text of messages) await stack.control.message('pool', 0, text);
  await stack.close();
}

function sparse(path: string, bytes: number): void {
  writeFileSync(path, '');
  truncateSync(path, bytes);
}

function lamina(socket: string): string[] {
  return [process.execPath, LAMINA, 'serve', '--unix', socket];
}

/** Of so many bytes each. */
export function makeImages(sizeBytes: number): readonly Image[] {
  const sectors = sizeBytes / 512;
  const table = (folder: string): string => poolTable(folder, sizeBytes);
  return [
    {
      name: 'thin',
      async create(folder) {
        sparse(join(folder, 'meta'), 16 * MIB);
        sparse(join(folder, 'data'), 2 * sizeBytes);
        await onPool(table(folder), 'create_thin 0');
      },
      snapshot: async (folder) => await onPool(table(folder), 'create_snap 1 0'),
      empty: async (folder) => await onPool(table(folder), 'delete 0', 'create_thin 0'),
      command: (folder, socket) => [
        ...lamina(socket),
        '--export',
        '=t',
        '--concise',
        `pool,,,rw,${table(folder)};t,,,rw,0 ${sectors} thin pool 0`,
      ],
    },
    {
      name: 'linear',
      create: (folder) => Promise.resolve(sparse(join(folder, 'data'), sizeBytes)),
      snapshot: () => Promise.resolve(),
      empty: () => Promise.resolve(),
      command: (folder, socket) => [...lamina(socket), join(folder, 'data')],
    },
    {
      name: 'qcow2',
      create(folder) {
        execFileSync('qemu-img', [
          'create',
          '-q',
          '-f',
          'qcow2',
          join(folder, 'data'),
          `${sizeBytes}`,
        ]);
        return Promise.resolve();
      },
      snapshot(folder) {
        execFileSync('qemu-img', ['snapshot', '-c', 'one', join(folder, 'data')]);
        return Promise.resolve();
      },
      empty(folder) {
        const image = `driver=qcow2,pass-discard-request=off,discard=unmap,file.filename=${join(folder, 'data')}`;
        const discards: string[] = [];
        for (let at = 0; at < sizeBytes; at += PIECE_BYTES) {
          discards.push('-c', `discard ${at} ${Math.min(PIECE_BYTES, sizeBytes - at)}`);
        }
        execFileSync('qemu-io', [...discards, '--image-opts', image]);
        return Promise.resolve();
      },
      command: (folder, socket) => [
        ...'qemu-nbd -t -e 16 -f qcow2 --aio=io_uring --cache=writeback --discard=unmap'.split(' '),
        '-k',
        socket,
        join(folder, 'data'),
      ],
    },
  ];
}

export async function serve(image: Image, at: string): Promise<RunningServer> {
  const { name } = image;
  const command = (_image: string, where: string): string[] => image.command(at, where);
  return await startServer({ name, command }, at, at, 'unix');
}
