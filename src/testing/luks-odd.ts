// Odd and damaged headers of LUKS1 and LUKS2 behind right checksums: whatever a field can be instead of what it is.
// Most of them are no headers any more; some still are, and both must be told from each other.

import type { Prng } from '../base/prng.ts';
import { setMetadata } from './luks-disk.ts';

type Json = Record<string, unknown>;

const HEADER_BYTES = 16 * 1024;
/** Values as JSON text, so that all spellings of numbers are among them. */
const VALUES = [
  '0|-1|1|-0|1.0|1e3|7|31|32|512|513|4000|4096|2147483648|4294967295|4294967296|9007199254740993',
  '9223372036854775808|18446744073709551615|18446744073709551616|1e308|null|true|[]|{}',
  '""|"0"|"1"|"007"|"+1"|" 1"|"-1"|"512"|"4096"|"32768"|"9007199254740993"|"dynamic"',
  '"18446744073709551104"|"18446744073709551616"|"luks2"|"reencrypt"|"pbkdf2"|"argon2id"',
  '"argon2"|"crypt"|"linear"|"luks2-keyring"|"raw"|"sha256"|"whirlpool"|"serpent-xts-plain64"',
  '"AAA"|"AA=="|"AB=="|"A A="|["0"]|["1"]|["9"]|["0","0"]|[0]|{"type":"x"}|["backup-final"]',
  '["in-reencryption"]|["online-reencrypt-v2"]|["unheard-of"]',
].flatMap((line) => line.split('|'));
const SIZES = [0, 1, 511, 512, 4096, 16_384, 32_768, 36_864, 128_000, 131_072, 262_144, 524_288];

/** JSON text that stands for itself among values. */
class Raw {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** A part of the JSON: an object or an array with something in it, and where it is. */
function parts(json: unknown, found: Json[] = []): Json[] {
  if (typeof json !== 'object' || json === null || json instanceof Raw) return found;
  if (Object.keys(json).length > 0) found.push(json as Json);
  for (const value of Object.values(json)) parts(value, found);
  return found;
}

function write(value: unknown, space: () => string): string {
  if (value instanceof Raw) return value.text;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  const items = Object.entries(value).map(([key, item]) => {
    const text = write(item, space);
    return Array.isArray(value) ? text : `${JSON.stringify(key)}${space()}:${space()}${text}`;
  });
  return `${open}${space()}${items.join(`${space()},${space()}`)}${space()}${close}`;
}

type Change = (json: Json, prng: Prng) => void;

function section(json: Json, name: string): Json {
  const value = json[name];
  return typeof value === 'object' && value !== null ? (value as Json) : {};
}

function anyOf(json: Json, name: string, prng: Prng): Json {
  const all = Object.values(section(json, name)).filter(
    (item) => typeof item === 'object' && item !== null && !(item instanceof Raw),
  );
  return all.length === 0 ? {} : (prng.pick(all) as Json);
}

const SECTIONS = ['keyslots', 'tokens', 'segments', 'digests'];
const IDS = ['0', '1', '2', '3', '7', '8', '31', '32', '99', '00', '01', '', 'x', '-1'];

const CHANGES: readonly Change[] = [
  (json, prng) => {
    const part = prng.pick(parts(json));
    part[prng.pick(Object.keys(part))] = new Raw(prng.pick(VALUES));
  },
  (json, prng) => {
    const part = prng.pick(parts(json));
    if (Array.isArray(part)) part.pop();
    else delete part[prng.pick(Object.keys(part))];
  },
  (json, prng) => {
    const part = prng.pick(parts(json));
    const key = prng.pick([
      'extra',
      'flags',
      'priority',
      'integrity',
      'requirements',
      'type',
      'hash',
    ]);
    if (!Array.isArray(part)) part[key] = new Raw(prng.pick(VALUES));
  },
  // A copy under another number, with what belongs to it or without.
  (json, prng) => {
    const name = prng.pick(SECTIONS);
    section(json, name)[prng.pick(IDS)] = structuredClone(anyOf(json, name, prng));
  },
  (json, prng) => {
    const area = anyOf(json, 'keyslots', prng)['area'];
    if (typeof area !== 'object' || area === null) return;
    (area as Json)[prng.pick(['offset', 'size'])] = String(prng.pick(SIZES) + 512 * prng.below(3));
  },
  (json, prng) => {
    const key = prng.pick(['json_size', 'keyslots_size']);
    section(json, 'config')[key] = prng.pick(['', '+', ' ', '-', '0']) + String(prng.pick(SIZES));
  },
  // Segments: several, apart or over each other, with flags.
  (json, prng) => {
    const segment = structuredClone(anyOf(json, 'segments', prng));
    segment['offset'] = String(524_288 + 4096 * prng.below(4));
    segment['size'] = prng.pick(['dynamic', '4096', '8192', '18446744073709551104']);
    segment['type'] = prng.pick(['crypt', 'linear', 'odd']);
    const flag = prng.pick(['', 'backup-final', 'backup-previous', 'backup-x', 'in-reencryption']);
    if (flag !== '') segment['flags'] = [flag];
    const id = String(prng.below(3));
    section(json, 'segments')[id] = segment;
    const { segments } = anyOf(json, 'digests', prng);
    if (Array.isArray(segments) && prng.chance(0.7)) segments.push(id);
  },
  (json, prng) => {
    const digest = anyOf(json, 'digests', prng);
    const list = digest[prng.pick(['keyslots', 'segments'])];
    if (Array.isArray(list)) list.push(prng.pick(IDS));
  },
  (json, prng) => {
    const mandatory = Array.from({ length: prng.between(0, 2) }, () =>
      prng.pick(['online-reencrypt', 'online-reencrypt-v2', 'online-reencrypt-v9', 'time-travel']),
    );
    section(json, 'config')['requirements'] = { mandatory };
  },
  (json, prng) => {
    const slot = anyOf(json, 'keyslots', prng);
    slot['type'] = prng.pick(['reencrypt', 'luks2', 'other']);
    Object.assign(slot, {
      key_size: prng.pick([1, 64]),
      mode: prng.pick(['reencrypt', 'encrypt', 'decrypt', 'sideways']),
      direction: prng.pick(['forward', 'backward', 'up']),
    });
    const { area } = slot;
    if (typeof area !== 'object' || area === null) return;
    Object.assign(area, {
      type: prng.pick(['raw', 'none', 'journal', 'checksum', 'datashift', 'datashift-checksum']),
      hash: 'sha256',
      sector_size: prng.pick([512, 500, 4096]),
      shift_size: prng.pick(['4096', '0', '100']),
    });
  },
  (json, prng) => {
    const kdf = anyOf(json, 'keyslots', prng)['kdf'];
    if (typeof kdf !== 'object' || kdf === null) return;
    (kdf as Json)['type'] = prng.pick(['pbkdf2', 'argon2i', 'argon2id', 'argon2', 'scrypt']);
    if (prng.chance(0.7)) Object.assign(kdf, { time: 4, memory: 64, cpus: 1 });
  },
  (json, prng) => {
    let deep: unknown = 1;
    for (let i = prng.between(24, 36); i > 0; i--) deep = prng.chance(0.5) ? [deep] : { x: deep };
    json['deep'] = deep;
  },
];

/** Changes the metadata of both copies of a LUKS2 header of 16 KiB each. */
export function oddLuks2(image: Uint8Array, prng: Prng): void {
  const area = image.subarray(4096, HEADER_BYTES);
  const json = JSON.parse(Buffer.from(area.subarray(0, area.indexOf(0))).toString()) as Json;
  for (let i = prng.pick([0, 1, 1, 1, 2, 3]); i > 0; i--) prng.pick(CHANGES)(json, prng);
  const isSpaced = prng.chance(0.2);
  let text = write(json, () => (isSpaced && prng.chance(0.3) ? prng.pick([' ', '\n', '\t']) : ''));
  if (prng.chance(0.05)) text = prng.pick([` ${text}`, `${text} `, `${text}\n`, `x${text}`]);
  if (prng.chance(0.03)) text = `${text}\0{}`;
  setMetadata(image, text, HEADER_BYTES);
}

const LUKS1_SLOTS_AT = 208;
const LUKS1_SLOT_BYTES = 48;

/** Changes fields of a LUKS1 header; its hash stays. */
export function oddLuks1(image: Uint8Array, prng: Prng): void {
  const view = new DataView(image.buffer, image.byteOffset, image.length);
  for (let i = prng.pick([0, 1, 1, 2]); i > 0; i--) {
    const slot = LUKS1_SLOTS_AT + prng.below(8) * LUKS1_SLOT_BYTES;
    switch (prng.below(4)) {
      case 0: {
        // State, iterations, place, stripes.
        const at = slot + prng.pick([0, 4, 40, 40, 44]);
        view.setUint32(at, prng.pick([0, 1, 2, 8, 264, 520, 4000, 0xdead, 0xac71f3, 0xffff]));
        break;
      }
      case 1: {
        const at = slot + 40;
        view.setUint32(at, view.getUint32(at) + prng.pick([-8, -1, 1, 8, 256, 4096]));
        break;
      }
      case 2:
        // Payload, size of the key, iterations of the digest.
        view.setUint32(
          prng.pick([104, 108, 164]),
          prng.pick([0, 1, 16, 32, 64, 128, 256, 1024, 2048, 4096]),
        );
        break;
      default: {
        // Text, also one that fills its field, and salts.
        const at = prng.pick([8, 40, 168]);
        const length = at === 168 ? 40 : 32;
        for (let n = prng.pick([0, 1, 5, length]); n > 0; n--) {
          image[at + n - 1] = 97 + prng.below(26);
        }
        if (prng.chance(0.3)) image[at] = 0;
      }
    }
  }
}
