// The write log: writes that the server has acknowledged and no flush has covered yet.
//
// A server that dies may lose such writes, though they were acknowledged; whether it died or only
// the network did, the other side of a new connection does not tell. So they are kept, and written
// again in the order of their acknowledgements before anything else goes over a new connection.
// What was flushed leaves the log.
//
// The log has a limit. A write that finds no room is only counted; while one such write is not
// flushed the log is of no use (replaying around a gap would bring old data back), and a loss then
// means that acknowledged data may be gone: the device says so by failing every flush. Entries and
// data are kept in two rings; an entry's data never wraps.

import { Cmd } from '../../format/nbd.ts';
import type { NbdRequest } from './request.ts';

const ENTRIES = 16384;

export class WriteLog {
  readonly #sizeBytes: number;
  /** Made when it is first needed. */
  #data: Uint8Array | null = null;
  // Entries, by number modulo ENTRIES.
  readonly #offs = new Float64Array(ENTRIES);
  readonly #lens = new Float64Array(ENTRIES);
  readonly #cmds = new Uint8Array(ENTRIES);
  readonly #flags = new Uint16Array(ENTRIES);
  /** Where the data begins; -1: it has none. */
  readonly #places = new Float64Array(ENTRIES);
  /** The mark (see `mark`) at which the entry was written. */
  readonly #marks = new Float64Array(ENTRIES);
  #first = 0;
  #end = 0;
  /**
   * Where the next data goes, and where the oldest data is; nothing is there when `#dataEntries` is
   * 0.
   */
  #fill = 0;
  #oldest = 0;
  #dataEntries = 0;
  #mark = 0;
  #flushedMark = 0;
  #gapMark = 0;

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** Grows with every acknowledged write. A flush covers what came before it was sent. */
  get mark(): number {
    return this.#mark;
  }

  /** Something was acknowledged that no flush has covered. */
  get isDirty(): boolean {
    return this.#mark > this.#flushedMark;
  }

  /** Everything not flushed is in the log. */
  get isComplete(): boolean {
    return this.#gapMark <= this.#flushedMark;
  }

  /** Entries to replay: `first` .. `end`, the end excluded. */
  get first(): number {
    return this.#first;
  }

  get end(): number {
    return this.#end;
  }

  /** The log is half full, or has a gap: time for a flush. */
  get wantsFlush(): boolean {
    if (this.#end - this.#first >= ENTRIES / 2 || !this.isComplete) return true;
    return this.#dataEntries > 0 && this.#usedBytes() * 2 >= this.#sizeBytes;
  }

  /** Notes an acknowledged write or write-zeroes; its data is in `u8` still. */
  add(request: NbdRequest, u8: Uint8Array): void {
    this.#mark++;
    const hasData = request.cmd === Cmd.Write;
    const place = hasData ? this.#room(request.lenBytes) : -1;
    const isFull = this.#end - this.#first === ENTRIES || (hasData && place < 0);
    if (isFull || !this.isComplete || this.#sizeBytes === 0) {
      this.#gapMark = this.#mark;
      return;
    }
    const i = this.#end % ENTRIES;
    this.#offs[i] = request.offBytes;
    this.#lens[i] = request.lenBytes;
    this.#cmds[i] = request.cmd;
    this.#flags[i] = request.flags;
    this.#places[i] = place;
    this.#marks[i] = this.#mark;
    this.#end++;
    if (hasData) this.#copyIn(request, u8, place);
  }

  /** A flush that was sent at `mark` has succeeded. */
  flushed(mark: number): void {
    if (mark > this.#flushedMark) this.#flushedMark = mark;
    while (this.#first < this.#end && (this.#marks[this.#first % ENTRIES] as number) <= mark) {
      this.#forgetFirst();
    }
  }

  /** Nothing can be replayed: what is not flushed counts as lost, and is not spoken of again. */
  drop(): void {
    this.#flushedMark = this.#mark;
    while (this.#first < this.#end) this.#forgetFirst();
  }

  cmd(entry: number): number {
    return this.#cmds[entry % ENTRIES] as number;
  }

  flags(entry: number): number {
    return this.#flags[entry % ENTRIES] as number;
  }

  offBytes(entry: number): number {
    return this.#offs[entry % ENTRIES] as number;
  }

  lenBytes(entry: number): number {
    return this.#lens[entry % ENTRIES] as number;
  }

  /** Copies `lenBytes` of an entry's data, from `from` on, to `mem`. */
  copyOut(entry: number, from: number, lenBytes: number, u8: Uint8Array, mem: number): void {
    const place = (this.#places[entry % ENTRIES] as number) + from;
    const data = this.#data as Uint8Array;
    u8.set(data.subarray(place, place + lenBytes), mem);
  }

  #forgetFirst(): void {
    const i = this.#first++ % ENTRIES;
    const place = this.#places[i] as number;
    if (place < 0) return;
    this.#dataEntries--;
    this.#oldest = place + (this.#lens[i] as number);
  }

  /** A place for so many bytes, or -1. */
  #room(lenBytes: number): number {
    const size = this.#sizeBytes;
    const fill = this.#fill;
    const oldest = this.#oldest;
    if (this.#dataEntries === 0) return lenBytes <= size ? 0 : -1;
    if (oldest >= fill) return fill + lenBytes < oldest ? fill : -1;
    if (fill + lenBytes <= size) return fill;
    // Not up to the oldest itself: an empty ring and a full one would look the same.
    return lenBytes < oldest ? 0 : -1;
  }

  #usedBytes(): number {
    const ahead = this.#fill - this.#oldest;
    return ahead > 0 ? ahead : this.#sizeBytes + ahead;
  }

  #copyIn(request: NbdRequest, u8: Uint8Array, place: number): void {
    const data = (this.#data ??= new Uint8Array(this.#sizeBytes));
    if (this.#dataEntries++ === 0) this.#oldest = place;
    const { mems, lens } = request.vec;
    let { segment, segmentDone } = request;
    let at = place;
    const end = place + request.lenBytes;
    while (at < end) {
      const len = Math.min((lens[segment] as number) - segmentDone, end - at);
      const mem = (mems[segment] as number) + segmentDone;
      data.set(u8.subarray(mem, mem + len), at);
      at += len;
      segment++;
      segmentDone = 0;
    }
    this.#fill = end;
  }
}
