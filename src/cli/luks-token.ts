// lamina luks token: the tokens of a LUKS2 header.

import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import {
  addKeyringToken,
  exportToken,
  importToken,
  type ListedToken,
  listTokens,
  removeToken,
  unassignToken,
} from '../tools/luks/luks2-tokens.ts';
import { printable } from '../tools/luks/luks-error.ts';
import { Luks2Volume } from '../tools/luks/luks2-volume.ts';
import { WrongCall } from './errors.ts';
import { withVolume } from './luks-file.ts';
import { type HeaderFlags, withHeader, withKeySlot } from './luks-options.ts';
import { notNegative } from './option-values.ts';
import { print, printDone, printJson } from './output.ts';
import { readText } from './read-text.ts';

interface TokenFlags extends HeaderFlags {
  readonly tokenId?: number;
  readonly keySlot?: number;
  readonly jsonFile?: string;
  readonly keyDescription?: string;
  readonly tokenReplace?: true;
  readonly unbound?: true;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  truncate -s 64M disk.img
  head -c 32 /dev/urandom >disk.key
  lamina luks format disk.img --key-file disk.key --batch-mode --pbkdf pbkdf2 --iter-time 10
  lamina luks token add disk.img --key-description backup:disk
  echo '{"type":"mine","keyslots":["0"],"note":"by the door"}' | lamina luks token import disk.img
  lamina luks token list disk.img
  lamina luks token export disk.img --token-id 1`;

export function addLuksToken(luks: Command): void {
  const token = luks
    .command('token')
    .summary('list, add, import, export and remove tokens of a LUKS2 header')
    .description(
      'Tokens say where the passphrase of a key slot comes from, or whose a slot is. Those of\n' +
        "cryptsetup's own type, luks2-keyring, name a key in the kernel's keyring: open and\n" +
        'test-passphrase use it. Tokens of other programs are kept as they are.',
    )
    .addHelpText('after', EXAMPLES);
  addList(token);
  addAdd(token);
  addImport(token);
  addExport(token);
  addRemove(token);
}

function command(token: Command, name: string, about: string): Command {
  return withHeader(
    token
      .command(name)
      .description(about)
      .argument('<image>', 'the volume, or its header: a file, a device or an NBD URI'),
  );
}

async function withTokens(
  image: string,
  flags: TokenFlags,
  options: { readonly isReadOnly: boolean },
  use: (volume: Luks2Volume) => Promise<void> | void,
): Promise<void> {
  await withVolume(image, flags, options, async (volume) => {
    if (!(volume instanceof Luks2Volume)) throw invalid(`${image}: LUKS1 has no tokens`);
    await use(volume);
  });
}

function addList(token: Command): void {
  command(token, 'list', 'list the tokens: number, type, key slots, key description')
    .option('--json', 'as JSON')
    .action(async (image: string, flags: TokenFlags) => {
      await withTokens(image, flags, { isReadOnly: true }, (volume) => {
        const tokens = listTokens(volume);
        if (flags.json === true) printJson(tokens);
        else print(tokens.map(lineOf).join(''));
      });
    });
}

function lineOf({ id, type, keySlots, keyDescription }: ListedToken): string {
  const slots = keySlots.length === 0 ? '-' : keySlots.join(',');
  const more = keyDescription === undefined ? '' : ` ${keyDescription}`;
  return `${printable(`${id}: ${type} ${slots}${more}`).replaceAll(/[\t\n]/g, '?')}\n`;
}

function addAdd(token: Command): void {
  const add = command(token, 'add', "add a token that names a key in the kernel's keyring")
    .requiredOption('--key-description <text>', 'of the key whose payload is the passphrase')
    .option('--token-id <n>', 'put the token there (the first free number)', notNegative)
    .option('--token-replace', 'even if there is a token')
    .option('--unbound', 'for no key slot');
  withKeySlot(add, 'for this key slot (all that are in use)').action(
    async (image: string, flags: TokenFlags) => {
      const { keyDescription = '', keySlot, unbound } = flags;
      if (unbound === true && keySlot !== undefined) {
        throw new WrongCall('--unbound and --key-slot: give one of them');
      }
      const one = keySlot === undefined ? undefined : [keySlot];
      const slots = unbound === true ? [] : one;
      await withTokens(image, flags, { isReadOnly: false }, async (volume) => {
        const place = { id: flags.tokenId, isReplacing: flags.tokenReplace === true };
        const id = await addKeyringToken(volume, { keyDescription, slots }, place);
        printDone(flags, { tokenId: id }, `token ${id} added`);
      });
    },
  );
}

function addImport(token: Command): void {
  const import_ = command(token, 'import', 'add a token that is given as JSON')
    .option('--json-file <file>', "read it from a file; '-' is stdin, as without this option")
    .option('--token-id <n>', 'put the token there (the first free number)', notNegative)
    .option('--token-replace', 'even if there is a token');
  withKeySlot(import_, 'also for this key slot').action(
    async (image: string, flags: TokenFlags) => {
      const text = readText(flags.jsonFile ?? '-', 'the token');
      await withTokens(image, flags, { isReadOnly: false }, async (volume) => {
        const place = { id: flags.tokenId, isReplacing: flags.tokenReplace === true };
        const from = flags.jsonFile === '-' ? undefined : flags.jsonFile;
        const id = await importToken(volume, text, { ...place, slot: flags.keySlot, from });
        printDone(flags, { tokenId: id }, `token ${id} imported`);
      });
    },
  );
}

function addExport(token: Command): void {
  command(token, 'export', 'print a token as JSON, without blanks')
    .requiredOption('--token-id <n>', 'which one', notNegative)
    .option('--json-file <file>', "write it to a file; '-' is stdout")
    .action(async (image: string, flags: TokenFlags) => {
      await withTokens(image, flags, { isReadOnly: true }, (volume) => {
        const text = exportToken(volume, flags.tokenId ?? 0);
        const { jsonFile: path = '-' } = flags;
        if (path === '-') print(text);
        else {
          writeToken(path, text);
          printDone(flags, { tokenId: flags.tokenId, file: path });
        }
      });
    });
}

/** Readable for its owner only: a token may hold a secret under another one. */
function writeToken(path: string, text: string): void {
  try {
    writeFileSync(path, text, { mode: 0o600 });
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot write: ${errorText(error)}`);
  }
}

function addRemove(token: Command): void {
  command(token, 'remove', 'remove a token of any type; key slots stay')
    .requiredOption('--token-id <n>', 'which one', notNegative)
    .action(async (image: string, { tokenId = 0, ...flags }: TokenFlags) => {
      await withTokens(image, flags, { isReadOnly: false }, async (volume) => {
        await removeToken(volume, tokenId);
        printDone(flags, { tokenId }, `token ${tokenId} removed`);
      });
    });
  command(token, 'unassign', 'take a key slot from a token')
    .requiredOption('--token-id <n>', 'which one', notNegative)
    .requiredOption('-S, --key-slot <n>', 'which key slot', notNegative)
    .action(async (image: string, { tokenId = 0, keySlot = 0, ...flags }: TokenFlags) => {
      await withTokens(image, flags, { isReadOnly: false }, async (volume) => {
        await unassignToken(volume, tokenId, keySlot);
        const text = `token ${tokenId} is no longer that of key slot ${keySlot}`;
        printDone(flags, { tokenId, keySlot }, text);
      });
    });
}
