// Making a LUKS header with its first key slot. Until all is in place there is no header: what a crash leaves
// half done cannot be taken for a volume.

import { randomBytes, randomUUID } from 'node:crypto';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { isPowerOfTwo, MIB, SECTOR_BYTES } from '../../base/units.ts';
import { hashSpec } from './hashes.ts';
import { defaultLimits, deriveKey, type KdfParams } from './key-derivation.ts';
import { wipeRandom, wipeZero, writeKeyArea } from './key-area.ts';
import {
  LUKS1_ALIGN_BYTES,
  LUKS1_DIGEST_BYTES,
  LUKS1_SALT_BYTES,
  LUKS1_SLOTS,
} from './luks1.format.ts';
import { emptyLuks1, luks1AreaStep, type Luks1Fields, writeLuks1 } from './luks1-header.ts';
import {
  LUKS2_ALIGN_BYTES,
  LUKS2_BINARY_BYTES,
  LUKS2_HEADER_BYTES,
  LUKS2_HEADER_SIZES,
  LUKS2_KEY_SLOTS_BYTES_MAX,
  LUKS2_SECONDARY_MAGIC,
  LUKS2_SLOTS,
} from './luks2.format.ts';
import { checkLabel } from './luks2-config.ts';
import { digestIterations, newDigest } from './luks2-digest.ts';
import { encodeCopy, type Luks2Fields, writeCopy } from './luks2-header.ts';
import { checkMetadata, type Luks2Metadata } from './luks2-metadata.ts';
import { fillKeySlot, newKeySlot } from './luks2-key-slot.ts';
import type { LuksIo } from './luks-io.ts';
import { SectorCipher, splitCipherSpec } from './sector-cipher.ts';

/** Where data begins unless told otherwise is a multiple of this. */
const DATA_ALIGN_BYTES = MIB;
/** The default place of the data in LUKS2. */
const LUKS2_DATA_BYTES = 16 * MIB;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

export interface FormatOptions {
  readonly version: 1 | 2;
  readonly cipher: string;
  readonly keyBytes: number;
  /** Of the splitter, and of PBKDF2 where that is used. */
  readonly hash: string;
  readonly kdf: KdfParams;
  /** The volume key; a random one if not given. */
  readonly volumeKey?: Uint8Array | undefined;
  readonly slot?: number | undefined;
  readonly uuid?: string | undefined;
  /** The header is on a device of its own. */
  readonly isDetached: boolean;
  /** Of the data device; 0 if not known. */
  readonly dataDeviceBytes: number;
  /** Where the data begins, bytes. */
  readonly dataOffsetBytes?: number | undefined;
  /** What the begin of the data is a multiple of, when it is not given. */
  readonly alignBytes?: number | undefined;
  /** LUKS2 only. */
  readonly sectorBytes: number;
  readonly label?: string | undefined;
  readonly subsystem?: string | undefined;
  /** Of one copy of the header, bytes. */
  readonly metadataBytes?: number | undefined;
  readonly keySlotsBytes?: number | undefined;
  /** Cipher of the key slot area, and its key size. */
  readonly slotCipher?: string | undefined;
  readonly slotKeyBytes?: number | undefined;
  readonly isDigestBenchmarked?: boolean | undefined;
}

/** All but the cost of the key, which takes time to measure. */
export type FormatPlan = Omit<FormatOptions, 'kdf'>;

/** Where things are going to be, bytes. */
export interface FormatLayout {
  readonly metadataBytes: number;
  readonly keySlotsBytes: number;
  /** From the begin to the end of the key slots. */
  readonly headerBytes: number;
  readonly dataBytes: number;
}

/** Checks everything that can be checked before anything is written. Throws DmError. */
export function planFormat(options: FormatPlan): FormatLayout {
  const { version, cipher, keyBytes, hash, slot = 0, uuid, dataOffsetBytes } = options;
  hashSpec(hash, 'format');
  new SectorCipher(cipher, randomBytes(keyBytes), 'format').wipe();
  if (options.volumeKey !== undefined && options.volumeKey.length !== keyBytes) {
    const found = options.volumeKey.length;
    throw invalid(`format: volume key of ${found} bytes: the cipher needs ${keyBytes}`);
  }
  if (uuid !== undefined && !UUID.test(uuid)) throw invalid(`format: '${uuid}' is no UUID`);
  const slots = version === 1 ? LUKS1_SLOTS : LUKS2_SLOTS;
  if (slot < 0 || slot >= slots) throw invalid(`format: key slot ${slot}: expected below ${slots}`);
  const layout = version === 1 ? planLuks1(options) : planLuks2(options);
  const { dataDeviceBytes, isDetached, sectorBytes } = options;
  if (dataOffsetBytes !== undefined && dataOffsetBytes % sectorBytes !== 0) {
    throw invalid(
      `format: data offset ${dataOffsetBytes}: need a multiple of ${sectorBytes} bytes`,
    );
  }
  const rest = dataDeviceBytes === 0 ? 0 : (dataDeviceBytes - layout.dataBytes) % sectorBytes;
  if (version === 2 && sectorBytes > SECTOR_BYTES && rest > 0) {
    throw invalid(
      `format: sector size ${sectorBytes}: the device has ${dataDeviceBytes} bytes, the data begins at ` +
        `${layout.dataBytes}: ${rest} bytes are left over: need whole sectors, or --sector-size 512`,
    );
  }
  if (!isDetached && layout.dataBytes < layout.headerBytes) {
    const { dataBytes, headerBytes } = layout;
    throw invalid(
      `format: data offset ${dataBytes}: key slots end at byte ${headerBytes}; the data begins behind`,
    );
  }
  if (dataDeviceBytes !== 0 && layout.dataBytes + sectorBytes > dataDeviceBytes) {
    throw new DmError(
      Status.NoSpace,
      `format: the device has ${dataDeviceBytes} bytes, the data would begin at ${layout.dataBytes}`,
    );
  }
  return layout;
}

function planLuks1(options: FormatPlan): FormatLayout {
  const { keyBytes, isDetached, sectorBytes, label, subsystem } = options;
  if (sectorBytes !== SECTOR_BYTES) throw invalid('format: LUKS1 has sectors of 512 bytes only');
  if (label !== undefined || subsystem !== undefined) {
    throw invalid('format: label and subsystem: LUKS1 has none');
  }
  if (options.metadataBytes !== undefined || options.keySlotsBytes !== undefined) {
    throw invalid('format: metadata size and key slots size: LUKS1 has none');
  }
  if (options.slotCipher !== undefined || options.slotKeyBytes !== undefined) {
    throw invalid('format: key slot cipher: in LUKS1 it is that of the data');
  }
  const headerBytes = LUKS1_ALIGN_BYTES + LUKS1_SLOTS * luks1AreaStep(keyBytes);
  const align = options.alignBytes ?? DATA_ALIGN_BYTES;
  const dataBytes = options.dataOffsetBytes ?? (isDetached ? 0 : roundUp(headerBytes, align));
  const keySlotsBytes = headerBytes - LUKS1_ALIGN_BYTES;
  return { metadataBytes: LUKS1_ALIGN_BYTES, keySlotsBytes, headerBytes, dataBytes };
}

function planLuks2(options: FormatPlan): FormatLayout {
  const { isDetached, sectorBytes, dataOffsetBytes: offset, slotCipher, slotKeyBytes } = options;
  if (!isPowerOfTwo(sectorBytes) || sectorBytes < SECTOR_BYTES || sectorBytes > 4096) {
    throw invalid(`format: sector size ${sectorBytes}: expected 512, 1024, 2048 or 4096`);
  }
  checkLabel('label', options.label);
  checkLabel('subsystem', options.subsystem);
  new SectorCipher(
    slotCipher ?? options.cipher,
    randomBytes(slotKeyBytes ?? options.keyBytes),
    'format: key slot',
  ).wipe();
  const metadataBytes = options.metadataBytes ?? LUKS2_HEADER_BYTES;
  if (!LUKS2_HEADER_SIZES.includes(metadataBytes)) {
    const sizes = LUKS2_HEADER_SIZES.join(', ');
    throw invalid(`format: metadata size ${metadataBytes}: expected one of ${sizes}`);
  }
  const align = options.alignBytes ?? DATA_ALIGN_BYTES;
  const before = (): number => {
    if (options.keySlotsBytes !== undefined) return 2 * metadataBytes + options.keySlotsBytes;
    return offset !== undefined && !isDetached ? offset : roundUp(LUKS2_DATA_BYTES, align);
  };
  const room = Math.min(before() - 2 * metadataBytes, LUKS2_KEY_SLOTS_BYTES_MAX);
  const keySlotsBytes = options.keySlotsBytes ?? room - (room % LUKS2_ALIGN_BYTES);
  const need = roundUp(options.keyBytes * 4000, LUKS2_ALIGN_BYTES);
  if (
    keySlotsBytes % LUKS2_ALIGN_BYTES !== 0 ||
    keySlotsBytes < need ||
    keySlotsBytes > LUKS2_KEY_SLOTS_BYTES_MAX
  ) {
    throw invalid(
      `format: key slots size ${keySlotsBytes}: expected a multiple of ${LUKS2_ALIGN_BYTES}, ` +
        `${need} to ${LUKS2_KEY_SLOTS_BYTES_MAX}`,
    );
  }
  const headerBytes = 2 * metadataBytes + keySlotsBytes;
  const dataBytes = offset ?? (isDetached ? 0 : roundUp(headerBytes, align));
  return { metadataBytes, keySlotsBytes, headerBytes, dataBytes };
}

function roundUp(value: number, step: number): number {
  return Math.ceil(value / step) * step;
}

/** Makes the header on `io`, over whatever is there. `planFormat` must have passed. */
export async function formatLuks(
  io: LuksIo,
  passphrase: Uint8Array,
  options: FormatOptions,
): Promise<void> {
  const layout = planFormat(options);
  const { kdf, hash, version } = options;
  if (version === 1 && (kdf.type !== 'pbkdf2' || kdf.hash !== hash)) {
    throw invalid(`format: LUKS1 needs pbkdf2 with hash ${hash}`);
  }
  if (io.sizeBytes < layout.headerBytes) {
    throw new DmError(
      Status.NoSpace,
      `${io.path}: has ${io.sizeBytes} bytes, the header needs ${layout.headerBytes}`,
    );
  }
  const volumeKey = Buffer.alloc(options.keyBytes);
  volumeKey.set(options.volumeKey ?? randomBytes(options.keyBytes));
  try {
    if (options.version === 1) await formatLuks1(io, { passphrase, volumeKey }, options, layout);
    else await formatLuks2(io, { passphrase, volumeKey }, options, layout);
  } finally {
    volumeKey.fill(0);
  }
}

interface Secrets {
  readonly passphrase: Uint8Array;
  readonly volumeKey: Uint8Array;
}

/**
 * No header of either version stays, at any place where one is looked for; key slots become noise.
 */
async function wipeAll(io: LuksIo, layout: FormatLayout, isDetached: boolean): Promise<void> {
  const { headerBytes, keySlotsBytes } = layout;
  wipeZero(io, 0, headerBytes - keySlotsBytes);
  for (const at of LUKS2_HEADER_SIZES) {
    const magic = new Uint8Array(LUKS2_SECONDARY_MAGIC.length);
    const isHere = at + LUKS2_BINARY_BYTES <= io.sizeBytes;
    if (at < headerBytes || !isHere) continue;
    io.read(at, magic);
    const isMagic = Buffer.compare(magic, LUKS2_SECONDARY_MAGIC) === 0;
    if (isMagic) wipeZero(io, at, LUKS2_BINARY_BYTES);
  }
  // What file systems have within their first 64 KiB and behind ends here as well.
  if (!isDetached && layout.dataBytes > headerBytes) {
    wipeZero(io, headerBytes, Math.min(layout.dataBytes - headerBytes, MIB));
  }
  await io.flush();
  await wipeRandom(io, headerBytes - keySlotsBytes, keySlotsBytes);
}

async function formatLuks1(
  io: LuksIo,
  { passphrase, volumeKey }: Secrets,
  options: FormatOptions,
  layout: FormatLayout,
): Promise<void> {
  const { cipher, hash, kdf, keyBytes, slot = 0 } = options;
  const limits = defaultLimits();
  const { name, mode } = splitCipherSpec(cipher);
  const fields: Luks1Fields = emptyLuks1({
    cipherName: name,
    cipherMode: mode,
    hashSpec: hash,
    payloadOffset: layout.dataBytes / SECTOR_BYTES,
    keyBytes,
    uuid: options.uuid ?? randomUUID(),
  });
  fields.mkDigestSalt = randomBytes(LUKS1_SALT_BYTES);
  const isBenchmarked = options.isDigestBenchmarked === true;
  fields.mkDigestIterations = await digestIterations(hash, LUKS1_DIGEST_BYTES, isBenchmarked);
  fields.mkDigest = await deriveKey(
    { type: 'pbkdf2', hash, iterations: fields.mkDigestIterations },
    volumeKey,
    fields.mkDigestSalt,
    { keyBytes: LUKS1_DIGEST_BYTES, limits, where: 'format: digest' },
  );
  const where = `format: key slot ${slot}`;
  const keySlot = fields.slots[slot];
  if (keySlot === undefined || kdf.type !== 'pbkdf2') throw invalid(`${where}: not of LUKS1`);
  keySlot.salt = randomBytes(LUKS1_SALT_BYTES);
  keySlot.iterations = kdf.iterations;
  keySlot.isEnabled = true;
  const areaKey = await deriveKey(kdf, passphrase, keySlot.salt, { keyBytes, limits, where });
  try {
    await wipeAll(io, layout, options.isDetached);
    const at = keySlot.keyMaterialOffset * SECTOR_BYTES;
    const { stripes } = keySlot;
    const area = { at, stripes, hash: hashSpec(hash, where), cipher, where };
    await writeKeyArea(io, area, { volumeKey, areaKey });
    await writeLuks1(io, fields, true);
  } finally {
    areaKey.fill(0);
  }
}

async function formatLuks2(
  io: LuksIo,
  secrets: Secrets,
  options: FormatOptions,
  layout: FormatLayout,
): Promise<void> {
  const { slot = 0, kdf, hash, keyBytes } = options;
  const { metadataBytes } = layout;
  const limits = defaultLimits();
  const keySlot = newKeySlot(
    {
      kdf,
      hash,
      cipher: options.slotCipher ?? options.cipher,
      cipherKeyBytes: options.slotKeyBytes ?? keyBytes,
    },
    { volumeKeyBytes: keyBytes, like: undefined, offset: 2 * metadataBytes },
  );
  const metadata: Luks2Metadata = {
    keyslots: { [slot]: keySlot },
    tokens: {},
    segments: { 0: segmentOf(options, layout) },
    digests: {
      0: await newDigest(secrets.volumeKey, {
        hash,
        isBenchmarked: options.isDigestBenchmarked === true,
        slot,
        segments: [0],
      }),
    },
    config: {
      json_size: String(metadataBytes - LUKS2_BINARY_BYTES),
      keyslots_size: String(layout.keySlotsBytes),
    },
  };
  const fields: Luks2Fields = {
    headerBytes: metadataBytes,
    sequenceId: 1,
    label: options.label ?? '',
    subsystem: options.subsystem ?? '',
    checksumAlgorithm: 'sha256',
    uuid: options.uuid ?? randomUUID(),
  };
  checkMetadata(metadata, { where: 'format', headerBytes: metadataBytes });
  encodeCopy(fields, metadata, 0);
  await wipeAll(io, layout, options.isDetached);
  await fillKeySlot(io, keySlot, secrets, { limits, where: `format: key slot ${slot}` });
  await writeCopy(io, fields, metadata, 0);
  await writeCopy(io, fields, metadata, metadataBytes);
}

function segmentOf(
  options: FormatOptions,
  layout: FormatLayout,
): Luks2Metadata['segments'][string] {
  return {
    type: 'crypt',
    offset: String(layout.dataBytes),
    size: 'dynamic',
    iv_tweak: '0',
    encryption: options.cipher,
    sector_size: options.sectorBytes,
  };
}
