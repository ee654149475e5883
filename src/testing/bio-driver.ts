// Sends bios to a device the way tests want to: promises, plain byte arrays, segments of any shape. On the
// way it watches the rules that hold for every device: a bio ends once, its vector stays as it is, a write's
// data is not touched, and neither is a byte around the buffers.

import { assert, BugError } from '../base/assert.ts';
import type { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { Bio, type BioOwner, Op, OP_NAMES } from '../bio/bio.ts';
import { type IoContext, systemContext } from '../bio/context.ts';
import type { BlockDevice } from '../bio/device.ts';
import { submitBio } from '../bio/submit.ts';
import { BioVec, NO_VEC } from '../bio/vec.ts';
import { type Arena, CHUNK_BYTES_MAX, NONE } from '../io/arena.ts';

export interface DriveOptions {
  /** Bits of BioFlag. */
  readonly flags?: number;
  /** Bytes of each segment; if not given, one segment for each chunk of memory the bio needs. */
  readonly segments?: readonly number[];
  /** Each buffer begins this many bytes behind a page boundary. */
  readonly skewBytes?: number;
}

export interface BioDriverOptions {
  /** Whose I/O it is; the system's if not given. */
  readonly ctx?: IoContext;
  /** Hears of broken rules; if not given they are thrown. */
  readonly violation?: (what: string) => void;
  /** Hears of every end, before whoever waits for it. */
  readonly onEnd?: (bio: Bio, what: string) => void;
  /** Puts guard bytes around every buffer and looks at them afterwards. */
  readonly guards?: boolean;
}

const GUARD_BYTES = 64;
const GUARD = 0xa5;

interface Buffers {
  readonly vec: BioVec;
  /** What the vector must still be at the end. */
  readonly mems: readonly number[];
  readonly lens: readonly number[];
}

export class BioDriver {
  readonly device: BlockDevice;
  /** Bios sent that have not ended, by what they are. */
  readonly pending = new Map<Bio, string>();
  readonly #arena: Arena;
  readonly #ctx: IoContext;
  readonly #violation: (what: string) => void;
  readonly #onEnd: (bio: Bio, what: string) => void;
  readonly #guardBytes: number;

  constructor(device: BlockDevice, arena: Arena, options: BioDriverOptions = {}) {
    this.device = device;
    this.#arena = arena;
    this.#ctx = options.ctx ?? systemContext;
    this.#onEnd = options.onEnd ?? (() => undefined);
    this.#guardBytes = options.guards === true ? GUARD_BYTES : 0;
    this.#violation =
      options.violation ??
      ((what) => {
        throw new BugError(what);
      });
  }

  /** Throws IoFailure. */
  async read(offBytes: number, lenBytes: number, options: DriveOptions = {}): Promise<Buffer> {
    const result = await this.tryRead(offBytes, lenBytes, options);
    if (typeof result === 'number') throw new IoFailure(result);
    return result;
  }

  /** The data, or the status that the read ended with. */
  async tryRead(
    offBytes: number,
    lenBytes: number,
    options: DriveOptions = {},
  ): Promise<Buffer | Status> {
    const buffers = this.#tryBuffers(lenBytes, options) ?? (await this.#buffers(lenBytes, options));
    const { u8 } = this.#arena;
    for (const [i, mem] of buffers.mems.entries()) {
      u8.fill(0xdb, mem, mem + (buffers.lens[i] as number));
    }
    try {
      const status = await this.#send(Op.Read, offBytes, lenBytes, buffers, options);
      if (status !== 0) return status;
      const { mems, lens } = buffers;
      const all = mems.map((mem, i) => u8.slice(mem, mem + (lens[i] as number)));
      // A vector may be longer than the bio; what lies behind is nobody's to change.
      const data = Buffer.concat(all);
      if (data.subarray(lenBytes).some((b) => b !== 0xdb)) {
        this.#violation(`read at byte ${offBytes}: filled more than ${lenBytes} bytes`);
      }
      return data.subarray(0, lenBytes);
    } finally {
      this.#free(buffers, options);
    }
  }

  async write(offBytes: number, data: Uint8Array, options: DriveOptions = {}): Promise<Status> {
    const { length } = data;
    const buffers = this.#tryBuffers(length, options) ?? (await this.#buffers(length, options));
    const { mems, lens } = buffers;
    const { u8 } = this.#arena;
    let at = 0;
    for (const [i, mem] of mems.entries()) {
      const len = lens[i] as number;
      u8.set(data.subarray(at, at + len), mem);
      at += len;
    }
    try {
      const status = await this.#send(Op.Write, offBytes, data.length, buffers, options);
      at = 0;
      for (const [i, mem] of mems.entries()) {
        const part = data.subarray(at, at + (lens[i] as number));
        if (Buffer.compare(part, u8.subarray(mem, mem + part.length)) !== 0) {
          this.#violation(`write at byte ${offBytes}: its data was changed by somebody below`);
        }
        at += part.length;
      }
      return status;
    } finally {
      this.#free(buffers, options);
    }
  }

  async flush(): Promise<Status> {
    return await this.#send(Op.Flush, 0, 0, NO_BUFFERS, {});
  }

  async discard(offBytes: number, lenBytes: number, options: DriveOptions = {}): Promise<Status> {
    return await this.#send(Op.Discard, offBytes, lenBytes, NO_BUFFERS, options);
  }

  async zero(offBytes: number, lenBytes: number, options: DriveOptions = {}): Promise<Status> {
    return await this.#send(Op.WriteZeroes, offBytes, lenBytes, NO_BUFFERS, options);
  }

  /** What has not ended yet, for messages. */
  describePending(): string {
    return [...this.pending.values()].join(', ') || 'nothing of this driver';
  }

  #send(
    op: Op,
    offBytes: number,
    lenBytes: number,
    buffers: Buffers,
    options: DriveOptions,
  ): Promise<Status> {
    assert(offBytes % SECTOR_BYTES === 0, `bio at byte ${offBytes}: not on a sector`);
    const sector = offBytes / SECTOR_BYTES;
    const what = `${OP_NAMES[op]} of ${lenBytes / SECTOR_BYTES} sectors at ${sector}`;
    return new Promise((resolve) => {
      let ends = 0;
      const owner: BioOwner = {
        bioEnd: (ended) => {
          this.pending.delete(bio);
          if (++ends > 1) this.#violation(`${what}: ended ${ends} times`);
          if (ended !== bio) this.#violation(`${what}: its owner was told of another bio`);
          if (bio.liveClones > 0) this.#violation(`${what}: ended before its clones`);
          this.#checkIterator(bio, what, sector, lenBytes);
          this.#checkVector(buffers, what);
          this.#onEnd(bio, what);
          resolve(bio.status);
        },
      };
      const bio = new Bio();
      bio.init(op, this.device, sector, lenBytes, buffers.vec, this.#ctx, owner);
      bio.flags = options.flags ?? 0;
      this.pending.set(bio, what);
      submitBio(bio);
    });
  }

  /** A bio comes back the way it was sent: its owner may look at what it asked for. */
  #checkIterator(bio: Bio, what: string, sector: number, lenBytes: number): void {
    if (bio.sector === sector && bio.lenBytes === lenBytes) return;
    this.#violation(`${what}: came back as ${bio.lenBytes} bytes at sector ${bio.sector}`);
  }

  #checkVector({ vec, mems, lens }: Buffers, what: string): void {
    const isSame =
      vec.mems.length === mems.length &&
      mems.every((mem, i) => vec.mems[i] === mem && vec.lens[i] === lens[i]);
    if (!isSame) this.#violation(`${what}: its vector was changed`);
    const { u8 } = this.#arena;
    for (const [i, mem] of mems.entries()) {
      const end = mem + (lens[i] as number);
      for (let g = 1; g <= this.#guardBytes; g++) {
        if (u8[mem - g] === GUARD && u8[end + g - 1] === GUARD) continue;
        this.#violation(`${what}: bytes beside segment ${i} were changed`);
        return;
      }
    }
  }

  /** Waits for memory, as front ends do, holding nothing meanwhile. */
  async #buffers(lenBytes: number, options: DriveOptions): Promise<Buffers> {
    for (;;) {
      await new Promise<void>((resolve) => this.#arena.onFree(resolve));
      const buffers = this.#tryBuffers(lenBytes, options);
      if (buffers !== null) return buffers;
    }
  }

  #tryBuffers(lenBytes: number, options: DriveOptions): Buffers | null {
    const guard = this.#guardBytes;
    const skew = guard + (options.skewBytes ?? 0);
    const lens = [...(options.segments ?? chunksOf(lenBytes, skew + guard))];
    const mems = this.#tryAlloc(lens, skew + guard);
    if (mems === null) return null;
    const { u8 } = this.#arena;
    for (const [i, chunk] of mems.entries()) {
      const mem = chunk + skew;
      const len = lens[i] as number;
      u8.fill(GUARD, mem - guard, mem);
      u8.fill(GUARD, mem + len, mem + len + guard);
      mems[i] = mem;
    }
    const vec = new BioVec([...mems], [...lens], this);
    assert(vec.lenBytes >= lenBytes, 'test: segments shorter than the bio');
    return { vec, mems, lens };
  }

  /** A chunk for each length, or none. */
  #tryAlloc(lens: readonly number[], extraBytes: number): number[] | null {
    const mems: number[] = [];
    for (const len of lens) {
      const mem = this.#arena.tryAlloc(len + extraBytes);
      if (mem !== NONE) {
        mems.push(mem);
        continue;
      }
      for (const [i, taken] of mems.entries()) {
        this.#arena.free(taken, (lens[i] as number) + extraBytes);
      }
      return null;
    }
    return mems;
  }

  #free({ mems, lens }: Buffers, options: DriveOptions): void {
    const guard = this.#guardBytes;
    const skew = guard + (options.skewBytes ?? 0);
    for (const [i, mem] of mems.entries()) {
      this.#arena.free(mem - skew, (lens[i] as number) + skew + guard);
    }
  }
}

/** A bio's bytes in as few segments as chunks of memory hold, `extraBytes` beside each. */
function chunksOf(lenBytes: number, extraBytes: number): number[] {
  const most = CHUNK_BYTES_MAX - Math.ceil(extraBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const lens: number[] = [];
  let rest = lenBytes;
  for (; rest > most; rest -= most) lens.push(most);
  return [...lens, rest];
}

const NO_BUFFERS: Buffers = { vec: NO_VEC, mems: [], lens: [] };

/** A read that ended with an error. */
export class IoFailure extends Error {
  override readonly name = 'IoFailure';
  readonly status: Status;

  constructor(status: Status) {
    super(`status ${status}`);
    this.status = status;
  }
}
