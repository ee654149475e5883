// Names that come from outside, on their way in and on their way to a terminal or a log.
//
// A control character in a name can rewrite what a terminal shows, or make one line of a log look like
// two. So none gets into a name, and whatever is printed that a client or a file may have chosen goes
// through `printable`.

const CONTROL = /[\p{Cc}\u2028\u2029]/u;
/** Beside control characters: what turns the direction of text around. */
const UNPRINTABLE = /[\p{Cc}\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu;

/** Whether `text` has a character that no name may have. */
export function hasControl(text: string): boolean {
  return CONTROL.test(text);
}

/** What is wrong with the characters of a name, to stand behind "name 'x': "; undefined: nothing. */
export function nameFault(name: string): string | undefined {
  const found = CONTROL.exec(name)?.[0];
  if (found !== undefined) {
    return `has the control character ${escapeChar(found)} at ${name.indexOf(found)}`;
  }
  return name === name.trim() ? undefined : 'begins or ends with a blank';
}

/** `text` with every character escaped that a terminal or a log would not show as itself. */
export function printable(text: string): string {
  return text.replaceAll(UNPRINTABLE, escapeChar);
}

function escapeChar(char: string): string {
  if (char === '\n') return String.raw`\n`;
  if (char === '\r') return String.raw`\r`;
  if (char === '\t') return String.raw`\t`;
  const code = char.charCodeAt(0);
  const hex = code.toString(16);
  return code < 0x100 ? `\\x${hex.padStart(2, '0')}` : `\\u${hex.padStart(4, '0')}`;
}
