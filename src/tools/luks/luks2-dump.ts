// A LUKS2 header as `cryptsetup luksDump` prints it, and for programs.

import { hexLines } from './dump-text.ts';
import { printable } from './luks-error.ts';
import type { Luks2Fields } from './luks2-header.ts';
import {
  type AnyDigest,
  type AnyKeySlot,
  type AnySegment,
  byNumber,
  type Luks2Metadata,
} from './luks2-metadata.ts';
import { decodeBase64, int32, int64, spaced, uint32, uint64 } from './json-values.ts';
import { writeJsonText } from './json-text.ts';
import { segmentsOfData } from './luks2-reencryption.ts';
import { LUKS2_SLOTS } from './luks2.format.ts';

const INDENT = '\t            ';
const PRIORITIES = ['ignored', 'normal', 'preferred'];
/** The end of a line that has none; no text of a header holds half a character. */
const UNENDED = '\ud800';
/** Of so many digests cryptsetup tells. */
const DIGESTS = 8;

export function dumpLuks2(fields: Luks2Fields, metadata: Luks2Metadata): string {
  const { config } = metadata;
  const flags = config.flags ?? [];
  const required = config.requirements?.mandatory ?? [];
  const lines = [
    'LUKS header information',
    'Version:       \t2',
    `Epoch:         \t${fields.sequenceId}`,
    `Metadata area: \t${fields.headerBytes} [bytes]`,
    `Keyslots area: \t${Number(config.keyslots_size)} [bytes]`,
    `UUID:          \t${fields.uuid === '' ? '(no UUID)' : fields.uuid}`,
    `Label:         \t${fields.label === '' ? '(no label)' : fields.label}`,
    `Subsystem:     \t${fields.subsystem === '' ? '(no subsystem)' : fields.subsystem}`,
    `Flags:       \t${flags.length === 0 ? '(no flags)' : flags.map((f) => `${f} `).join('')}`,
    ...(required.length === 0 ? [] : [`Requirements:\t${required.map((r) => `${r} `).join('')}`]),
    '',
    'Data segments:',
    ...known(metadata.segments).flatMap(([id, segment]) => segmentLines(id, segment)),
    'Keyslots:',
    ...known(metadata.keyslots).flatMap(([id, slot]) => keySlotLines(id, slot, metadata)),
    'Tokens:',
    ...tokenLines(metadata),
    'Digests:',
    ...known(metadata.digests, DIGESTS).flatMap(([id, digest]) => digestLines(id, digest)),
  ];
  return printable(`${lines.join('\n')}\n`.replaceAll(`${UNENDED}\n`, ''));
}

/** Those whose numbers cryptsetup looks at. */
function known<T>(record: Readonly<Record<string, T>>, count = LUKS2_SLOTS): [number, T][] {
  return byNumber(record).filter(([id]) => id < count);
}

function field(name: string, value: string | number | bigint): string {
  return `\t${`${name}:`.padEnd(12)}${value}`;
}

/** Bytes of base64; cryptsetup does not end the line of what is none. */
function bytesField(name: string, base64: unknown): string {
  const data = decodeBase64(typeof base64 === 'string' ? base64 : '');
  return data === undefined ? field(name, UNENDED) : field(name, hexLines(data, INDENT));
}

function segmentLines(id: number, segment: AnySegment): string[] {
  const { type, offset, size, encryption, sector_size: sector, integrity, flags = [] } = segment;
  const mode = (integrity as { readonly type?: unknown } | null | undefined)?.type;
  return [
    `  ${id}: ${type}`,
    `\toffset: ${BigInt(offset)} [bytes]`,
    `\tlength: ${size === 'dynamic' ? '(whole device)' : `${BigInt(size)} [bytes]`}`,
    ...(encryption === undefined ? [] : [`\tcipher: ${spaced(encryption)}`]),
    ...(sector === undefined ? [] : [`\tsector: ${uint32(sector)} [bytes]`]),
    ...(mode === undefined ? [] : [`\tintegrity: ${spaced(mode)}`]),
    ...(flags.length === 0 ? [] : [`\tflags : ${flags.join(', ')}`]),
    '',
  ];
}

function keySlotLines(id: number, slot: AnyKeySlot, metadata: Luks2Metadata): string[] {
  const digests = byNumber(metadata.digests);
  const own = digests.find(([, digest]) => digest.keyslots.includes(String(id)));
  const isBound = segmentsOfData(metadata.segments).some((segment) => {
    const first = digests.find(([, digest]) => digest.segments.includes(segment));
    return own !== undefined && first === own;
  });
  const priority = slot.priority === undefined ? 1 : int32(slot.priority);
  return [
    `  ${id}: ${slot.type}${isBound ? '' : ' (unbound)'}`,
    field('Key', `${bitsOf(slot.key_size)} bits`),
    field('Priority', PRIORITIES[priority] ?? 'invalid'),
    ...(slot.type === 'luks2' ? luks2Lines(slot) : []),
    ...(slot.type === 'reencrypt' ? reencryptLines(slot) : []),
    ...digests.flatMap(([digest, { keyslots }]) =>
      keyslots.filter((k) => k === String(id)).map(() => field('Digest ID', digest)),
    ),
  ];
}

/** Counted in 32 bits. */
function bitsOf(keyBytes: unknown): number {
  return (uint32(keyBytes) * 8) % 2 ** 32;
}

type Values = Readonly<Record<string, unknown>>;

function luks2Lines(slot: AnyKeySlot): string[] {
  const [kdf, af, area] = [slot['kdf'] as Values, slot['af'] as Values, slot.area as Values];
  return [
    field('Cipher', spaced(area['encryption'])),
    field('Cipher key', `${bitsOf(area['key_size'])} bits`),
    field('PBKDF', spaced(kdf['type'])),
    ...(kdf['type'] === 'pbkdf2'
      ? [field('Hash', spaced(kdf['hash'])), field('Iterations', uint64(kdf['iterations']))]
      : [
          field('Time cost', int64(kdf['time'])),
          field('Memory', int64(kdf['memory'])),
          field('Threads', int64(kdf['cpus'])),
        ]),
    bytesField('Salt', kdf['salt']),
    field('AF stripes', uint32(int32(af['stripes']))),
    field('AF hash', spaced(af['hash'])),
    ...areaLines(slot),
  ];
}

function areaLines({ area }: AnyKeySlot): string[] {
  return [
    field('Area offset', `${BigInt(area.offset)} [bytes]`),
    field('Area length', `${BigInt(area.size)} [bytes]`),
  ];
}

function reencryptLines(slot: AnyKeySlot): string[] {
  const { area } = slot;
  return [
    field('Mode', spaced(slot['mode'])),
    field('Direction', spaced(slot['direction'])),
    field('Resilience', area.type),
    ...(area.type === 'checksum'
      ? [
          field('Hash', spaced(area['hash'])),
          field('Hash data', `${int32(area['sector_size'])} [bytes]`),
        ]
      : []),
    ...(area.type === 'datashift'
      ? [field('Shift size', `${BigInt(String(area['shift_size']))}[bytes]`)]
      : []),
    ...areaLines(slot),
  ];
}

function tokenLines({ tokens }: Luks2Metadata): string[] {
  return known(tokens).flatMap(([id, token]) => [
    `  ${id}: ${token.type}`,
    ...(token.type === 'luks2-keyring' && token['key_description'] !== undefined
      ? [`\tKey description: ${spaced(token['key_description'])}`]
      : []),
    ...token.keyslots.map((slot) => field('Keyslot', slot)),
  ]);
}

function digestLines(id: number, digest: AnyDigest): string[] {
  if (digest.type !== 'pbkdf2') return [`  ${id}: ${digest.type}`];
  return [
    `  ${id}: ${digest.type}`,
    field('Hash', spaced(digest['hash'])),
    field('Iterations', int64(digest['iterations'])),
    bytesField('Salt', digest['salt']),
    bytesField('Digest', digest['digest']),
  ];
}

export function describeLuks2(
  fields: Luks2Fields,
  metadata: Luks2Metadata,
): Record<string, unknown> {
  const { uuid, label, subsystem, sequenceId, headerBytes } = fields;
  const plain = JSON.parse(writeJsonText(metadata)) as unknown;
  return { version: 2, uuid, label, subsystem, sequenceId, headerBytes, metadata: plain };
}
