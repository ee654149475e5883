// JSON as cryptsetup's library (json-c) reads it, in strict JSON: names and texts in single quotes, control characters
// in them, comments, a comma behind the last item, words in capitals, numbers with zeros in front or with nothing
// behind their point. Other programs have written such headers, and cryptsetup opens them.
//
// NaN and Infinity are numbers there and can be none here.

/** One piece of the text: a comment, a text, a number or a word with all that adheres to it, else a character. */
const PIECES =
  /\/\*[^]*?(?:\*\/|$)|\/\/[^\n]*|"(?:[^"\\]|\\[^])*"|'(?:[^'\\]|\\[^])*'|-?\.?\w[\w.+-]*|[^]/g;
const NUMBER = /^(-?)0*(\d*)(\.\d*)?([eE][+-]?\d*)?$/;
const WORDS: ReadonlySet<string> = new Set(['true', 'false', 'null']);

/** The same in strict JSON, as far as it is of this dialect; JSON.parse refuses what is not. */
export function strictJson(text: string): string {
  if (isStrict(text)) return text;
  const pieces: string[] = [];
  /** Where the last comma is, as long as only an end may make it too many. */
  let comma: number | undefined;
  let last = '';
  for (const [piece] of text.matchAll(PIECES)) {
    if (/^(?:\s|\/[/*])/.test(piece)) {
      // JSON.parse knows which white space there is.
      pieces.push(piece.startsWith('/') ? ' ' : piece);
      continue;
    }
    if ((piece === ']' || piece === '}') && comma !== undefined) pieces[comma] = '';
    comma = piece === ',' && last !== '' && !'[{,:'.includes(last) ? pieces.length : undefined;
    last = piece;
    pieces.push(strictPiece(piece));
  }
  return pieces.join('');
}

function isStrict(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function strictPiece(piece: string): string {
  const first = piece.charAt(0);
  if (piece.length > 1 && (first === '"' || first === "'")) return strictText(piece);
  const word = piece.toLowerCase();
  return WORDS.has(word) ? word : (strictNumber(piece) ?? piece);
}

function strictText(piece: string): string {
  const inner = piece.slice(1, -1).replaceAll(/\\[^]|"|\p{Cc}/gu, (char) => {
    if (char.startsWith('\\')) return char;
    return JSON.stringify(char).slice(1, -1);
  });
  return `"${inner}"`;
}

/** Undefined: no number there either, such as one that begins with its point. */
function strictNumber(piece: string): string | undefined {
  const match = /^\.|^-?\.?(?:e|$)/i.test(piece) ? null : NUMBER.exec(piece);
  if (match === null) return undefined;
  const [, sign = '', digits = '', fraction = '', exponent = ''] = match;
  const whole = digits === '' ? '0' : digits;
  const isFloat = fraction !== '' || exponent !== '';
  const part = fraction.length < 2 && isFloat ? '.0' : fraction;
  return `${sign}${whole}${part}${/\d/.test(exponent) ? exponent : ''}`;
}
