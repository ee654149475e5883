// LUKS1 on disk: a header of 592 bytes, big-endian, then the areas with the split key of each slot, then the
// data. Source: LUKS On-Disk Format Specification 1.2.3.
//
// The header crosses a sector: all of slots 0 to 5, the state of slot 6 and eight bytes of its salt are in the
// first one. So a write of a whole header is not atomic; see luks1-header.ts for the order that makes it so.

import { bytes, struct, text, u16be, u32be } from '../../format/struct.ts';

export const LUKS_MAGIC = Uint8Array.from([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]);
/** In place of the magic while cryptsetup re-encrypts LUKS1, so that nothing opens it. */
export const LUKS1_REENCRYPT_MAGIC = Uint8Array.from([0x4c, 0x55, 0x4b, 0x53, 0xde, 0xad]);

export const LUKS1_SLOTS = 8;
export const LUKS1_SLOT_ENABLED = 0x00ac71f3;
export const LUKS1_SLOT_DISABLED = 0x0000dead;
export const LUKS1_DIGEST_BYTES = 20;
export const LUKS1_SALT_BYTES = 32;
/** Areas of slots begin at multiples of this. */
export const LUKS1_ALIGN_BYTES = 4096;
/** Into how many parts a key is split, always. */
export const LUKS_STRIPES = 4000;

export const Luks1Header = struct('LUKS1 header', 592, {
  magic: bytes(0, 6),
  version: u16be(6), // 1
  cipherName: text(8, 32), // `aes`
  cipherMode: text(40, 32), // `xts-plain64`
  hashSpec: text(72, 32), // of PBKDF2 and of the splitter
  payloadOffset: u32be(104), // sectors; 0 when the data is elsewhere
  keyBytes: u32be(108), // of the volume key
  mkDigest: bytes(112, LUKS1_DIGEST_BYTES), // PBKDF2 of the volume key
  mkDigestSalt: bytes(132, LUKS1_SALT_BYTES),
  mkDigestIterations: u32be(164),
  uuid: text(168, 40),
  keySlots: bytes(208, LUKS1_SLOTS * 48), // Luks1KeySlot, eight times
});

export const Luks1KeySlot = struct('LUKS1 key slot', 48, {
  active: u32be(0),
  iterations: u32be(4), // of PBKDF2
  salt: bytes(8, LUKS1_SALT_BYTES),
  keyMaterialOffset: u32be(40), // sectors
  stripes: u32be(44), // 4000
});
