// Pieces of `cryptsetup luksDump`'s text.

/** Bytes in hex, sixteen a line; further lines begin with `indent`. */
export function hexLines(data: Uint8Array, indent: string, perLine = 16): string {
  let text = '';
  for (const [i, byte] of data.entries()) {
    if (i > 0 && i % perLine === 0) text += `\n${indent}`;
    text += `${byte.toString(16).padStart(2, '0')} `;
  }
  return text;
}
