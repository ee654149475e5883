// The IVs of old loop-AES (lmk) and TrueCrypt (tcw) containers: both depend on the data. 512-byte
// sectors in CBC mode only. Slow and weak; for reading what is there.
//
// lmk: the IV is the state of MD5 (no padding) over [seed 64 bytes], bytes 16 to 511 of the plaintext and
// the sector number (56 bits). tcw: the IV is a seed ^ sector number, and the ciphertext is XORed with 8
// bytes made from whitening ^ sector number by CRC-32. Source: dm-crypt's documentation and behaviour.

export type LegacySeed =
  | { readonly kind: 'lmk'; readonly seed: Uint8Array | null }
  | { readonly kind: 'tcw'; readonly iv: Uint8Array; readonly whitening: Uint8Array };

const SECTOR = 512;
const BLOCK = 16;
const LMK_SEED_BYTES = 64;

export class LegacyIv {
  readonly #seed: LegacySeed;
  readonly #u8: Uint8Array;

  constructor(seed: LegacySeed, arenaBytes: Uint8Array) {
    this.#seed = seed;
    this.#u8 = arenaBytes;
  }

  /** Writes the IV to `iv`; `data` is plaintext to be encrypted or ciphertext to be decrypted. */
  before(isEncrypt: boolean, data: number, sector: number, iv: number): void {
    const seed = this.#seed;
    if (seed.kind === 'lmk') {
      this.#u8.fill(0, iv, iv + BLOCK);
      if (isEncrypt) this.#u8.set(this.#lmk(seed.seed, data, sector), iv);
      return;
    }
    if (!isEncrypt) this.#whiten(seed.whitening, data, sector);
    const number = sectorBytes(sector);
    for (let i = 0; i < BLOCK; i++) {
      this.#u8[iv + i] = (seed.iv[i] as number) ^ (number[i % 8] as number);
    }
  }

  /** `data` has been encrypted or decrypted. */
  behind(isEncrypt: boolean, data: number, sector: number, _iv: number): void {
    const seed = this.#seed;
    if (seed.kind === 'tcw') {
      if (isEncrypt) this.#whiten(seed.whitening, data, sector);
      return;
    }
    if (isEncrypt) return;
    const iv = this.#lmk(seed.seed, data, sector);
    for (let i = 0; i < BLOCK; i++) {
      this.#u8[data + i] = (this.#u8[data + i] as number) ^ (iv[i] as number);
    }
  }

  #lmk(seed: Uint8Array | null, data: number, sector: number): Uint8Array {
    const seedBytes = seed === null ? 0 : LMK_SEED_BYTES;
    const input = new Uint8Array(seedBytes + SECTOR);
    // The seed is 16 bytes of key; the rest of its 64 is zeroes.
    if (seed !== null) input.set(seed);
    input.set(this.#u8.subarray(data + BLOCK, data + SECTOR), seedBytes);
    const tail = seedBytes + SECTOR - BLOCK;
    putWord(input, tail, sector | 0);
    putWord(input, tail + 4, (Math.floor(sector / 2 ** 32) & 0xffffff) | 0x80000000);
    putWord(input, tail + 8, 4024);
    return md5State(input);
  }

  #whiten(whitening: Uint8Array, data: number, sector: number): void {
    const number = sectorBytes(sector);
    const buffer = whitening.map((byte, i) => byte ^ (number[i % 8] as number));
    for (let i = 0; i < 16; i += 4) putWord(buffer, i, crc32(buffer.subarray(i, i + 4)));
    for (let i = 0; i < 4; i++) {
      buffer[i] = (buffer[i] as number) ^ (buffer[i + 12] as number);
      buffer[i + 4] = (buffer[i + 4] as number) ^ (buffer[i + 8] as number);
    }
    for (let i = 0; i < SECTOR; i++) {
      this.#u8[data + i] = (this.#u8[data + i] as number) ^ (buffer[i % 8] as number);
    }
  }
}

function sectorBytes(sector: number): Uint8Array {
  const bytes = new Uint8Array(8);
  putWord(bytes, 0, sector | 0);
  putWord(bytes, 4, Math.floor(sector / 2 ** 32));
  return bytes;
}

/** Little-endian, as everything here. */
function putWord(bytes: Uint8Array, at: number, word: number): void {
  for (let i = 0; i < 4; i++) bytes[at + i] = word >>> (8 * i);
}

function getWord(bytes: Uint8Array, at: number): number {
  let word = 0;
  for (let i = 3; i >= 0; i--) word = (word << 8) | (bytes[at + i] as number);
  return word;
}

/** CRC-32 (IEEE, reflected) that starts at 0 and is not inverted at the end. */
function crc32(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) === 0 ? 0 : 0xedb88320);
  }
  return crc;
}

const SHIFTS = [
  [7, 12, 17, 22],
  [5, 9, 14, 20],
  [4, 11, 16, 23],
  [6, 10, 15, 21],
] as const;
const SINES = Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32));

/** MD5's state (RFC 1321) after whole blocks of 64 bytes, without the padding of a finished hash. */
export function md5State(input: Uint8Array): Uint8Array {
  const state = new Uint32Array([0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476]);
  for (let block = 0; block < input.length; block += 64) {
    let [a, b, c, d] = state as unknown as [number, number, number, number];
    for (let i = 0; i < 64; i++) {
      const round = i >> 4;
      const [mixed, word] = md5Mix(round, i, b, c, d);
      const sum = (a + mixed + (SINES[i] as number) + getWord(input, block + word * 4)) | 0;
      const shift = SHIFTS[round as 0 | 1 | 2 | 3][i & 3] as number;
      a = d;
      d = c;
      c = b;
      b = (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0;
    }
    for (const [i, value] of [a, b, c, d].entries()) {
      state[i] = (state[i] as number) + value;
    }
  }
  const out = new Uint8Array(16);
  for (const [i, word] of state.entries()) putWord(out, i * 4, word);
  return out;
}

/** The function of a round, and which word of the block goes in. */
function md5Mix(round: number, i: number, b: number, c: number, d: number): [number, number] {
  switch (round) {
    case 0:
      return [(b & c) | (~b & d), i];
    case 1:
      return [(d & b) | (~d & c), (5 * i + 1) & 15];
    case 2:
      return [b ^ c ^ d, (3 * i + 5) & 15];
    default:
      return [c ^ (b | ~d), (7 * i) & 15];
  }
}
