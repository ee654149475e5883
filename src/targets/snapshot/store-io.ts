// Reads and writes of a store's own chunks on the cow device, one at a time, through a buffer of
// its own: metadata moves also when clients hold all the memory.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { KIB, SECTOR_BYTES } from '../../base/units.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import { type Arena, NONE } from '../../io/arena.ts';

const BUFFER_BYTES = 64 * KIB;

export class StoreIo {
  readonly device: BlockDevice;
  readonly #arena: Arena;
  readonly #mem: number;

  /** Throws DmError when there is no memory. */
  constructor(device: BlockDevice, arena: Arena) {
    this.device = device;
    this.#arena = arena;
    this.#mem = arena.tryAlloc(BUFFER_BYTES);
    if (this.#mem !== NONE) return;
    const text = `exception store ${device.name}: no buffer memory left: ${BUFFER_BYTES} bytes wanted`;
    throw new DmError(Status.NoMemory, text);
  }

  get pieceBytesMax(): number {
    return BUFFER_BYTES;
  }

  /** Fills `into`, at most a piece, from `sector` on. */
  async read(sector: number, into: Uint8Array): Promise<Status> {
    const status = await this.#send(Op.Read, sector, into.length, BioFlag.Meta);
    if (status === Status.Ok) into.set(this.#arena.bytes(this.#mem, into.length));
    return status;
  }

  /** Writes whole blocks, as many pieces as it takes; all is durable when it resolves with Ok. */
  async writeDurably(sector: number, data: Uint8Array): Promise<Status> {
    let status: Status = Status.Ok;
    for (let at = 0; at < data.length && status === Status.Ok; at += BUFFER_BYTES) {
      const piece = data.subarray(at, at + BUFFER_BYTES);
      this.#arena.u8.set(piece, this.#mem);
      const flags = BioFlag.Meta | BioFlag.Fua;
      status = await this.#send(Op.Write, sector + at / SECTOR_BYTES, piece.length, flags);
    }
    return status;
  }

  /** Nothing is under way. */
  close(): void {
    this.#arena.free(this.#mem, BUFFER_BYTES);
  }

  async #send(op: Op, sector: number, lenBytes: number, flags: number): Promise<Status> {
    const vec = new BioVec([this.#mem], [lenBytes], this);
    return await sendBio(op, this.device, sector, lenBytes, vec, { flags });
  }
}
