// Tokens of a LUKS2 volume: objects beside the key slots that say where a passphrase comes from, or whose a slot
// is. Most belong to other programs; their words are kept, and a token that is imported is kept in its own.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { strictJson } from './json-dialect.ts';
import {
  depthOf,
  type JsonMembers,
  type JsonText,
  membersOf,
  plainJsonText,
  readJsonText,
  writeJsonText,
} from './json-text.ts';
import { LUKS2_TOKENS } from './luks2.format.ts';
import { byNumber, freeNumber, type Luks2Metadata } from './luks2-metadata.ts';
import type { Luks2Volume } from './luks2-volume.ts';

/** The passphrase is in the kernel's keyring, under a description. */
export const KEYRING_TOKEN = 'luks2-keyring';
/** Tokens of this beginning are cryptsetup's own. */
const OWN_PREFIX = 'luks2-';
/** Arrays and objects within each other that cryptsetup reads, less those around a token. */
const DEPTH_MAX = 31 - 2;

export type Luks2Token = Luks2Metadata['tokens'][string];

export interface ListedToken {
  readonly id: number;
  readonly type: string;
  readonly keySlots: readonly number[];
  readonly keyDescription?: string;
}

/** Where a new token goes. */
export interface TokenPlace {
  /** The first free number if not given. */
  readonly id?: number | undefined;
  /** The token in its place may go. */
  readonly isReplacing?: boolean | undefined;
}

/** Where the passphrase of a keyring token is; undefined for any other, and for one that is no whole one. */
export function keyDescriptionOf(token: Luks2Token): string | undefined {
  const { type, key_description: description } = token;
  return type === KEYRING_TOKEN && typeof description === 'string' ? description : undefined;
}

export function listTokens({ metadata }: Luks2Volume): ListedToken[] {
  return byNumber(metadata.tokens).map(([id, token]) => {
    const keyDescription = keyDescriptionOf(token);
    return {
      id,
      type: token.type,
      keySlots: token.keyslots.map(Number),
      ...(keyDescription === undefined ? {} : { keyDescription }),
    };
  });
}

/** The JSON of a token, without blanks. Throws DmError if there is none. */
export function exportToken(volume: Luks2Volume, id: number): string {
  const token = tokenAt(volume, id);
  const words = membersOf(membersOf(volume.json)?.get('tokens')?.value)?.get(String(id));
  return writeJsonText(token, words?.value);
}

/**
 * Adds a keyring token for some key slots, for all that are in use if none is given. Answers its
 * number. Throws DmError.
 */
export async function addKeyringToken(
  volume: Luks2Volume,
  token: { readonly keyDescription: string; readonly slots?: readonly number[] | undefined },
  place: TokenPlace,
): Promise<number> {
  const { keyDescription, slots = volume.slots } = token;
  if (keyDescription === '') throw invalid('key description: is empty');
  const made: Luks2Token = {
    type: KEYRING_TOKEN,
    keyslots: slots.map(String),
    key_description: keyDescription,
  };
  return await putToken(volume, made, place);
}

/**
 * Adds a token of which nothing but type and key slots is known, for one key slot more if that is
 * given. Answers its number. `from`: the file that the text is of. Throws DmError when it could not
 * be read again.
 */
export async function importToken(
  volume: Luks2Volume,
  text: string,
  place: TokenPlace & { readonly slot?: number | undefined; readonly from?: string | undefined },
): Promise<number> {
  const strict = strictJson(text);
  const token = parseFrom(place.from, strict);
  const { slot } = place;
  if (slot !== undefined && !token.keyslots.includes(String(slot))) {
    token.keyslots.push(String(slot));
  }
  return await putToken(volume, token, place, plainJsonText(readJsonText(strict)));
}

export async function removeToken(volume: Luks2Volume, id: number): Promise<void> {
  tokenAt(volume, id);
  const metadata = structuredClone(volume.metadata);
  delete metadata.tokens[id];
  await volume.update(metadata);
}

/** Makes a token no longer that of a key slot. */
export async function unassignToken(volume: Luks2Volume, id: number, slot: number): Promise<void> {
  tokenAt(volume, id);
  checkSlot(volume, slot);
  const metadata = structuredClone(volume.metadata);
  const token = metadata.tokens[id];
  if (token?.keyslots.includes(String(slot)) !== true) {
    throw invalid(`${volume.io.path}: token ${id} is not assigned to key slot ${slot}`);
  }
  token.keyslots = token.keyslots.filter((other) => other !== String(slot));
  await volume.update(metadata);
}

async function putToken(
  volume: Luks2Volume,
  token: Luks2Token,
  place: TokenPlace,
  words?: JsonText,
): Promise<number> {
  const { path } = volume.io;
  const id = place.id ?? freeNumber(volume.metadata.tokens, LUKS2_TOKENS);
  if (id === undefined) throw new DmError(Status.NoSpace, `${path}: all tokens are in use`);
  checkId(volume, id);
  for (const slot of token.keyslots) checkSlot(volume, Number(slot));
  if (Object.hasOwn(volume.metadata.tokens, id) && place.isReplacing !== true) {
    throw new DmError(Status.Exists, `${path}: token ${id} is in use`);
  }
  const metadata = structuredClone(volume.metadata);
  metadata.tokens[id] = token;
  await volume.update(metadata, { json: withToken(volume.json, id, words) });
  return id;
}

/** The words of metadata, with those of a token; without `words` it has none. */
function withToken(json: JsonText, id: number, words: JsonText | undefined): JsonText {
  const all: JsonMembers = membersOf(json) ?? new Map();
  const tokens = new Map(membersOf(all.get('tokens')?.value));
  if (words === undefined) tokens.delete(String(id));
  else tokens.set(String(id), { key: `"${id}"`, value: words });
  return new Map(all).set('tokens', { key: '"tokens"', value: tokens });
}

/** As parseToken; what is wrong is told with the name of the file. */
function parseFrom(file: string | undefined, text: string): Luks2Token {
  try {
    return parseToken(text);
  } catch (error) {
    if (file === undefined || !(error instanceof DmError)) throw error;
    throw new DmError(error.status, `${file}: ${error.message}`);
  }
}

/** Throws DmError unless a header with this token would be a whole one to cryptsetup. */
function parseToken(text: string): Luks2Token {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw invalid('token: is no JSON');
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw invalid('token: expected a JSON object');
  }
  const token = json as Record<string, unknown>;
  const { type, keyslots } = token;
  if (typeof type !== 'string' || type === '') throw invalid('token: type: expected text');
  const isList = Array.isArray(keyslots) && keyslots.every((slot) => typeof slot === 'string');
  if (!isList) throw invalid('token: keyslots: expected an array of key slots, each as text');
  if (depthOf(text) > DEPTH_MAX) {
    throw invalid(`token: arrays and objects are nested deeper than ${DEPTH_MAX}`);
  }
  if (type.startsWith(OWN_PREFIX)) checkKeyring(token, type);
  return token as Luks2Token;
}

function checkKeyring(token: Readonly<Record<string, unknown>>, type: string): void {
  if (type !== KEYRING_TOKEN) {
    throw invalid(`token: type '${type}': of '${OWN_PREFIX}...' only ${KEYRING_TOKEN} is known`);
  }
  const names = Object.keys(token).sort().join(', ');
  if (names !== 'key_description, keyslots, type') {
    throw invalid(`token: has ${names}: expected key_description, keyslots, type`);
  }
  if (typeof token['key_description'] !== 'string') {
    throw invalid('token: key_description: expected text');
  }
}

function tokenAt(volume: Luks2Volume, id: number): Luks2Token {
  checkId(volume, id);
  const token = volume.metadata.tokens[id];
  if (token !== undefined) return token;
  throw new DmError(Status.NoEntry, `${volume.io.path}: token ${id} is not in use`);
}

function checkId({ io }: Luks2Volume, id: number): void {
  if (id < LUKS2_TOKENS) return;
  throw invalid(`${io.path}: token ${id}: LUKS2 has 0 to ${LUKS2_TOKENS - 1}`);
}

function checkSlot(volume: Luks2Volume, slot: number): void {
  if (volume.slots.includes(slot)) return;
  throw new DmError(Status.NoEntry, `${volume.io.path}: key slot ${slot} is not in use`);
}
