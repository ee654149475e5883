// Entries of version 1 in memory, in pieces of 1024 regions, and the commits that put them on the disk. Pieces that
// nobody has used for long and that are on the disk go out again when there are too many.
//
// A commit flushes the disk, writes the sectors of entries that have changed, and flushes again: what had ended
// before it began is durable when it has ended. Data that are written over meanwhile are not as their entries on the
// disk say; a crash then finds neither the old nor the new. The format has no way out of that.

import { spawn } from '../../../base/spawn.ts';
import { Status } from '../../../base/status.ts';
import type { Clock, Timer } from '../../../base/clock.ts';
import { type Bio, BioFlag, Op } from '../../../bio/bio.ts';
import type { BlockDevice } from '../../../bio/device.ts';
import { flushDevice, sendBio } from '../../../bio/send.ts';
import { endBio } from '../../../bio/submit.ts';
import { BioVec } from '../../../bio/vec.ts';
import { MapResult } from '../../../dm/target.ts';
import type { Arena } from '../../../io/arena.ts';
import type { ReservedBuffers } from '../../../io/reserved-buffers.ts';
import { REGION_ENTRY_BYTES } from './entries.ts';
import { ENTRIES_SECTOR, type Format1 } from './superblock.format.ts';

const PIECE_REGIONS = 1024;
const PIECE_BYTES = PIECE_REGIONS * REGION_ENTRY_BYTES;
const PIECE_SECTORS = PIECE_BYTES / 512;
/** Pieces kept, of 128 MiB of the device each. */
const PIECES_MAX = 512;
/** So many changed pieces are not left to the timer. */
const CHANGED_MAX = 128;
const WRITES_MAX = 8;
/** How often a commit that failed is tried again when nobody asks for it: later each time. */
const RETRIES_MAX = 8;

class Piece {
  readonly number: number;
  readonly bytes: Uint8Array;
  /** Sectors, from the begin of the piece, that the disk does not have yet. */
  readonly changed = new Set<number>();
  /** Requests that are at work with it, and a commit that writes it. */
  users = 0;
  usedAt = 0;

  constructor(number: number, bytes: Uint8Array) {
    this.number = number;
    this.bytes = bytes;
  }
}

export interface EntryHost {
  readonly format: Format1;
  readonly device: BlockDevice;
  readonly arena: Arena;
  readonly buffers: ReservedBuffers;
  readonly clock: Clock;
  /** Milliseconds that a change may stay in memory alone; 0: for ever. */
  readonly writebackMs: number;
  /** A commit has failed. */
  commitFailed(status: Status): void;
}

/** A region's entries, held in memory until they are let go. */
export interface HeldEntries {
  readonly piece: Piece;
  readonly entries: Uint8Array;
}

export class EntryCache {
  /** Bytes of entries written. */
  writtenBytes = 0;
  readonly #host: EntryHost;
  readonly #pieces = new Map<number, Piece>();
  readonly #loading = new Map<number, Promise<Status>>();
  readonly #changed = new Set<Piece>();
  #tick = 0;
  #bios: Bio[] = [];
  #calls: ((status: Status) => void)[] = [];
  #isCommitting = false;
  #timer: Timer | null = null;
  #isTimerOff = false;
  #failures = 0;

  constructor(host: EntryHost) {
    this.#host = host;
  }

  /** The entries of a region, until `letGo`; a status: they cannot be read. */
  async hold(region: number): Promise<HeldEntries | Status> {
    const number = Math.floor(region / PIECE_REGIONS);
    let piece = this.#pieces.get(number);
    // What others load meanwhile may push it out again.
    while (piece === undefined) {
      const status = await this.#load(number);
      if (status !== Status.Ok) return status;
      piece = this.#pieces.get(number);
    }
    piece.users++;
    piece.usedAt = ++this.#tick;
    const at = (region % PIECE_REGIONS) * REGION_ENTRY_BYTES;
    return { piece, entries: piece.bytes.subarray(at, at + REGION_ENTRY_BYTES) };
  }

  letGo({ piece }: HeldEntries): void {
    piece.users--;
  }

  /** Changes held entries. */
  set({ piece, entries }: HeldEntries, now: Uint8Array): void {
    const at = entries.byteOffset - piece.bytes.byteOffset;
    let isChanged = false;
    for (let i = 0; i < REGION_ENTRY_BYTES; i++) {
      if (entries[i] === now[i]) continue;
      entries[i] = now[i] as number;
      piece.changed.add(Math.floor((at + i) / 512));
      isChanged = true;
    }
    if (!isChanged) return;
    this.#changed.add(piece);
    if (this.#changed.size >= CHANGED_MAX) this.#kick();
    else this.#startTimer();
  }

  get isClean(): boolean {
    return this.#changed.size === 0 && !this.#isCommitting;
  }

  /** Ends `bio` when everything that has ended up to now is durable. */
  endDurable(bio: Bio): void {
    this.#bios.push(bio);
    this.#kick();
  }

  flush(bio: Bio): MapResult {
    if (this.isClean) {
      bio.device = this.#host.device;
      bio.sector = 0;
      return MapResult.Remapped;
    }
    this.endDurable(bio);
    return MapResult.Submitted;
  }

  /** Resolves when everything that has ended up to now is durable, or cannot be made so. */
  commit(): Promise<Status> {
    return new Promise((resolve) => {
      this.#calls.push(resolve);
      this.#kick();
    });
  }

  /** No commit by the clock from now on. */
  stopTimer(): void {
    this.#isTimerOff = true;
    this.#timer?.cancel();
    this.#timer = null;
  }

  startTimer(): void {
    this.#isTimerOff = false;
    if (this.#changed.size > 0) this.#startTimer();
  }

  #startTimer(): void {
    const { clock, writebackMs } = this.#host;
    if (writebackMs === 0 || this.#isTimerOff || this.#timer !== null) return;
    this.#timer = clock.after(writebackMs * 2 ** Math.min(this.#failures, RETRIES_MAX), () => {
      this.#timer = null;
      if (this.#changed.size > 0) this.#kick();
    });
  }

  // ---- pieces ----

  async #load(number: number): Promise<Status> {
    const known = this.#loading.get(number);
    if (known !== undefined) return await known;
    const loading = this.#read(number);
    this.#loading.set(number, loading);
    const status = await loading;
    this.#loading.delete(number);
    return status;
  }

  async #read(number: number): Promise<Status> {
    const full = await this.#makeRoom();
    if (full !== Status.Ok) return full;
    const { device, arena, buffers, format } = this.#host;
    const first = ENTRIES_SECTOR + number * PIECE_SECTORS;
    const end = ENTRIES_SECTOR + format.entryBlocks * 8;
    const lenBytes = Math.min(PIECE_SECTORS, end - first) * 512;
    const mem = await buffers.take(PIECE_BYTES);
    const vec = new BioVec([mem], [lenBytes], this);
    const status = await sendBio(Op.Read, device, first, lenBytes, vec, { flags: BioFlag.Meta });
    const bytes = new Uint8Array(PIECE_BYTES);
    bytes.set(arena.u8.subarray(mem, mem + lenBytes));
    buffers.give(mem, PIECE_BYTES);
    if (status === Status.Ok) this.#pieces.set(number, new Piece(number, bytes));
    return status;
  }

  /** Pieces that are on the disk go; if all have changed, a commit comes first. */
  async #makeRoom(): Promise<Status> {
    if (this.#pieces.size < PIECES_MAX) return Status.Ok;
    if (this.#evict()) return Status.Ok;
    const status = await this.commit();
    this.#evict();
    return status;
  }

  #evict(): boolean {
    const idle = [...this.#pieces.values()].filter((p) => p.users === 0 && p.changed.size === 0);
    idle.sort((a, b) => a.usedAt - b.usedAt);
    for (const { number } of idle.slice(0, PIECES_MAX / 4)) this.#pieces.delete(number);
    return idle.length > 0;
  }

  // ---- commits ----

  #kick(): void {
    if (this.#isCommitting) return;
    this.#isCommitting = true;
    spawn('insitu_comp commit', this.#loop());
  }

  async #loop(): Promise<void> {
    do {
      const bios = this.#bios;
      const calls = this.#calls;
      this.#bios = [];
      this.#calls = [];
      const status = await this.#commit();
      this.#failures = status === Status.Ok ? 0 : this.#failures + 1;
      if (status !== Status.Ok) this.#host.commitFailed(status);
      for (const bio of bios) endBio(bio, status);
      for (const call of calls) call(status);
    } while (this.#bios.length > 0 || this.#calls.length > 0);
    this.#isCommitting = false;
    // After that a write, a flush or a suspend has to come.
    if (this.#changed.size > 0 && this.#failures <= RETRIES_MAX) this.#startTimer();
  }

  async #commit(): Promise<Status> {
    const runs = [...this.#changed].flatMap(runsOf);
    const pieces = [...this.#changed];
    for (const piece of pieces) {
      piece.users++;
      piece.changed.clear();
    }
    this.#changed.clear();
    let status = await flushDevice(this.#host.device);
    if (status === Status.Ok && runs.length > 0) {
      status = await this.#writeAll(runs);
      if (status === Status.Ok) status = await flushDevice(this.#host.device);
    }
    for (const piece of pieces) piece.users--;
    if (status !== Status.Ok) {
      for (const { piece, sector, bytes } of runs) {
        for (let s = 0; s < bytes.length / 512; s++) piece.changed.add(sector + s);
        this.#changed.add(piece);
      }
    }
    return status;
  }

  async #writeAll(runs: readonly PieceRun[]): Promise<Status> {
    let next = 0;
    let status: Status = Status.Ok;
    const lane = async (): Promise<void> => {
      while (next < runs.length) {
        const one = await this.#write(runs[next++] as PieceRun);
        if (status === Status.Ok) status = one;
      }
    };
    await Promise.all(Array.from({ length: Math.min(WRITES_MAX, runs.length) }, lane));
    return status;
  }

  async #write({ piece, sector, bytes }: PieceRun): Promise<Status> {
    const { device, arena, buffers } = this.#host;
    const mem = await buffers.take(PIECE_BYTES);
    arena.u8.set(bytes, mem);
    const vec = new BioVec([mem], [bytes.length], this);
    const at = ENTRIES_SECTOR + piece.number * PIECE_SECTORS + sector;
    const flags = BioFlag.Meta;
    const status = await sendBio(Op.Write, device, at, bytes.length, vec, { flags });
    buffers.give(mem, PIECE_BYTES);
    this.writtenBytes += bytes.length;
    return status;
  }
}

/** Changed sectors of a piece in a row, as they are now. */
interface PieceRun {
  readonly piece: Piece;
  readonly sector: number;
  readonly bytes: Uint8Array;
}

function runsOf(piece: Piece): PieceRun[] {
  const spans: { sector: number; end: number }[] = [];
  for (const sector of [...piece.changed].sort((a, b) => a - b)) {
    const last = spans.at(-1);
    if (last !== undefined && last.end === sector) last.end++;
    else spans.push({ sector, end: sector + 1 });
  }
  return spans.map(({ sector, end }) => ({
    piece,
    sector,
    bytes: piece.bytes.slice(sector * 512, end * 512),
  }));
}
