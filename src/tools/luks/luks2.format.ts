// LUKS2 on disk: two copies of the header, each a binary part of 4096 bytes and an area of JSON text, then the
// areas with the split keys, then the data. Big-endian. Source: LUKS2 On-Disk Format Specification 1.1.1.
//
// The copies differ in magic, place and salt. The checksum covers the whole copy, JSON area included, with the
// checksum itself as zeroes; a copy with a wrong one is not a header.

import { bytes, struct, text, u16be, u64be } from '../../format/struct.ts';
import { KIB, MIB } from '../../base/units.ts';

export const LUKS2_SECONDARY_MAGIC = Uint8Array.from([0x53, 0x4b, 0x55, 0x4c, 0xba, 0xbe]);
export const LUKS2_BINARY_BYTES = 4096;
/** What a copy of the header takes unless told otherwise. */
export const LUKS2_HEADER_BYTES = 16 * KIB;
/** What a copy of the header may take; the secondary begins where the primary ends. */
export const LUKS2_HEADER_SIZES: readonly number[] = [
  16 * KIB,
  32 * KIB,
  64 * KIB,
  128 * KIB,
  256 * KIB,
  512 * KIB,
  1 * MIB,
  2 * MIB,
  4 * MIB,
];
/** Nobody looks for a copy's begin behind that. */
export const LUKS2_PLACES_END_BYTES = 4 * MIB + LUKS2_BINARY_BYTES;
export const LUKS2_SLOTS = 32;
export const LUKS2_TOKENS = 32;
/** Other programs look for no digest behind these. */
export const LUKS2_DIGESTS = 8;
/** Areas of key slots begin at multiples of this and are such multiples. */
export const LUKS2_ALIGN_BYTES = 4096;
export const LUKS2_KEY_SLOTS_BYTES_MAX = 128 * MIB;
export const LUKS2_LABEL_BYTES = 48;

export const Luks2Header = struct('LUKS2 header', LUKS2_BINARY_BYTES, {
  magic: bytes(0, 6), // `LUKS\xba\xbe`, in the secondary `SKUL\xba\xbe`
  version: u16be(6), // 2
  headerBytes: u64be(8), // of this copy, with its JSON area
  sequenceId: u64be(16), // one more with every update; the higher one counts
  label: text(24, LUKS2_LABEL_BYTES),
  checksumAlgorithm: text(72, 32), // `sha256`
  salt: bytes(104, 64), // new for every write of every copy
  uuid: text(168, 40),
  subsystem: text(208, LUKS2_LABEL_BYTES),
  headerOffset: u64be(256), // where this copy is, bytes
  padding: bytes(264, 184),
  checksum: bytes(448, 64),
  padding4096: bytes(512, 3584),
});
