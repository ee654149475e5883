// Sends bios to a device the way tests want to: promises, plain byte arrays, segments of any shape.

import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { Bio, type BioOwner, Op } from '../bio/bio.ts';
import { systemContext } from '../bio/context.ts';
import type { BlockDevice } from '../bio/device.ts';
import { submitBio } from '../bio/submit.ts';
import { BioVec, NO_VEC } from '../bio/vec.ts';
import { type Arena, NONE } from '../io/arena.ts';

export interface DriveOptions {
  /** Bits of BioFlag. */
  readonly flags?: number;
  /** Bytes of each segment; one segment if not given. */
  readonly segments?: readonly number[];
  /** Each buffer begins this many bytes behind a page boundary. */
  readonly skewBytes?: number;
}

interface Buffers {
  readonly vec: BioVec;
  free(): void;
}

export class BioDriver {
  readonly device: BlockDevice;
  readonly #arena: Arena;

  constructor(device: BlockDevice, arena: Arena) {
    this.device = device;
    this.#arena = arena;
  }

  async read(offBytes: number, lenBytes: number, options: DriveOptions = {}): Promise<Buffer> {
    const buffers = this.#buffers(lenBytes, options);
    try {
      const status = await this.#send(Op.Read, offBytes, lenBytes, buffers.vec, options);
      if (status !== Status.Ok) throw new IoFailure(status);
      const { mems, lens } = buffers.vec;
      const { u8 } = this.#arena;
      return Buffer.concat(mems.map((mem, i) => u8.slice(mem, mem + (lens[i] as number))));
    } finally {
      buffers.free();
    }
  }

  async write(offBytes: number, data: Uint8Array, options: DriveOptions = {}): Promise<Status> {
    const buffers = this.#buffers(data.length, options);
    const { mems, lens } = buffers.vec;
    let at = 0;
    for (const [i, mem] of mems.entries()) {
      const len = lens[i] as number;
      this.#arena.u8.set(data.subarray(at, at + len), mem);
      at += len;
    }
    try {
      return await this.#send(Op.Write, offBytes, data.length, buffers.vec, options);
    } finally {
      buffers.free();
    }
  }

  async flush(): Promise<Status> {
    return await this.#send(Op.Flush, 0, 0, NO_VEC, {});
  }

  async discard(offBytes: number, lenBytes: number, options: DriveOptions = {}): Promise<Status> {
    return await this.#send(Op.Discard, offBytes, lenBytes, NO_VEC, options);
  }

  async zero(offBytes: number, lenBytes: number, options: DriveOptions = {}): Promise<Status> {
    return await this.#send(Op.WriteZeroes, offBytes, lenBytes, NO_VEC, options);
  }

  #send(
    op: Op,
    offBytes: number,
    lenBytes: number,
    vec: BioVec,
    options: DriveOptions,
  ): Promise<Status> {
    assert(offBytes % SECTOR_BYTES === 0, `bio at byte ${offBytes}: not on a sector`);
    return new Promise((resolve) => {
      const owner: BioOwner = { bioEnd: (bio) => resolve(bio.status) };
      const bio = new Bio();
      const sector = offBytes / SECTOR_BYTES;
      bio.init(op, this.device, sector, lenBytes, vec, systemContext, owner);
      bio.flags = options.flags ?? 0;
      submitBio(bio);
    });
  }

  #buffers(lenBytes: number, options: DriveOptions): Buffers {
    const skew = options.skewBytes ?? 0;
    const lens = options.segments ?? [lenBytes];
    const chunks = lens.map((len) => {
      const mem = this.#arena.tryAlloc(len + skew);
      assert(mem !== NONE, 'test: the arena is too small');
      return mem;
    });
    const vec = new BioVec(
      chunks.map((mem) => mem + skew),
      lens,
      this,
    );
    assert(vec.lenBytes >= lenBytes, 'test: segments shorter than the bio');
    return {
      vec,
      free: () => {
        for (const [i, mem] of chunks.entries()) this.#arena.free(mem, (lens[i] as number) + skew);
      },
    };
  }
}

/** A read that ended with an error. */
export class IoFailure extends Error {
  override readonly name = 'IoFailure';
  readonly status: Status;

  constructor(status: Status) {
    super(`status ${status}`);
    this.status = status;
  }
}
