// A listening unix socket whose file is looked at: cleaners of temporary folders take it away, and people do. A server
// that nobody can reach any more listens at its path again, within some seconds.

import type { Server } from 'node:net';
import { dirname } from 'node:path';
import type { Clock, Timer } from '../../base/clock.ts';
import { errorText } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { makeFolders } from '../../io/make-folders.ts';
import { listenOnUnixSocket, type UnixSocketFile } from './unix-socket.ts';

/** How often the file is looked at. */
export const LOOK_MS = 3000;

export interface KeepOptions {
  readonly clock: Clock;
  /** Hears that the file was gone, and why the socket cannot have its path again; once for each reason. */
  readonly log: (line: string) => void;
}

export class KeptSocket {
  readonly #server: Server;
  readonly #options: KeepOptions;
  #file: UnixSocketFile;
  #timer: Timer | undefined;
  #looking: Promise<void> = Promise.resolve();
  #isClosed = false;
  #told = '';

  private constructor(server: Server, file: UnixSocketFile, options: KeepOptions) {
    this.#server = server;
    this.#file = file;
    this.#options = options;
    this.#lookLater();
  }

  /** Sets `server` listening at `path`. Throws DmError. */
  static async listen(server: Server, path: string, options: KeepOptions): Promise<KeptSocket> {
    return new KeptSocket(server, await listenOnUnixSocket(server, path), options);
  }

  /** Absolute. */
  get path(): string {
    return this.#file.path;
  }

  /** Nobody can connect any more, and the file is gone, if it is the server's own. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
    this.#server.close();
    await this.#looking;
    await this.#file.removeIfOurs();
  }

  /** For a process that ends at once. */
  abandon(): void {
    this.#isClosed = true;
    this.#file.removeNow();
  }

  #lookLater(): void {
    this.#timer = this.#options.clock.after(LOOK_MS, () => {
      this.#looking = this.#look();
      spawn('look at a socket', this.#looking);
    });
  }

  async #look(): Promise<void> {
    if (!(await this.#file.isOurs())) await this.#listenAgain();
    if (!this.#isClosed) this.#lookLater();
  }

  async #listenAgain(): Promise<void> {
    const { path } = this.#file;
    if (this.#isClosed) return;
    try {
      // The folder may have gone with it.
      makeFolders(dirname(path));
      // Connections that are there stay; a server without a path listens to nobody.
      this.#server.close();
      this.#file = await listenOnUnixSocket(this.#server, path);
      this.#tell(`socket '${path}': its file was gone, it is there again`);
      this.#told = '';
    } catch (error) {
      this.#tell(`its file was gone, and cannot be there again: ${errorText(error)}`);
    }
    if (this.#isClosed) this.#server.close();
  }

  #tell(line: string): void {
    if (line !== this.#told) this.#options.log(line);
    this.#told = line;
  }
}
