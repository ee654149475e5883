// Reads a log of dm-log-writes from the layout alone, sharing no code with lamina's own reader, and minds
// every byte: what is padding must be zero, what is behind the end mark belongs to nobody.
//
//   block 0     u64 magic, u64 version (1), u64 number of entries, u32 block size; the rest is zero
//   then each   u64 first block, u64 blocks, u64 flags, u64 bytes of mark text, the text; zero to the end of
//               the block; then the data, if it is neither a discard nor a mark

import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';

export const FLUSH = 1;
export const FUA = 2;
export const DISCARD = 4;
export const MARK = 8;

export interface PlainEntry {
  readonly flags: number;
  readonly offBytes: number;
  readonly lenBytes: number;
  readonly mark: string;
  /** Where its data is in the log; 0 bytes for discards and marks. */
  readonly dataAt: number;
  readonly dataBytes: number;
}

const MAGIC = 0x6a736677736872n;

export function readPlainLog(path: string): PlainEntry[] {
  const fd = openSync(path, 'r');
  const readAt = (at: number, bytes: number): Buffer => {
    const buffer = Buffer.alloc(bytes);
    assert.equal(readSync(fd, buffer, 0, bytes, at), bytes, `the log ends at byte ${at}`);
    return buffer;
  };
  try {
    const first = readAt(0, 512);
    assert.equal(first.readBigUInt64LE(0), MAGIC);
    assert.equal(first.readBigUInt64LE(8), 1n);
    const count = Number(first.readBigUInt64LE(16));
    const block = first.readUInt32LE(24);
    assert.ok(block >= 512 && block <= 65536 && (block & (block - 1)) === 0, `block ${block}`);
    assertZero(readAt(0, block).subarray(28), 'super');
    const entries: PlainEntry[] = [];
    let at = block;
    for (let i = 0; i < count; i++) {
      const header = readAt(at, block);
      at += block;
      const number = (off: number): number => Number(header.readBigUInt64LE(off));
      const flags = number(16);
      assert.ok(flags < 32, `entry ${i}: flags ${flags}`);
      const textBytes = number(24);
      assert.ok(textBytes === 0 || (flags & MARK) !== 0, `entry ${i}: text without a mark`);
      assertZero(header.subarray(32 + textBytes), `entry ${i}`);
      const lenBytes = number(8) * block;
      const dataBytes = (flags & (DISCARD | MARK)) === 0 ? lenBytes : 0;
      entries.push({
        flags,
        offBytes: number(0) * block,
        lenBytes,
        mark: header.toString('utf8', 32, 32 + textBytes),
        dataAt: at,
        dataBytes,
      });
      at += dataBytes;
    }
    return entries;
  } finally {
    closeSync(fd);
  }
}

function assertZero(bytes: Buffer, what: string): void {
  assert.ok(
    bytes.every((byte) => byte === 0),
    `${what}: padding is not zero`,
  );
}

/** Writes entries that are wanted to the image, in the order of the log. */
export function applyPlainLog(
  logPath: string,
  imagePath: string,
  entries: readonly PlainEntry[],
  isWanted: (entry: PlainEntry, index: number) => boolean = () => true,
): void {
  const log = openSync(logPath, 'r');
  const image = openSync(imagePath, 'r+');
  try {
    for (const [index, entry] of entries.entries()) {
      if (entry.lenBytes === 0 || !isWanted(entry, index)) continue;
      const data = Buffer.alloc(entry.lenBytes);
      if (entry.dataBytes > 0) readSync(log, data, 0, entry.dataBytes, entry.dataAt);
      writeSync(image, data, 0, data.length, entry.offBytes);
    }
  } finally {
    closeSync(log);
    closeSync(image);
  }
}
