// A header that is put back is read back from the device: a disk that loses a write is told.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { LuksDisk, testFormat } from '../../testing/luks-disk.ts';
import { restoreHeader } from './backup.ts';
import { formatLuks } from './format-luks.ts';
import { openLuks } from './open-luks.ts';
import { type StagedDisk, StagedIo } from './staged-io.ts';

const KIB = 1024;

/** Says that all is well, and loses one write; -1 loses none. */
class LosingDisk implements StagedDisk {
  readonly blockBytes = 512;
  readonly image: Buffer;
  writes = 0;
  readonly #lost: number;

  constructor(sizeBytes: number, lost: number) {
    this.image = Buffer.alloc(sizeBytes, 0xff);
    this.#lost = lost;
  }

  get sizeBytes(): number {
    return this.image.length;
  }

  async read(at: number, lenBytes: number): Promise<Buffer> {
    return await Promise.resolve(Buffer.from(this.image.subarray(at, at + lenBytes)));
  }

  async write(at: number, data: Uint8Array): Promise<void> {
    if (this.writes++ !== this.#lost) this.image.set(data, at);
    await Promise.resolve();
  }

  async flush(): Promise<void> {
    await Promise.resolve();
  }
}

for (const version of [1, 2] as const) {
  test(`LUKS${version}: a write that is lost while a header is restored is found`, async () => {
    const disk = new LuksDisk(2300 * KIB, 'backup');
    await formatLuks(
      disk,
      Buffer.from('one'),
      testFormat(version, { dataOffsetBytes: 2048 * KIB }),
    );
    const backup = openLuks(disk);
    const restore = async (lost: number): Promise<LosingDisk> => {
      const target = new LosingDisk(disk.sizeBytes, lost);
      const io = new StagedIo('target', target);
      // As the command line does, which looks whether there is a header.
      await io.fetch(0, backup.headerBytes);
      await restoreHeader(backup, io);
      return target;
    };
    const whole = await restore(-1);
    assert.ok(whole.writes >= 2, 'the first sectors go last');
    const restored = new LuksDisk(whole.image);
    await openLuks(restored).unlock(Buffer.from('one'));
    for (let lost = 0; lost < whole.writes; lost++) {
      await assert.rejects(restore(lost), {
        status: Status.Io,
        message: /^target: what was written is not what is read back, from byte \d+ on/,
      });
    }
  });
}
