// What every metadata block begins with. Where the block number is differs by kind (arrays: byte 16).

import { struct, u32 } from '../format/struct.ts';

export const BlockHeader = struct('metadata block header', 4, {
  csum: u32(0), // crc32c of bytes 4.., not inverted at the end, xor the kind's salt
});
