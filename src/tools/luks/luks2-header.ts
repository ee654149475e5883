// The two copies of a LUKS2 header: reading what is left of them, writing both such that one is always whole.
//
// A copy counts if its checksum is right, it is where it says it is, and its JSON is metadata. Of two the one
// with the higher sequence id counts. An update first makes both copies the present header, then writes the new
// one over the primary, flushes, and over the secondary, flushes: whatever a crash leaves, one copy is whole,
// and it is the header before the update or the one after it.

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { nodeHash } from './hashes.ts';
import { findSignature } from '../../format/known-signatures.ts';
import { LUKS_MAGIC } from './luks1.format.ts';
import {
  LUKS2_BINARY_BYTES,
  LUKS2_HEADER_SIZES,
  LUKS2_SECONDARY_MAGIC,
  Luks2Header,
} from './luks2.format.ts';
import { checkMetadata, type Luks2Metadata, parseMetadata, textOfArea } from './luks2-metadata.ts';
import { type JsonText, readJsonText, writeJsonText } from './json-text.ts';
import { damaged } from './luks-error.ts';
import type { LuksIo } from './luks-io.ts';

export interface Luks2Fields {
  /** Of one copy, bytes. */
  readonly headerBytes: number;
  readonly sequenceId: number;
  readonly label: string;
  readonly subsystem: string;
  readonly checksumAlgorithm: string;
  readonly uuid: string;
}

export interface Luks2Copy extends Luks2Fields {
  readonly metadata: Luks2Metadata;
  /** The words of the metadata, which an update keeps where it changes nothing. */
  readonly json: JsonText;
}

/** What was found on a device. */
export interface Luks2Found {
  readonly copy: Luks2Copy;
  /** Whole and of the same update. */
  readonly isPrimaryGood: boolean;
  readonly isSecondaryGood: boolean;
  readonly notes: readonly string[];
}

const MAGIC_BYTES = LUKS_MAGIC.length;

function viewOf(data: Uint8Array): DataView {
  return new DataView(data.buffer, data.byteOffset, data.length);
}

function startsWith(data: Uint8Array, magic: Uint8Array): boolean {
  return Buffer.compare(data.subarray(0, MAGIC_BYTES), magic) === 0;
}

/** Where a secondary may be that belongs to a primary which cannot tell. Bytes. */
function secondaryPlaces(io: LuksIo): number[] {
  return LUKS2_HEADER_SIZES.filter((at) => at + LUKS2_BINARY_BYTES <= io.sizeBytes);
}

/** Whether there is anything of LUKS2 here: one of the magics at its place. */
export function hasLuks2Magic(io: LuksIo): boolean {
  const first = new Uint8Array(MAGIC_BYTES + 2);
  if (io.sizeBytes < LUKS2_BINARY_BYTES) return false;
  io.read(0, first);
  if (startsWith(first, LUKS_MAGIC)) return first[6] === 0 && first[7] === 2;
  return secondaryPlaces(io).some((at) => {
    io.read(at, first);
    return startsWith(first, LUKS2_SECONDARY_MAGIC);
  });
}

/** Throws DmError when no copy is whole, with the reason of each. Nothing is written. */
export function readLuks2(io: LuksIo): Luks2Found {
  const primary = tryCopy(io, 0);
  const places = typeof primary === 'string' ? secondaryPlaces(io) : [primary.headerBytes];
  let secondary: Luks2Copy | string = 'not found';
  for (const at of places) {
    const found = tryCopy(io, at);
    if (typeof found === 'string') {
      if (typeof secondary === 'string' && (found !== NO_MAGIC || places.length === 1)) {
        secondary = found;
      }
    } else if (typeof secondary === 'string' || found.sequenceId > secondary.sequenceId) {
      secondary = found;
    }
  }
  return choose(io.path, primary, secondary);
}

function choose(
  path: string,
  primary: Luks2Copy | string,
  secondary: Luks2Copy | string,
): Luks2Found {
  if (typeof primary === 'string' && typeof secondary === 'string') {
    throw damaged(
      `${path}: no copy of the LUKS2 header is whole: primary: ${primary}; secondary: ${secondary}`,
    );
  }
  if (typeof primary === 'string') {
    const notes = [`the primary header is damaged (${primary}); the secondary one is used`];
    return { copy: secondary as Luks2Copy, isPrimaryGood: false, isSecondaryGood: true, notes };
  }
  const found = { copy: primary, isPrimaryGood: true, isSecondaryGood: false };
  if (typeof secondary === 'string') {
    const notes = [`the secondary header is damaged (${secondary}); the primary one is used`];
    return { ...found, notes };
  }
  if (secondary.uuid !== primary.uuid) {
    const notes = [`the secondary header is of another volume; the primary one is used`];
    return { ...found, notes };
  }
  if (primary.sequenceId === secondary.sequenceId) {
    return { ...found, isSecondaryGood: true, notes: [] };
  }
  if (primary.sequenceId > secondary.sequenceId) {
    return { ...found, notes: ['the secondary header is older; the primary one is used'] };
  }
  const notes = ['the primary header is older; the secondary one is used'];
  return { copy: secondary, isPrimaryGood: false, isSecondaryGood: true, notes };
}

const NO_MAGIC = 'no LUKS2 magic';

/** The copy at `at`, or why it is none. */
function tryCopy(io: LuksIo, at: number): Luks2Copy | string {
  try {
    return readCopy(io, at);
  } catch (error) {
    if (error instanceof DmError && error.status !== Status.Io) return error.message;
    if (error instanceof RangeError) return error.message;
    if (error instanceof DmError) return errorText(error);
    throw error;
  }
}

function readCopy(io: LuksIo, at: number): Luks2Copy {
  if (at + LUKS2_BINARY_BYTES > io.sizeBytes) throw damaged('behind the end of the device');
  const binary = new Uint8Array(LUKS2_BINARY_BYTES);
  io.read(at, binary);
  const magic = at === 0 ? LUKS_MAGIC : LUKS2_SECONDARY_MAGIC;
  if (!startsWith(binary, magic)) throw damaged(NO_MAGIC);
  const fields = Luks2Header.$decode(viewOf(binary), 0);
  const { headerBytes, headerOffset, version } = fields;
  if (version !== 2) throw damaged(`version ${version}: expected 2`);
  if (!LUKS2_HEADER_SIZES.includes(headerBytes) || (at !== 0 && at !== headerBytes)) {
    throw damaged(`header size ${headerBytes} is not one of LUKS2`);
  }
  if (headerOffset !== at) throw damaged(`it says it is at byte ${headerOffset}, not at ${at}`);
  if (at + headerBytes > io.sizeBytes) throw damaged('it goes beyond the end of the device');
  const all = new Uint8Array(headerBytes);
  io.read(at, all);
  const hash = nodeHash(fields.checksumAlgorithm, 'checksum');
  const checksum = checksumOf(all, hash.node);
  if (!timingSafeEqual(checksum, fields.checksum.subarray(0, hash.sizeBytes))) {
    throw damaged('wrong checksum');
  }
  const area = all.subarray(LUKS2_BINARY_BYTES);
  const metadata = parseMetadata(area, 'metadata');
  const { label, subsystem, sequenceId, checksumAlgorithm, uuid } = fields;
  return {
    headerBytes,
    sequenceId,
    label,
    subsystem,
    checksumAlgorithm,
    uuid,
    metadata,
    json: readJsonText(textOfArea(area)),
  };
}

/** Of a whole copy, the checksum's own field as zeroes. */
function checksumOf(copy: Uint8Array, node: string): Buffer {
  const { offset, sizeBytes } = Luks2Header.checksum;
  return createHash(node)
    .update(copy.subarray(0, offset))
    .update(new Uint8Array(sizeBytes))
    .update(copy.subarray(offset + sizeBytes))
    .digest();
}

/**
 * One copy, ready to be written, in the words of `json` where those say the same. Throws DmError if
 * the metadata does not fit.
 */
export function encodeCopy(
  copy: Luks2Fields & { readonly json?: JsonText },
  metadata: Luks2Metadata,
  at: number,
): Uint8Array {
  const { headerBytes } = copy;
  const json = new TextEncoder().encode(writeJsonText(metadata, copy.json));
  const room = headerBytes - LUKS2_BINARY_BYTES - 1;
  if (json.length > room) {
    throw new DmError(
      Status.NoSpace,
      `the metadata needs ${json.length} bytes, its area has room for ${room}`,
    );
  }
  const hash = nodeHash(copy.checksumAlgorithm, 'checksum');
  const all = new Uint8Array(headerBytes);
  Luks2Header.$encode(viewOf(all), 0, {
    ...copy,
    magic: at === 0 ? LUKS_MAGIC : LUKS2_SECONDARY_MAGIC,
    version: 2,
    salt: randomBytes(Luks2Header.salt.sizeBytes),
    headerOffset: at,
    padding: new Uint8Array(Luks2Header.padding.sizeBytes),
    checksum: new Uint8Array(Luks2Header.checksum.sizeBytes),
    padding4096: new Uint8Array(Luks2Header.padding4096.sizeBytes),
  });
  all.set(json, LUKS2_BINARY_BYTES);
  all.set(checksumOf(all, hash.node), Luks2Header.checksum.offset);
  return all;
}

/** Writes one copy, durably. */
export async function writeCopy(
  io: LuksIo,
  copy: Luks2Fields & { readonly json?: JsonText },
  metadata: Luks2Metadata,
  at: number,
): Promise<void> {
  io.write(at, encodeCopy(copy, metadata, at));
  await io.flush();
}

/**
 * Makes both copies the header that was found. Throws DmError, having written nothing, when the
 * place of the primary now holds something else.
 */
export async function mendCopies(io: LuksIo, found: Luks2Found): Promise<void> {
  const { copy, isPrimaryGood, isSecondaryGood } = found;
  if (!isPrimaryGood) {
    const other = findSignature(io, ['LUKS']);
    if (other !== undefined) {
      throw invalid(
        `${io.path}: the primary LUKS2 header is overwritten by ${other}; nothing is changed: if that ` +
          'is of no use, wipe its first bytes and try again',
      );
    }
    await writeCopy(io, copy, copy.metadata, 0);
  }
  if (!isSecondaryGood) await writeCopy(io, copy, copy.metadata, copy.headerBytes);
}

/** What an update changes beside the metadata; `json` lends its words to the metadata. */
export type Luks2Changes = Partial<Pick<Luks2Copy, 'label' | 'subsystem' | 'uuid' | 'json'>>;

/** Writes an update; both copies must be the present header. Answers the new one. */
export async function updateLuks2(
  io: LuksIo,
  copy: Luks2Copy,
  metadata: Luks2Metadata,
  changes: Luks2Changes = {},
): Promise<Luks2Copy> {
  const { headerBytes } = copy;
  checkMetadata(metadata, { where: `${io.path}: new metadata`, headerBytes });
  const words = { ...copy, ...changes, metadata, sequenceId: copy.sequenceId + 1 };
  const next = { ...words, json: readJsonText(writeJsonText(metadata, words.json)) };
  // Both are made before either is written, so that what does not fit changes nothing.
  const [first, second] = [encodeCopy(next, metadata, 0), encodeCopy(next, metadata, headerBytes)];
  io.write(0, first);
  await io.flush();
  io.write(headerBytes, second);
  await io.flush();
  return next;
}
