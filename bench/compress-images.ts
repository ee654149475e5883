// What bench:compress compares: volumes of insitu_comp, a linear device, qcow2 and nbdkit's filters, each made from
// the same data.

import { execFileSync } from 'node:child_process';
import { copyFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { has, hasFilter } from './compress-programs.ts';
import { runLoad } from './load.ts';
import { type RunningServer, startServer } from './servers.ts';

const LAMINA = fileURLToPath(new URL('../../bin/lamina', import.meta.url));
const MIB = 1 << 20;
/** What pieces of nbdkit's xz filter have. */
const XZ_BLOCK = 131072;

export interface Source {
  readonly path: string;
  readonly bytes: number;
}

export interface Image {
  readonly name: string;
  readonly isWritable: boolean;
  /** A string says what is missing. */
  missing(): string | null;
  /** Makes `path`, empty. */
  create(path: string, source: Source): void;
  /** Puts the data into what `create` made. */
  fill(path: string, source: Source): Promise<void>;
  command(path: string, socket: string, source: Source): string[];
}

function sparse(path: string, bytes: number): void {
  writeFileSync(path, '');
  truncateSync(path, bytes);
}

export async function serve(image: Image, path: string, source: Source): Promise<RunningServer> {
  const { name } = image;
  const command = (_image: string, socket: string): string[] => image.command(path, socket, source);
  return await startServer({ name, command }, path, dirname(path), 'unix');
}

/** Writes the data in pieces of 1 MiB, as any client would. */
async function fillByClient(image: Image, path: string, source: Source): Promise<void> {
  const server = await serve(image, path, source);
  const requests = String(source.bytes / MIB);
  const once = ['-b', '1m', '-q', '8', '-s', '-r', '0', '-n', requests, '-i', source.path];
  try {
    await runLoad(server.uri, once);
    await runLoad(server.uri, [
      '-b',
      '4k',
      '-q',
      '1',
      '-n',
      '2',
      '-r',
      '0',
      '-f',
      '1',
      '-s',
      '-i',
      source.path,
    ]);
  } finally {
    await server.stop();
  }
}

function lamina(socket: string): string[] {
  return [process.execPath, LAMINA, 'serve', '--unix', socket];
}

/** `lamina compress format` makes it, with this codec. */
export function compressed(codec: string): Image {
  const image: Image = {
    name: `lamina-${codec}`,
    isWritable: true,
    missing: () => null,
    create(path, source) {
      // A sixteenth is the spill area, 0.4 % are the records.
      sparse(path, Math.ceil((source.bytes * 1.1) / MIB) * MIB + 4 * MIB);
      const args = [LAMINA, 'compress', 'format', path, '--codec', codec];
      execFileSync(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    },
    fill: async (path, source) => await fillByClient(image, path, source),
    command: (path, socket, { bytes }) => [
      ...lamina(socket),
      '--table',
      `0 ${bytes / 512} insitu_comp ${path} writeback 5`,
    ],
  };
  return image;
}

const LINEAR: Image = {
  name: 'linear',
  isWritable: true,
  missing: () => null,
  create: (path, { bytes }) => sparse(path, bytes),
  fill: (path, source) => Promise.resolve(copyFileSync(source.path, path)),
  command: (path, socket) => [...lamina(socket), path],
};

function qcow2(type: string): Image {
  return {
    name: `qcow2-${type}`,
    isWritable: false,
    missing: () => (has('qemu-nbd') && has('qemu-img') ? null : 'qemu-nbd and qemu-img'),
    create: (path) => rmSync(path, { force: true }),
    fill(path, source) {
      const how = ['-c', '-W', '-m', '4', '-o', `compression_type=${type}`];
      const args = ['convert', '-q', '-f', 'raw', '-O', 'qcow2', ...how, source.path, path];
      execFileSync('qemu-img', args, { stdio: ['ignore', 'ignore', 'inherit'] });
      return Promise.resolve();
    },
    command: (path, socket) => [
      ...'qemu-nbd -t -e 16 -f qcow2 --aio=io_uring --cache=writeback -k'.split(' '),
      socket,
      path,
    ],
  };
}

function nbdkit(filter: 'gzip' | 'xz'): Image {
  return {
    name: `nbdkit-${filter}`,
    isWritable: false,
    missing: () =>
      hasFilter(filter) && has(filter) ? null : `nbdkit's ${filter} filter, ${filter}`,
    create: (path) => rmSync(path, { force: true }),
    fill(path, source) {
      // xz: level 1, in blocks of the same size, or every read would begin at the beginning.
      const how = filter === 'gzip' ? '-c' : `-c -1 -T2 --block-size=${XZ_BLOCK}`;
      execFileSync('sh', ['-c', `${filter} ${how} <"$0" >"$1"`, source.path, path]);
      return Promise.resolve();
    },
    command: (path, socket) => [
      ...`nbdkit -f -U ${socket} -r --filter=${filter} file`.split(' '),
      path,
    ],
  };
}

export const LINEAR_NAME = LINEAR.name;

export const IMAGES: readonly Image[] = [
  compressed('lz4'),
  compressed('zstd'),
  LINEAR,
  qcow2('zstd'),
  qcow2('zlib'),
  nbdkit('gzip'),
  nbdkit('xz'),
];

/** Bytes that a file takes, without its holes. */
export function takenBytes(path: string): number {
  return statSync(path).blocks * 512;
}
