// The servers that are compared, each a child process with a unix socket or a TCP port of its own.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const LAMINA = fileURLToPath(new URL('../../bin/lamina', import.meta.url));

export type Transport = 'unix' | 'tcp';

export interface ServerSpec {
  readonly name: string;
  /** Command line for an image on a socket path or, with TCP, a port. */
  readonly command: (image: string, where: string, transport: Transport) => string[];
}

function lamina(name: string, extra: readonly string[], layers = 0): ServerSpec {
  return {
    name,
    command: (image, where, transport) => [
      process.execPath,
      LAMINA,
      'serve',
      ...(layers === 0 ? [image] : ['--concise', linearTower(image, layers), '--export', '=top']),
      ...extra,
      ...(transport === 'unix' ? ['--unix', where] : ['--tcp', `127.0.0.1:${where}`]),
    ],
  };
}

/** `layers` linear devices one on the other, the last called `top`. */
function linearTower(image: string, layers: number): string {
  const sectors = Math.floor(statBytes(image) / 512);
  const devices: string[] = [];
  let below = image;
  for (let i = 1; i <= layers; i++) {
    const name = i === layers ? 'top' : `l${i}`;
    devices.push(`${name},,,rw,0 ${sectors} linear ${below} 0`);
    below = name;
  }
  return devices.join(';');
}

function statBytes(image: string): number {
  return Number(readFileSync(`${image}.size`, 'utf8'));
}

function qemu(name: string, extra: readonly string[]): ServerSpec {
  return {
    name,
    command: (image, where, transport) => [
      'qemu-nbd',
      '-t',
      '-e',
      '16',
      '-f',
      'raw',
      ...extra,
      ...(transport === 'unix' ? ['-k', where] : ['-b', '127.0.0.1', '-p', where]),
      image,
    ],
  };
}

export const SERVERS: readonly ServerSpec[] = [
  lamina('lamina', []),
  lamina('lamina-node', ['--engine', 'node']),
  lamina('lamina-5-linear', [], 5),
  {
    name: 'nbdkit',
    command: (image, where, transport) => [
      'nbdkit',
      '-f',
      ...(transport === 'unix' ? ['-U', where] : ['-i', '127.0.0.1', '-p', where]),
      'file',
      image,
    ],
  },
  {
    name: 'nbdkit-memory',
    command: (_image, where, transport) => [
      'nbdkit',
      '-f',
      ...(transport === 'unix' ? ['-U', where] : ['-i', '127.0.0.1', '-p', where]),
      'memory',
      '1G',
    ],
  },
  qemu('qemu-nbd', ['--aio=io_uring', '--cache=writeback']),
  qemu('qemu-nbd-default', []),
];

export interface RunningServer {
  readonly name: string;
  readonly uri: string;
  readonly pid: number;
  /** Peak resident size so far, KiB. */
  residentPeakKib(): number;
  stop(): Promise<void>;
}

const running = new Set<ChildProcess>();

/** Ends what is left, whatever way the benchmark ends. */
export function stopAllServers(): void {
  for (const child of running) child.kill('SIGKILL');
}

export async function startServer(
  spec: ServerSpec,
  image: string,
  folder: string,
  transport: Transport,
): Promise<RunningServer> {
  const where = transport === 'unix' ? join(folder, `${spec.name}.sock`) : String(await freePort());
  rmSync(where, { force: true });
  const [program = '', ...args] = spec.command(image, where, transport);
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => {
      running.delete(child);
      resolve();
    });
    child.once('error', (error) => {
      said += error.message;
      running.delete(child);
      resolve();
    });
  });
  const uri = transport === 'unix' ? `nbd+unix:///?socket=${where}` : `nbd://127.0.0.1:${where}`;
  for (let i = 0; i < 200 && running.has(child); i++) {
    if (transport === 'unix' ? existsSync(where) : i > 15) break;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  if (!running.has(child)) throw new Error(`${spec.name} did not start: ${said}`);
  const pid = child.pid ?? 0;
  return {
    name: spec.name,
    uri,
    pid,
    residentPeakKib: () => {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0);
    },
    async stop() {
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), 5000);
      await exited;
      clearTimeout(late);
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
