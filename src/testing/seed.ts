// What tests draw follows from one number, which they print: LAMINA_SEED, or the time. tools/run-tests sets
// it to one of the commit's.

/** From 1 on; there is room for many seeds behind it. */
export const SEED = Number(process.env['LAMINA_SEED'] || (Date.now() & 0x3fffffff) + 1);
