// Copies of the short runs that Lempel-Ziv formats are made of, inside one shared memory. Four
// bytes a step where there is room to write up to three too many: a call of `copyWithin` costs as
// much as a run of 100 bytes.

/** From here on `copyWithin` wins. */
const LONG_BYTES = 96;

/** The memory as the codecs see it. */
export class Bytes {
  readonly u8: Uint8Array;
  readonly view: DataView;

  constructor(buffer: SharedArrayBuffer) {
    this.u8 = new Uint8Array(buffer);
    this.view = new DataView(buffer);
  }
}

/**
 * Copies `len` bytes from `from` to `to`; the runs do not overlap. Up to three more may be read
 * below `fromEnd` and written below `toEnd`.
 */
export function copyRun(
  bytes: Bytes,
  from: number,
  fromEnd: number,
  to: number,
  toEnd: number,
  len: number,
): void {
  if (len > LONG_BYTES || from + len + 3 > fromEnd || to + len + 3 > toEnd) {
    copyExactly(bytes, from, to, len);
    return;
  }
  const { view } = bytes;
  for (let i = 0; i < len; i += 4) view.setInt32(to + i, view.getInt32(from + i, true), true);
}

function copyExactly(bytes: Bytes, from: number, to: number, len: number): void {
  const { u8 } = bytes;
  if (len > 16) {
    u8.copyWithin(to, from, from + len);
    return;
  }
  for (let i = 0; i < len; i++) u8[to + i] = u8[from + i] as number;
}

/**
 * Repeats what lies `distance` before `to`, `len` bytes of it, byte for byte: where `distance` is
 * below `len`, what was just written is repeated. Up to three more bytes may be written below
 * `toEnd`.
 */
export function copyMatch(
  bytes: Bytes,
  to: number,
  distance: number,
  toEnd: number,
  len: number,
): void {
  const from = to - distance;
  const { u8, view } = bytes;
  if (len > LONG_BYTES) {
    copyLongMatch(u8, to, distance, len);
  } else if (distance >= 4 && to + len + 3 <= toEnd) {
    for (let i = 0; i < len; i += 4) view.setInt32(to + i, view.getInt32(from + i, true), true);
  } else {
    for (let i = 0; i < len; i++) u8[to + i] = u8[from + i] as number;
  }
}

/** Doubles what there is to copy from until it is enough. */
function copyLongMatch(u8: Uint8Array, to: number, distance: number, len: number): void {
  const from = to - distance;
  if (distance === 1) {
    u8.fill(u8[from] as number, to, to + len);
    return;
  }
  let done = 0;
  for (let ready = distance; done < len; ready *= 2) {
    const part = Math.min(ready, len - done);
    u8.copyWithin(to + done, from, from + part);
    done += part;
  }
}
