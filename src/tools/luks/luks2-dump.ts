// A LUKS2 header as `cryptsetup luksDump` prints it, and for programs.

import { hexLines } from './dump-text.ts';
import { printable } from './luks-error.ts';
import type { Luks2Fields } from './luks2-header.ts';
import {
  byNumber,
  isCryptSegment,
  isLuks2Slot,
  isPbkdf2Digest,
  type Luks2Kdf,
  type Luks2Metadata,
} from './luks2-metadata.ts';

const INDENT = '\t            ';
const PRIORITIES = ['ignored', 'normal', 'preferred'];

export function dumpLuks2(fields: Luks2Fields, metadata: Luks2Metadata): string {
  const { config } = metadata;
  const flags = config.flags ?? [];
  const required = config.requirements?.mandatory ?? [];
  const lines = [
    'LUKS header information',
    'Version:       \t2',
    `Epoch:         \t${fields.sequenceId}`,
    `Metadata area: \t${fields.headerBytes} [bytes]`,
    `Keyslots area: \t${config.keyslots_size} [bytes]`,
    `UUID:          \t${fields.uuid === '' ? '(no UUID)' : fields.uuid}`,
    `Label:         \t${fields.label === '' ? '(no label)' : fields.label}`,
    `Subsystem:     \t${fields.subsystem === '' ? '(no subsystem)' : fields.subsystem}`,
    `Flags:       \t${flags.length === 0 ? '(no flags)' : flags.map((f) => `${f} `).join('')}`,
    ...(required.length === 0 ? [] : [`Requirements:\t${required.map((r) => `${r} `).join('')}`]),
    '',
    'Data segments:',
    ...segmentLines(metadata),
    '',
    'Keyslots:',
    ...keySlotLines(metadata),
    'Tokens:',
    ...tokenLines(metadata),
    'Digests:',
    ...digestLines(metadata),
  ];
  return printable(`${lines.join('\n')}\n`);
}

function bytesOf(base64: string): Buffer {
  return Buffer.from(base64, 'base64');
}

function field(name: string, value: string | number): string {
  return `\t${`${name}:`.padEnd(12)}${value}`;
}

function segmentLines({ segments }: Luks2Metadata): string[] {
  return byNumber(segments).flatMap(([id, segment]) => [
    `  ${id}: ${segment.type}`,
    `\toffset: ${segment.offset} [bytes]`,
    `\tlength: ${segment.size === 'dynamic' ? '(whole device)' : `${segment.size} [bytes]`}`,
    ...(isCryptSegment(segment)
      ? [
          `\tcipher: ${segment.encryption}`,
          `\tsector: ${segment.sector_size} [bytes]`,
          ...(segment.integrity === undefined ? [] : [`\tintegrity: ${segment.integrity.type}`]),
        ]
      : []),
    ...((segment.flags ?? []).length === 0 ? [] : [`\tflags : ${segment.flags?.join(', ')}`]),
  ]);
}

function keySlotLines(metadata: Luks2Metadata): string[] {
  return byNumber(metadata.keyslots).flatMap(([id, slot]) => {
    const digest = byNumber(metadata.digests).find(([, d]) => d.keyslots.includes(String(id)));
    const isBound = digest !== undefined && digest[1].segments.length > 0;
    const head = [
      `  ${id}: ${slot.type}${isBound ? '' : ' (unbound)'}`,
      field('Key', `${slot.key_size * 8} bits`),
      field('Priority', PRIORITIES[slot.priority ?? 1] ?? ''),
    ];
    const area = [
      field('Area offset', `${slot.area.offset} [bytes]`),
      field('Area length', `${slot.area.size} [bytes]`),
      ...(digest === undefined ? [] : [field('Digest ID', digest[0])]),
    ];
    if (!isLuks2Slot(slot)) return [...head, ...area];
    return [
      ...head,
      field('Cipher', slot.area.encryption),
      field('Cipher key', `${slot.area.key_size * 8} bits`),
      field('PBKDF', slot.kdf.type),
      ...kdfLines(slot.kdf),
      field('Salt', hexLines(bytesOf(slot.kdf.salt), INDENT)),
      field('AF stripes', slot.af.stripes),
      field('AF hash', slot.af.hash),
      ...area,
    ];
  });
}

function kdfLines(kdf: Luks2Kdf): string[] {
  if (kdf.type === 'pbkdf2') {
    return [field('Hash', kdf.hash), field('Iterations', kdf.iterations)];
  }
  return [field('Time cost', kdf.time), field('Memory', kdf.memory), field('Threads', kdf.cpus)];
}

function tokenLines({ tokens }: Luks2Metadata): string[] {
  return byNumber(tokens).flatMap(([id, token]) => [
    `  ${id}: ${token.type}`,
    ...(token.type === 'luks2-keyring' && typeof token['key_description'] === 'string'
      ? [`\tKey description: ${token['key_description']}`]
      : []),
    ...token.keyslots.map((slot) => field('Keyslot', slot)),
  ]);
}

function digestLines({ digests }: Luks2Metadata): string[] {
  return byNumber(digests).flatMap(([id, digest]) => [
    `  ${id}: ${digest.type}`,
    ...(isPbkdf2Digest(digest)
      ? [
          field('Hash', digest.hash),
          field('Iterations', digest.iterations),
          field('Salt', hexLines(bytesOf(digest.salt), INDENT)),
          field('Digest', hexLines(bytesOf(digest.digest), INDENT)),
        ]
      : []),
  ]);
}

export function describeLuks2(
  fields: Luks2Fields,
  metadata: Luks2Metadata,
): Record<string, unknown> {
  const { uuid, label, subsystem, sequenceId, headerBytes } = fields;
  return { version: 2, uuid, label, subsystem, sequenceId, headerBytes, metadata };
}
