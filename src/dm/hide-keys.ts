// Errors show the line they are about, and a line may hold a key. A key is hidden by where it stands, because one
// with a wrong digit is no hexadecimal word any more; and whatever looks like a key is hidden wherever it stands,
// because a word that is missing before it shifts it.

/** The word in place of a key. */
const HIDDEN = '...';
/** `-` is no key; `:32:file:/path` and `:32:logon:name` name one. */
const IS_NO_KEY = /^(-|:[0-9]+:[a-z]+:.*)$/s;
const KEY_CHARS_MIN = 16;

/** Text for an error message: a table line, several, a concise spec or the text of a message. */
export function hideKeys(text: string): string {
  let before = '';
  let beforeThat = '';
  return text.replaceAll(/[^\s,;]+/g, (word) => {
    const isKeyPlace =
      beforeThat.toLowerCase() === 'crypt' ||
      (beforeThat.toLowerCase() === 'key' && before.toLowerCase() === 'set');
    beforeThat = before;
    before = word;
    return (isKeyPlace && !IS_NO_KEY.test(word)) || looksLikeKey(word) ? HIDDEN : word;
  });
}

/** An error's text without the keys of the line that it is about: it may quote any word of it. */
export function hideKeysOf(type: string, args: readonly string[], text: string): string {
  let hidden = text;
  for (const [i, word] of args.entries()) {
    const isKeyPlace = type === 'crypt' && i === 1 && !IS_NO_KEY.test(word);
    // A digit alone, where a key should be, is no secret, and would make nonsense of every number.
    const isKey = isKeyPlace ? word.length > 4 : looksLikeKey(word);
    if (isKey) hidden = hidden.replaceAll(word, HIDDEN);
  }
  return hidden;
}

/** Long, of letters and digits only, and most of them hexadecimal. */
function looksLikeKey(word: string): boolean {
  const bare = word.replaceAll(/^['"(]+|['")]+$/g, '');
  if (bare.length < KEY_CHARS_MIN || !/^[0-9A-Za-z]+$/.test(bare) || /^[0-9]{1,19}$/.test(bare)) {
    return false;
  }
  return bare.replaceAll(/[^0-9a-fA-F]/g, '').length >= bare.length * 0.75;
}
