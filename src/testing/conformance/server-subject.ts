// An NBD server as a subject, started, killed and started again by the suite. The server may store its data
// on a disk of ours with a volatile cache: a power cut kills the server and takes from that disk what was
// never flushed.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MIB, SECTOR_BYTES } from '../../base/units.ts';
import { Prng } from '../../base/prng.ts';
import { Arena } from '../../io/arena.ts';
import { type LabServer, serveLab } from '../lab-server.ts';
import { type Lab, makeLab } from '../sim/lab.ts';
import { openReference, type RealOptions } from './real-subject.ts';
import { fail, type PowerCut, type PoweredOff, type Rig, type Subject } from './rig.ts';

export interface ServerOptions extends RealOptions {
  /**
   * Shell command that runs the server in the foreground. `{socket}` is the unix socket it has to listen
   * on; `{backing}` the NBD URI of a disk with a volatile cache, `{file}` the path of a sparse file: where
   * it may store its data.
   */
  readonly command: string;
  /** Export to ask for; '' is the default one. */
  readonly exportName?: string;
  /** Size of what the server may store its data in, bytes. */
  readonly sizeBytes?: number;
  /** How long the server has for its start, ms. */
  readonly startMs?: number;
}

const SIZE_BYTES = 8 * MIB;
const START_MS = 10_000;

export class ServerSubject implements Subject {
  readonly name: string;
  readonly description: string;
  readonly isSimulated = false;
  readonly isSteady = false;
  readonly canCutPower: boolean;
  readonly #options: ServerOptions;
  readonly #sizeBytes: number;
  readonly #folder = mkdtempSync(join(tmpdir(), 'lamina-conformance-'));
  #server: ChildProcess | null = null;
  #said = '';
  #lab: Lab | null = null;
  #labServer: LabServer | null = null;
  #arena: Arena | null = null;
  #starts = 0;
  #image: Uint8Array | undefined;

  constructor(options: ServerOptions) {
    this.name = 'server';
    this.description = options.command;
    this.#options = options;
    this.#sizeBytes = options.sizeBytes ?? SIZE_BYTES;
    this.canCutPower = /\{(backing|file)\}/.test(options.command);
    const fd = openSync(this.#file, 'w');
    ftruncateSync(fd, this.#sizeBytes);
    closeSync(fd);
  }

  async open(seed: number): Promise<Rig> {
    await this.#kill('SIGTERM');
    await this.#start(seed);
    return await openReference(this.#uri(), this.#options);
  }

  async powerCut(rig: Rig, cut: PowerCut): Promise<PoweredOff> {
    await this.#kill('SIGKILL');
    const images = this.#lab?.powerCut(cut.rng, cut.keep, cut.tear);
    await rig.abandon();
    await this.#stopLab();
    this.#image = images?.get(BACKING);
    return {
      open: async (seed) => {
        await this.#start(seed);
        return await openReference(this.#uri(), this.#options, true);
      },
    };
  }

  /** Ends the server and removes what was made for it. */
  async close(): Promise<void> {
    await this.#kill('SIGTERM');
    await this.#stopLab();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  get #file(): string {
    return join(this.#folder, 'disk.img');
  }

  get #socket(): string {
    return join(this.#folder, `server-${this.#starts}.sock`);
  }

  #uri(): string {
    const name = encodeURIComponent(this.#options.exportName ?? '');
    // A server that is killed stays lost: what it had not answered fails.
    return `nbd+unix:///${name}?socket=${encodeURIComponent(this.#socket)}&reconnect=0&replay=0`;
  }

  async #start(seed: number): Promise<void> {
    this.#starts++;
    const { command } = this.#options;
    const backing = command.includes('{backing}') ? await this.#startLab(seed) : '';
    const words: Readonly<Record<string, string>> = {
      '{socket}': this.#socket,
      '{backing}': backing,
      '{file}': this.#file,
    };
    const line = command.replaceAll(/\{(socket|backing|file)\}/g, (word) =>
      quote(words[word] ?? ''),
    );
    this.#said = '';
    // A group of its own, so that a kill reaches what the shell has started.
    const server = spawn('sh', ['-c', line], { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#server = server;
    const hear = (chunk: Buffer): void =>
      void (this.#said = (this.#said + String(chunk)).slice(-4096));
    server.stdout.on('data', hear);
    server.stderr.on('data', hear);
    await this.#untilReady(server);
  }

  async #untilReady(server: ChildProcess): Promise<void> {
    const until = performance.now() + (this.#options.startMs ?? START_MS);
    while (performance.now() < until) {
      if (server.exitCode !== null || server.signalCode !== null) break;
      if (await canConnect(this.#socket)) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await this.#kill('SIGKILL');
    const said = this.#said.trim() === '' ? '' : `; it said: ${this.#said.trim()}`;
    fail(`the server does not listen on its socket${said}`);
  }

  async #kill(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const server = this.#server;
    this.#server = null;
    if (server?.pid === undefined || server.exitCode !== null || server.signalCode !== null) return;
    const exited = new Promise((resolve) => server.once('exit', resolve));
    killGroup(server.pid, signal);
    const late = setTimeout(() => killGroup(server.pid ?? 0, 'SIGKILL'), 5000);
    await exited;
    clearTimeout(late);
    // Whatever of the group the shell left behind.
    killGroup(server.pid, 'SIGKILL');
  }

  async #startLab(seed: number): Promise<string> {
    await this.#stopLab();
    this.#arena ??= new Arena(32 * MIB);
    const lab = makeLab({ seed, arena: this.#arena });
    const lenSectors = this.#sizeBytes / SECTOR_BYTES;
    const image = this.#image;
    this.#image = undefined;
    lab.addDisk({ name: BACKING, lenSectors, ...(image === undefined ? {} : { image }) });
    await lab.dm.create({ name: 'backing', table: `0 ${lenSectors} linear ${BACKING} 0` });
    this.#lab = lab;
    this.#labServer = await serveLab(lab, join(this.#folder, `disk-${this.#starts}.sock`), [
      'backing',
    ]);
    return this.#labServer.uri('backing');
  }

  async #stopLab(): Promise<void> {
    const lab = this.#lab;
    this.#lab = null;
    await this.#labServer?.close();
    this.#labServer = null;
    if (lab === null) return;
    // A server that ends in order leaves its data; keep it for the next start.
    this.#image ??= lab.powerCut(new Prng(0), 1, 0).get(BACKING);
    await lab.dm.close().catch(() => undefined);
  }
}

const BACKING = 'test:backing';

function killGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ESRCH') throw error;
  }
}

function canConnect(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function quote(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}
