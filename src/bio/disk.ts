// A device for who reads and writes bytes: programs that use lamina as a library, tools.

import { DmError, invalid } from '../base/errors.ts';
import { errnoAdvice } from '../base/system-error.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { type Arena, CHUNK_BYTES_MAX, NONE } from '../io/arena.ts';
import { Bio, BioFlag, type BioOwner, Op } from './bio.ts';
import { IoContext } from './context.ts';
import type { BlockDevice, Extent } from './device.ts';
import { submitBio } from './submit.ts';
import { BioVec, NO_VEC } from './vec.ts';

const WORDS: Readonly<Record<Op, string>> = {
  [Op.Read]: 'read',
  [Op.Write]: 'write',
  [Op.Flush]: 'flush',
  [Op.Discard]: 'discard',
  [Op.WriteZeroes]: 'write zeroes to',
};

/** An open device. Offsets and lengths are bytes, multiples of `blockBytes`. Errors are DmErrors. */
export class Disk {
  readonly #device: BlockDevice;
  readonly #name: string;
  readonly #arena: Arena;
  readonly #release: () => Promise<void>;
  readonly #ctx: IoContext;

  /** `name` is what errors call it. */
  constructor(
    device: BlockDevice,
    arena: Arena,
    release: () => Promise<void>,
    name: string = device.name,
  ) {
    this.#device = device;
    this.#name = name;
    this.#arena = arena;
    this.#release = release;
    this.#ctx = new IoContext({ name: `library:${device.name}` });
  }

  get sizeBytes(): number {
    return this.#device.lenSectors * SECTOR_BYTES;
  }

  get blockBytes(): number {
    return this.#device.limits.logicalBlockBytes;
  }

  async read(offBytes: number, lenBytes: number): Promise<Buffer> {
    this.#check('read', offBytes, lenBytes);
    const data = Buffer.alloc(lenBytes);
    for (let at = 0; at < lenBytes; at += CHUNK_BYTES_MAX) {
      const bytes = Math.min(CHUNK_BYTES_MAX, lenBytes - at);
      await this.#withChunk(bytes, async (mem, vec) => {
        await this.#send(Op.Read, offBytes + at, bytes, vec, 0);
        data.set(this.#arena.bytes(mem, bytes), at);
      });
    }
    return data;
  }

  /** With `fua`, the data is durable when this resolves. */
  async write(
    offBytes: number,
    data: Uint8Array,
    options: { readonly fua?: boolean } = {},
  ): Promise<void> {
    this.#check('write', offBytes, data.length);
    const flags = options.fua === true ? BioFlag.Fua : 0;
    for (let at = 0; at < data.length; at += CHUNK_BYTES_MAX) {
      const part = data.subarray(at, at + CHUNK_BYTES_MAX);
      await this.#withChunk(part.length, async (mem, vec) => {
        this.#arena.u8.set(part, mem);
        await this.#send(Op.Write, offBytes + at, part.length, vec, flags);
      });
    }
  }

  /** Everything that had resolved before is durable when this resolves. */
  async flush(): Promise<void> {
    await this.#send(Op.Flush, 0, 0, NO_VEC, 0);
  }

  async discard(offBytes: number, lenBytes: number): Promise<void> {
    this.#check('discard', offBytes, lenBytes);
    await this.#send(Op.Discard, offBytes, lenBytes, NO_VEC, 0);
  }

  async zero(offBytes: number, lenBytes: number): Promise<void> {
    this.#check('zero', offBytes, lenBytes);
    await this.#send(Op.WriteZeroes, offBytes, lenBytes, NO_VEC, 0);
  }

  /** Allocation from `sector` on, in sectors. */
  extents(sector: number, lenSectors: number, maxExtents = 1024): Promise<Extent[]> {
    return this.#device.extents(sector, lenSectors, maxExtents);
  }

  async close(): Promise<void> {
    this.#ctx.put();
    await this.#release();
  }

  #check(what: string, offBytes: number, lenBytes: number): void {
    const block = this.blockBytes;
    const isAligned = offBytes % block === 0 && lenBytes % block === 0 && lenBytes > 0;
    if (isAligned && offBytes >= 0 && offBytes + lenBytes <= this.sizeBytes) return;
    throw invalid(
      `${this.#name}: ${what} of ${lenBytes} bytes at ${offBytes}: need whole blocks of ` +
        `${block} bytes within ${this.sizeBytes}`,
    );
  }

  async #withChunk(bytes: number, use: (mem: number, vec: BioVec) => Promise<void>): Promise<void> {
    let mem = this.#arena.tryAlloc(bytes);
    while (mem === NONE) {
      await new Promise<void>((resolve) => this.#arena.onFree(resolve));
      mem = this.#arena.tryAlloc(bytes);
    }
    try {
      await use(mem, new BioVec([mem], [bytes], this));
    } finally {
      this.#arena.free(mem, bytes);
    }
  }

  #send(op: Op, offBytes: number, lenBytes: number, vec: BioVec, flags: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const owner: BioOwner = {
        bioEnd: ({ status }) => {
          if (status === 0) resolve();
          else {
            const where = lenBytes === 0 ? '' : ` ${lenBytes} bytes at byte ${offBytes}`;
            const text = `${this.#name}: cannot ${WORDS[op]}${where}: ${errnoAdvice(status)}`;
            reject(new DmError(status, text));
          }
        },
      };
      const bio = new Bio();
      bio.init(op, this.#device, offBytes / SECTOR_BYTES, lenBytes, vec, this.#ctx, owner);
      bio.flags = flags;
      submitBio(bio);
    });
  }
}
