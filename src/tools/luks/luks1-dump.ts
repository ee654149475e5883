// A LUKS1 header as `cryptsetup luksDump` prints it, and for programs.

import { hexLines } from './dump-text.ts';
import { printable } from './luks-error.ts';
import type { Luks1Fields, Luks1Slot } from './luks1-header.ts';

export function dumpLuks1(path: string, fields: Luks1Fields): string {
  const lines = [
    `LUKS header information for ${path}`,
    '',
    'Version:       \t1',
    `Cipher name:   \t${fields.cipherName}`,
    `Cipher mode:   \t${fields.cipherMode}`,
    `Hash spec:     \t${fields.hashSpec}`,
    `Payload offset:\t${fields.payloadOffset}`,
    `MK bits:       \t${(fields.keyBytes * 8) % 2 ** 32}`,
    `MK digest:     \t${hexLines(fields.mkDigest, '', 20)}`,
    `MK salt:       \t${hexLines(fields.mkDigestSalt, '               \t')}`,
    `MK iterations: \t${fields.mkDigestIterations}`,
    `UUID:          \t${fields.uuid}`,
    '',
  ];
  for (const [i, slot] of fields.slots.entries()) lines.push(...slotLines(i, slot));
  return printable(`${lines.join('\n')}\n`);
}

function slotLines(i: number, slot: Luks1Slot): string[] {
  if (!slot.isEnabled) return [`Key Slot ${i}: DISABLED`];
  return [
    `Key Slot ${i}: ENABLED`,
    `\tIterations:         \t${slot.iterations}`,
    `\tSalt:               \t${hexLines(slot.salt, '\t                      \t')}`,
    `\tKey material offset:\t${slot.keyMaterialOffset}`,
    `\tAF stripes:            \t${slot.stripes}`,
  ];
}

export function describeLuks1(fields: Luks1Fields): Record<string, unknown> {
  const { cipherName, cipherMode, hashSpec, uuid, keyBytes, payloadOffset } = fields;
  return {
    version: 1,
    uuid,
    cipher: `${cipherName}-${cipherMode}`,
    hash: hashSpec,
    keyBits: keyBytes * 8,
    payloadOffsetSectors: payloadOffset,
    digest: { salt: base64(fields.mkDigestSalt), iterations: fields.mkDigestIterations },
    keySlots: fields.slots.flatMap(({ isEnabled, iterations, keyMaterialOffset, stripes }, slot) =>
      isEnabled ? [{ slot, iterations, keyMaterialOffsetSectors: keyMaterialOffset, stripes }] : [],
    ),
  };
}

function base64(data: Uint8Array): string {
  return Buffer.from(data).toString('base64');
}
