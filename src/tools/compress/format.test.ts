// A format over an old volume, ended after any of its writes: the old one is whole, or there is
// none, or the new one is.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkVolume } from './check.ts';
import { formatImage } from './format.ts';
import { type CompressIo, readSuperblocks, uuidText } from './image.ts';

const SIZE_BYTES = 4 * 1024 * 1024;
const OPTIONS = { codec: 'lz4', level: 0 } as const;

class Ended extends Error {}

/** A disk that keeps writes back until a flush, and ends with the given call of those that change something. */
class Disk implements CompressIo {
  readonly sizeBytes = SIZE_BYTES;
  readonly blockBytes = 512;
  bytes = Buffer.alloc(SIZE_BYTES);
  /** What has not been flushed. */
  #late: (readonly [at: number, data: Buffer])[] = [];
  #left: number;

  constructor(left = Number.POSITIVE_INFINITY) {
    this.#left = left;
  }

  /** The disk as it is after an end: `keeps` says which of the writes that were not flushed are there. */
  after(keeps: (i: number) => boolean): Disk {
    const disk = new Disk();
    disk.bytes = Buffer.from(this.bytes);
    for (const [i, [at, data]] of this.#late.entries()) if (keeps(i)) disk.bytes.set(data, at);
    return disk;
  }

  async read(at: number, lenBytes: number): Promise<Uint8Array> {
    return await Promise.resolve(this.after(() => true).bytes.subarray(at, at + lenBytes));
  }

  async write(at: number, data: Uint8Array): Promise<void> {
    this.#count();
    this.#late.push([at, Buffer.from(data)]);
    await Promise.resolve();
  }

  async flush(): Promise<void> {
    this.#count();
    this.bytes = this.after(() => true).bytes;
    this.#late = [];
    await Promise.resolve();
  }

  #count(): void {
    if (this.#left-- <= 0) throw new Ended();
  }
}

test('an end in the middle leaves no old superblock over new records', async () => {
  const old = new Disk();
  const before = uuidText(await formatImage('old', old, OPTIONS));
  const found = { old: 0, none: 0, new: 0 };
  for (let calls = 0; ; calls++) {
    const disk = new Disk(calls);
    disk.bytes = Buffer.from(old.bytes);
    const made = await formatImage('new', disk, OPTIONS).catch((error: unknown) => {
      assert.ok(error instanceof Ended, String(error));
      return undefined;
    });
    for (const keeps of [() => false, () => true, (i: number) => i % 2 === 0]) {
      const after = disk.after(keeps);
      const superblocks = await readSuperblocks(after);
      if (typeof superblocks === 'string') {
        found.none++;
        continue;
      }
      const checked = await checkVolume(after);
      assert.ok(typeof checked !== 'string');
      const kinds = checked.faults.map(({ kind }) => kind);
      assert.ok(
        kinds.every((kind) => kind === 'superblock' || kind === 'copy'),
        `after ${calls} calls: ${kinds.join(' ')}`,
      );
      found[uuidText(superblocks.format) === before ? 'old' : 'new']++;
    }
    if (made !== undefined) break;
  }
  assert.ok(found.old > 0 && found.none > 0 && found.new > 0, JSON.stringify(found));
});
