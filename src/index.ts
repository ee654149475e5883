// Lamina as a library: stacks of mapped devices in this process.
//
//   const stack = await openStack("d,,,rw,0 2048 linear disk.img 0");
//   const disk = await stack.open('d');
//   await disk.write(0, data);          // bytes; whole logical blocks
//   await disk.flush();
//   await stack.close();
//
// An encrypted volume is opened to a table line of its own:
//
//   const file = LuksFile.open('disk.img', { isReadOnly: true });
//   const volume = openLuks(file);
//   const { volumeKey } = await volume.unlock(passphrase);
//   luksTable(volume, { key: volumeKey.toString('hex'), device: 'disk.img', deviceBytes: file.sizeBytes });
//
// `stack.control` has dmsetup's verbs. To serve NBD from a program, see `createPlane` and `NbdListener`.

import { DmError, invalid } from './base/errors.ts';
import { statusName } from './base/status.ts';
import { MIB, SECTOR_BYTES } from './base/units.ts';
import { Bio, BioFlag, type BioOwner, Op } from './bio/bio.ts';
import { IoContext } from './bio/context.ts';
import type { BlockDevice, Extent } from './bio/device.ts';
import { submitBio } from './bio/submit.ts';
import { BioVec, NO_VEC } from './bio/vec.ts';
import { PlaneCore } from './daemon/plane-core.ts';
import type { DmControl } from './dm/control.ts';
import { parseConcise } from './dm/table-text.ts';
import { Arena, CHUNK_BYTES_MAX, NONE } from './io/arena.ts';
import { NodeEngine } from './io/node-engine.ts';

export { DmError } from './base/errors.ts';
export { createPlane } from './daemon/create-plane.ts';
export type { Plane, PlaneOptions } from './daemon/plane.ts';
export type { CreateOptions, DeviceInfo, DmControl, TargetLine } from './dm/control.ts';
export { parseConcise, parseTable } from './dm/table-text.ts';
export {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
  type TargetType,
} from './dm/target.ts';
export type { Bio } from './bio/bio.ts';
export type { BlockDevice, Extent } from './bio/device.ts';
export { NbdListener } from './frontends/nbd/listener.ts';
export { WrongPassphrase } from './tools/luks/luks-error.ts';
export { LuksFile } from './tools/luks/luks-io.ts';
export { luksTable } from './tools/luks/luks-table.ts';
export type {
  LuksSegment,
  LuksVolume,
  Unlocked,
  UnlockOptions,
} from './tools/luks/luks-volume.ts';
export { openLuks } from './tools/luks/open-luks.ts';
export { LogError, type LogEntry, LogReader, openLog } from './tools/replay/log-reader.ts';
export {
  type LogPoint,
  replay,
  type ReplayChecks,
  type ReplayOptions,
  type ReplayResult,
  type ReplayState,
} from './tools/replay/replayer.ts';

export interface OpenStackOptions {
  /** Budget for I/O buffers, bytes. 64 MiB if not given. */
  readonly bufferBytes?: number;
}

export interface OpenedStack {
  readonly control: DmControl;
  open(name: string): Promise<Disk>;
  /** Flushes and closes every device. Rejects when a flush failed. */
  close(): Promise<void>;
}

/** Builds a stack from dmsetup's concise form, with the node engine, in this thread. */
export async function openStack(
  concise: string,
  options: OpenStackOptions = {},
): Promise<OpenedStack> {
  const devices = parseConcise(concise);
  const core = new PlaneCore(new NodeEngine(new Arena(options.bufferBytes ?? 64 * MIB)));
  const close = async (): Promise<void> => {
    try {
      await core.dm.close();
    } finally {
      core.engine.close();
    }
  };
  try {
    for (const { minor, ...device } of devices) {
      await core.dm.create(minor === undefined ? device : { ...device, minor });
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    control: core.dm,
    close,
    async open(name) {
      const opened = await core.dm.openDevice(name);
      return new Disk(opened.device, core.engine.arena, () => opened.close());
    },
  };
}

/** An open device. Offsets and lengths are bytes, multiples of `blockBytes`. Errors are DmErrors. */
export class Disk {
  readonly #device: BlockDevice;
  readonly #arena: Arena;
  readonly #release: () => Promise<void>;
  readonly #ctx: IoContext;

  constructor(device: BlockDevice, arena: Arena, release: () => Promise<void>) {
    this.#device = device;
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
      `${this.#device.name}: ${what} of ${lenBytes} bytes at ${offBytes}: need whole blocks of ` +
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
          else reject(new DmError(status, `${this.#device.name}: ${statusName(status)}`));
        },
      };
      const bio = new Bio();
      bio.init(op, this.#device, offBytes / SECTOR_BYTES, lenBytes, vec, this.#ctx, owner);
      bio.flags = flags;
      submitBio(bio);
    });
  }
}
