// Copies of the short runs that Lempel-Ziv formats are made of, inside one shared memory. Most are
// shorter than 16 bytes: where there is room, 16 are copied whatever the length, four at a time,
// because a loop that ends after one, two or three steps costs more than the steps (a wrong guess
// of the processor). A call of `copyWithin` costs as much as a run of 100 bytes.

const STEP_BYTES = 16;
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
 * Copies `len` bytes from `from` to `to`; the runs do not overlap. Up to 15 more may be read below
 * `fromEnd` and written below `toEnd`.
 */
export function copyRun(
  bytes: Bytes,
  from: number,
  fromEnd: number,
  to: number,
  toEnd: number,
  len: number,
): void {
  if (len > LONG_BYTES || from + len + STEP_BYTES > fromEnd || to + len + STEP_BYTES > toEnd) {
    copyExactly(bytes, from, to, len);
  } else {
    copySteps(bytes.view, from, to, len);
  }
}

/**
 * In steps of 16 bytes, one at least. Right for overlapping runs that are four bytes apart or
 * more.
 */
function copySteps(view: DataView, from: number, to: number, len: number): void {
  let done = 0;
  do {
    view.setInt32(to + done, view.getInt32(from + done, true), true);
    view.setInt32(to + done + 4, view.getInt32(from + done + 4, true), true);
    view.setInt32(to + done + 8, view.getInt32(from + done + 8, true), true);
    view.setInt32(to + done + 12, view.getInt32(from + done + 12, true), true);
    done += STEP_BYTES;
  } while (done < len);
}

function copyExactly({ u8 }: Bytes, from: number, to: number, len: number): void {
  if (len > STEP_BYTES) {
    u8.copyWithin(to, from, from + len);
    return;
  }
  for (let i = 0; i < len; i++) u8[to + i] = u8[from + i] as number;
}

/**
 * Repeats what lies `distance` before `to`, `len` bytes of it, byte for byte: where `distance` is
 * below `len`, what was just written is repeated. Up to 15 more bytes may be written below
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
  if (len <= LONG_BYTES && distance >= 4 && to + len + STEP_BYTES <= toEnd) {
    copySteps(bytes.view, from, to, len);
    return;
  }
  const { u8 } = bytes;
  if (len > LONG_BYTES) copyLongMatch(u8, to, distance, len);
  else for (let i = 0; i < len; i++) u8[to + i] = u8[from + i] as number;
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
