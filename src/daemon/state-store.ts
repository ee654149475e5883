// Saves the daemon's state so that after a crash at any point the file is the old one or the new one, whole.
//
// A save is a new file beside the old one, written to its end, synced, renamed over the old one, and the folder
// synced. Whatever fails, the new file is removed again and the save is refused. Saves that are asked for
// while one runs share the next.

import { open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DmError, errorText } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import { makeFolders } from '../io/make-folders.ts';
import { EMPTY_STATE, parseState, printState, type SavedState } from './state-file.ts';

export interface StateFile {
  /** Bytes written, from `offset` of `bytes` on: perhaps not all. */
  write(bytes: Uint8Array, offset: number): Promise<number>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** What of a file system a save uses. Rejects as Node's own calls do. */
export interface StateFiles {
  /** Undefined: there is no such file. */
  read(path: string): Promise<string | undefined>;
  makeFolder(path: string): Promise<void>;
  /** A new, empty file that only this user can read. */
  create(path: string): Promise<StateFile>;
  rename(from: string, to: string): Promise<void>;
  syncFolder(path: string): Promise<void>;
  /** Nothing there is no error. */
  remove(path: string): Promise<void>;
}

interface Waiting {
  /** Takes back, at once, what the refused save was for. */
  readonly revert: (() => void) | undefined;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class StateStore {
  readonly path: string;
  readonly #files: StateFiles;
  /** What the file holds; undefined: not known, because a save failed behind the rename. */
  #saved: string | undefined;
  #waiting: Waiting[] = [];
  #isSaving = false;

  constructor(path: string, files: StateFiles = NODE_FILES) {
    this.path = path;
    this.#files = files;
  }

  /** Throws DmError when there is a file that is not a state. */
  async load(): Promise<SavedState> {
    let text: string | undefined;
    try {
      text = await this.#files.read(this.path);
    } catch (error) {
      throw new DmError(statusOfError(error), `state ${this.path}: ${errorText(error)}`);
    }
    const state = text === undefined ? EMPTY_STATE : parseState(this.path, text);
    this.#saved = printState(state) === text ? text : undefined;
    return state;
  }

  /**
   * Resolves when what `state` returns is on disk; `state` is called when the save begins. Rejects
   * with a DmError when it could not be saved, after `revert`, and the old state is there still.
   */
  save(state: () => SavedState, revert?: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ revert, resolve, reject });
      if (!this.#isSaving) void this.#saveAll(state);
    });
  }

  async #saveAll(state: () => SavedState): Promise<void> {
    this.#isSaving = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        await this.#write(printState(state()));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        const text = `state ${this.path}: cannot be saved: ${errorText(error)}`;
        const refusal = new DmError(statusOfError(error), text, { cause: error });
        // All of it before the next save begins, which would keep what is refused here.
        for (const { revert } of batch.toReversed()) revert?.();
        for (const { reject } of batch) reject(refusal);
      }
    }
    this.#isSaving = false;
  }

  async #write(text: string): Promise<void> {
    if (text === this.#saved) return;
    const files = this.#files;
    const folder = dirname(this.path);
    const draft = `${this.path}.new`;
    await files.makeFolder(folder);
    try {
      await writeWhole(await files.create(draft), Buffer.from(text));
      await files.rename(draft, this.path);
    } catch (error) {
      await files.remove(draft).catch(() => undefined);
      throw error;
    }
    this.#saved = undefined;
    await files.syncFolder(folder);
    this.#saved = text;
  }
}

async function writeWhole(file: StateFile, bytes: Uint8Array): Promise<void> {
  let isWritten = false;
  try {
    for (let offset = 0; offset < bytes.length; ) {
      const written = await file.write(bytes, offset);
      if (written === 0) throw new DmError(Status.NoSpace, 'No space left on device');
      offset += written;
    }
    await file.sync();
    isWritten = true;
  } finally {
    // The first error counts.
    if (isWritten) await file.close();
    else await file.close().catch(() => undefined);
  }
}

const NODE_FILES: StateFiles = {
  async read(path) {
    try {
      return await readFile(path, 'utf8');
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return undefined;
      throw error;
    }
  },
  makeFolder(path) {
    makeFolders(path);
    return Promise.resolve();
  },
  async create(path) {
    const file = await open(path, 'w', 0o600);
    return {
      write: async (bytes, offset) => (await file.write(bytes, offset)).bytesWritten,
      sync: () => file.sync(),
      close: () => file.close(),
    };
  },
  rename,
  async syncFolder(path) {
    const folder = await open(path, 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  },
  async remove(path) {
    await rm(path, { force: true });
  },
};
