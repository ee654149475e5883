// libuv's loop of the calling thread, through the functions that Node exports to its addons.
//
// Asking libuv when its loop has to turn is a call through koffi, which costs as much as a twentieth of a
// small request. So the words of the loop that the answer is made from are compared first: as long as they
// are what they were, so is the answer. Their places are those of uv.h, whose layout is fixed for libuv 1;
// they are checked, and where they do not fit libuv is asked every time.

import koffi from 'koffi';
import { mapAddress } from './posix.ts';

/** Places in uv_loop_t that are the same everywhere, in words of 64 bits. */
const ACTIVE_HANDLES = 1;
const ACTIVE_REQS = 4;
const BACKEND_FD = 8;
const PENDING_QUEUE = 9;
const WATCHER_QUEUE = 11;
/** Locks come next, whose size is the C library's; these places are counted back from the loop's time. */
const CLOSING_HANDLES = -23;
const PROCESS_HANDLES = -22;
const TIMER_HEAP_MIN = -3;
const TIMER_HEAP_SIZE = -2;
const TIMER_COUNTER = -1;
/** The time stands behind so many words. */
const TIME_MIN = 40;

export class LibuvLoop {
  /** Readable when something has come that the loop watches. */
  readonly fd: number;
  /** Milliseconds from the loop's own time to its next timer; 0: something waits; -1: nothing does. */
  readonly timeoutMs: () => number;
  readonly updateTime: () => void;
  readonly #words: Int32Array;
  /** Which of `#words` to compare, and what they were; none: they were not recognised. */
  readonly #places: Int32Array;
  readonly #seen: Int32Array;

  /** Undefined where this Node does not export the functions. */
  static tryOpen(): LibuvLoop | undefined {
    try {
      return new LibuvLoop();
    } catch {
      return undefined;
    }
  }

  private constructor() {
    const node = koffi.load(null);
    const call = (prototype: string): ((...args: number[]) => number) => node.func(prototype);
    const isolate = call('int64_t _ZN2v87Isolate10GetCurrentEv()')();
    const loopOf = call('int64_t _ZN4node19GetCurrentEventLoopEPN2v87IsolateE(int64_t isolate)');
    const loop = loopOf(isolate);
    if (loop === 0) throw new Error('libuv: no loop');
    this.fd = call('int uv_backend_fd(int64_t loop)')(loop);
    if (this.fd < 0) throw new Error('libuv: the loop has no descriptor');
    const timeout = call('int uv_backend_timeout(int64_t loop)');
    const update = call('void uv_update_time(int64_t loop)');
    this.timeoutMs = () => timeout(loop);
    this.updateTime = () => {
      update(loop);
    };
    this.updateTime();
    this.#words = new Int32Array(mapAddress(loop, call('size_t uv_loop_size()')()));
    this.#places = findPlaces(
      this.#words,
      loop,
      call('int64_t uv_now(int64_t loop)')(loop),
      this.fd,
    );
    this.#seen = new Int32Array(this.#places.length);
  }

  /** Whether `timeoutMs` may answer differently than when `remember` was called, its time apart. */
  mayHaveChanged(): boolean {
    const words = this.#words;
    const places = this.#places;
    const seen = this.#seen;
    const { length } = places;
    for (let i = 0; i < length; i++) if (words[places[i] as number] !== seen[i]) return true;
    return length === 0;
  }

  remember(): void {
    for (const [i, place] of this.#places.entries()) this.#seen[i] = this.#words[place] as number;
  }
}

/** Places of 32-bit words; an odd neighbour never changes alone. */
function findPlaces(words: Int32Array, loop: number, nowMs: number, fd: number): Int32Array {
  const wordAt = (place: number): number =>
    ((words[place * 2 + 1] as number) >>> 0) * 2 ** 32 + ((words[place * 2] as number) >>> 0);
  let time = TIME_MIN;
  while (time * 2 + 1 < words.length && wordAt(time) !== nowMs) time++;
  const isKnown =
    time * 2 + 1 < words.length &&
    words[BACKEND_FD * 2] === fd &&
    // Nothing pending and no child process: empty queues refer to themselves.
    wordAt(PENDING_QUEUE) === loop + PENDING_QUEUE * 8 &&
    wordAt(time + PROCESS_HANDLES) === loop + (time + PROCESS_HANDLES) * 8;
  if (!isKnown) return new Int32Array(0);
  const places = [
    ACTIVE_HANDLES,
    ACTIVE_REQS,
    PENDING_QUEUE,
    WATCHER_QUEUE,
    time + CLOSING_HANDLES,
    time + TIMER_HEAP_MIN,
    time + TIMER_HEAP_SIZE,
    time + TIMER_COUNTER,
  ];
  return Int32Array.from(places, (place) => place * 2);
}
