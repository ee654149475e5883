// What else may be on a device, by its magic: so that nothing of use is overwritten unasked.

/** What is looked at. `read` fills all of `into`. */
export interface SignatureIo {
  readonly sizeBytes: number;
  read(at: number, into: Uint8Array): void;
}

interface Signature {
  readonly name: string;
  /** Bytes from the begin; negative: from the end. */
  readonly at: number;
  readonly magic: Uint8Array;
}

function signature(name: string, at: number, magic: string | readonly number[]): Signature {
  const bytes = typeof magic === 'string' ? Buffer.from(magic, 'latin1') : Uint8Array.from(magic);
  return { name, at, magic: bytes };
}

const SIGNATURES: readonly Signature[] = [
  signature('LUKS', 0, 'LUKS\xba\xbe'),
  signature('ext2/ext3/ext4', 1080, [0x53, 0xef]),
  signature('XFS', 0, 'XFSB'),
  signature('Btrfs', 65600, '_BHRfS_M'),
  signature('F2FS', 1024, [0x10, 0x20, 0xf5, 0xf2]),
  signature('EROFS', 1024, [0xe2, 0xe1, 0xf5, 0xe0]),
  signature('squashfs', 0, 'hsqs'),
  signature('NTFS', 3, 'NTFS    '),
  signature('exFAT', 3, 'EXFAT   '),
  signature('BitLocker', 3, '-FVE-FS-'),
  signature('FAT', 54, 'FAT1'),
  signature('FAT', 82, 'FAT32'),
  signature('ISO 9660', 32769, 'CD001'),
  signature('UDF', 32769, 'BEA01'),
  signature('swap', 4086, 'SWAPSPACE2'),
  signature('bcache', 4120, [0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
  signature('LVM2', 512, 'LABELONE'),
  signature('LVM2', 0, 'LABELONE'),
  signature('LVM2', 1024, 'LABELONE'),
  signature('LVM2', 1536, 'LABELONE'),
  signature('Linux RAID', 4096, [0xfc, 0x4e, 0x2b, 0xa9]),
  signature('Linux RAID', 0, [0xfc, 0x4e, 0x2b, 0xa9]),
  signature('dm-verity', 0, 'verity\0\0'),
  signature('dm-integrity', 0, 'integrt\0'),
  signature('thin-pool metadata', 32, [0xba, 0x52, 0x9c, 0x01]),
  signature('insitu_comp', 0, [0x09, 0x6c, 0x50, 0x06, 0xc2, 0x26, 0x65, 0x10]),
  // A conversion to it that has not ended.
  signature('insitu_comp', 0, 'lamconv1'),
  signature('qcow2', 0, 'QFI\xfb'),
  signature('VMDK', 0, 'KDMV'),
  signature('VHDX', 0, 'vhdxfile'),
  signature('GPT', 512, 'EFI PART'),
  signature('GPT', 4096, 'EFI PART'),
  signature('GPT (backup)', -512, 'EFI PART'),
  // A boot sector or a partition table; last, because several of the above have it, too.
  signature('MBR', 510, [0x55, 0xaa]),
];

/** All signatures are so near to the begin, or to the end. */
const BEGIN_BYTES = 128 * 1024;
const END_BYTES = 4096;

/**
 * `findSignature` for what is not read at once. `read` is asked for whole blocks of 4096 bytes, but for
 * the last one.
 */
export async function fetchSignature(
  sizeBytes: number,
  read: (at: number, lenBytes: number) => Promise<Uint8Array>,
  except: readonly string[] = [],
): Promise<string | undefined> {
  const begin = await read(0, Math.min(BEGIN_BYTES, sizeBytes));
  const endAt = Math.max(0, Math.floor((sizeBytes - 1) / END_BYTES) - 1) * END_BYTES;
  const end = await read(endAt, sizeBytes - endAt);
  const fetched = (at: number, into: Uint8Array): void => {
    const from = at + into.length <= begin.length ? begin.subarray(at) : end.subarray(at - endAt);
    into.set(from.subarray(0, into.length));
  };
  return findSignature({ sizeBytes, read: fetched }, except);
}

/**
 * The name of what is found first, none of `except`; undefined for a device without a known
 * signature.
 */
export function findSignature(io: SignatureIo, except: readonly string[] = []): string | undefined {
  for (const { name, at, magic } of SIGNATURES) {
    if (except.includes(name)) continue;
    const from = at < 0 ? io.sizeBytes + at : at;
    if (from < 0 || from + magic.length > io.sizeBytes) continue;
    const found = new Uint8Array(magic.length);
    io.read(from, found);
    if (Buffer.compare(found, magic) === 0) return name;
  }
  return undefined;
}
