// Every verb of `lamina luks` beside cryptsetup, for LUKS1 and LUKS2, with the header on the device and on one of its
// own. Of each verb there are two images with the same keys: one that cryptsetup made and lamina changes, one that
// lamina made and cryptsetup changes. Both programs must then read both, find the same in them, and open them by
// the same passphrases in the same slots.

import assert from 'node:assert/strict';
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import type { Command } from 'commander';
import { makeProgram } from '../../src/cli/program.ts';
import { LuksDesk, without } from '../../src/testing/luks-desk.ts';

const MIB = 1024 * 1024;
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const UUID = ['--uuid', '12345678-9abc-4def-8123-456789abcdef'];
/** Others cannot become LUKS1. */
const SECTORS = ['--sector-size', '512'];
const CIPHER = ['-c', 'aes-xts-plain64', '-s', '256', ...UUID];
const KEYS = ['one', 'two', 'three'] as const;
/** Behind all headers. */
const DATA_BYTES = 64 * 1024;

type Key = (typeof KEYS)[number];
type Args = readonly string[];
type Who = 'lamina' | 'cryptsetup';

interface Form {
  readonly type: 'luks1' | 'luks2';
  readonly isDetached: boolean;
}

/** A volume: the device, what says where its header is, and the file that has the header. */
interface Image {
  readonly form: Form;
  readonly device: string;
  readonly at: Args;
  readonly header: string;
}

interface Verb {
  /** What is done first, by the program that made the image. */
  readonly first?: (image: Image) => Record<Who, Args>;
  /** The verb itself, as each program has it. */
  readonly args: (image: Image) => Record<Who, Args>;
  /** What opens then; those of a new image if not given. */
  readonly opens?: readonly Key[];
  /** LUKS1 has no such thing: both refuse, and nothing is written. */
  readonly isLuks2Only?: true;
  /** What both print must be the same. */
  readonly isSamePrint?: true;
  /** There is no image yet. */
  readonly isFirst?: true;
  /** Key areas may lie at other places. */
  readonly isMoving?: true;
}

let d: LuksDesk;

function key(name: Key): string {
  return d.at(name);
}

function formatArgs({ form: { type }, device, at }: Image): Record<Who, Args> {
  const cost = type === 'luks1' ? COST.slice(2) : COST;
  const sizes = (prefix: string): Args =>
    type === 'luks1'
      ? []
      : [`--${prefix}metadata-size`, '16k', `--${prefix}keyslots-size`, '1536k', ...SECTORS];
  const same = ['-q', '--type', type, ...CIPHER, ...cost, '--volume-key-file', d.at('vk'), ...at];
  return {
    lamina: ['format', ...same, ...sizes(''), device, '--key-file', key('one')],
    cryptsetup: ['luksFormat', ...same, ...sizes('luks2-'), device, key('one')],
  };
}

function addArgs({ device, at, form }: Image, from: Key, to: Key): Record<Who, Args> {
  const same = [...(form.type === 'luks1' ? COST.slice(2) : COST), ...at, '--key-file', key(from)];
  return {
    lamina: ['add-key', ...same, device, '--new-key-file', key(to)],
    cryptsetup: ['luksAddKey', '-q', ...same, device, key(to)],
  };
}

function changeArgs({ device, at, form }: Image, from: Key, to: Key): Record<Who, Args> {
  const same = [...(form.type === 'luks1' ? COST.slice(2) : COST), ...at, '--key-file', key(from)];
  return {
    lamina: ['change-key', ...same, device, '--new-key-file', key(to)],
    cryptsetup: ['luksChangeKey', '-q', ...same, device, key(to)],
  };
}

/** A verb whose arguments are the same for both. */
function sameArgs(words: Args, { device, at }: Image): Record<Who, Args> {
  const args = [...words, ...at, device];
  return { lamina: args, cryptsetup: args };
}

const TOKEN = '{"type":"mine","keyslots":["1"],"deep":{"x":[1.50,18446744073709551615]}}';

function importArgs(image: Image): Record<Who, Args> {
  return sameArgs(['token', 'import', '--token-id', '4', '--json-file', d.at('token')], image);
}

function backupOf(image: Image): string {
  return `${image.device}.bak`;
}

/** By its words: here, in luks-data.test.ts with the daemon, or below with the verbs that only look. */
const VERBS: Readonly<Record<string, Verb | 'daemon' | 'below'>> = {
  format: { isFirst: true, args: formatArgs, opens: ['one'] },
  open: 'daemon',
  close: 'daemon',
  resize: 'daemon',
  'test-passphrase': 'below',
  dump: 'below',
  'header-backup': 'below',
  'token list': 'below',
  'add-key': { args: (i) => addArgs(i, 'one', 'three'), opens: ['one', 'two', 'three'] },
  'change-key': { args: (i) => changeArgs(i, 'two', 'three'), opens: ['one', 'three'] },
  'remove-key': {
    args: ({ device, at }) => ({
      lamina: ['remove-key', ...at, device, '--key-file', key('two')],
      cryptsetup: ['luksRemoveKey', '-q', ...at, device, key('two')],
    }),
    opens: ['one'],
  },
  'kill-slot': {
    args: ({ device, at }) => ({
      lamina: ['kill-slot', ...at, device, '0', '--key-file', key('two')],
      cryptsetup: ['luksKillSlot', ...at, device, '0', '--key-file', key('two')],
    }),
    opens: ['two'],
  },
  'header-restore': {
    first: (i) => changeArgs(i, 'two', 'three'),
    args: (i) => ({
      lamina: ['header-restore', '-q', ...i.at, i.device, backupOf(i)],
      cryptsetup: [
        'luksHeaderRestore',
        '-q',
        ...i.at,
        i.device,
        '--header-backup-file',
        backupOf(i),
      ],
    }),
    opens: ['one', 'two'],
  },
  convert: {
    isMoving: true,
    args: (i) => {
      const type = i.form.type === 'luks1' ? 'luks2' : 'luks1';
      return sameArgs(['convert', '-q', '--type', type], i);
    },
  },
  config: {
    isLuks2Only: true,
    first: (i) => sameArgs(['config', '--label', 'a label', '--subsystem', 'sub'], i),
    args: (i) => sameArgs(['config', '--priority', 'prefer', '-S', '1'], i),
  },
  'token add': {
    isLuks2Only: true,
    args: (i) => sameArgs(['token', 'add', '--key-description', 'some:key', '-S', '1'], i),
  },
  'token import': { isLuks2Only: true, args: importArgs },
  'token export': {
    isLuks2Only: true,
    isSamePrint: true,
    first: importArgs,
    args: (i) => sameArgs(['token', 'export', '--token-id', '4'], i),
  },
  'token remove': {
    isLuks2Only: true,
    first: importArgs,
    args: (i) => sameArgs(['token', 'remove', '--token-id', '4'], i),
  },
  'token unassign': {
    isLuks2Only: true,
    first: importArgs,
    args: (i) => sameArgs(['token', 'unassign', '--token-id', '4', '-S', '1'], i),
  },
};

const FORMS: readonly Form[] = (['luks1', 'luks2'] as const).flatMap((type) =>
  [false, true].map((isDetached) => ({ type, isDetached })),
);

function run(who: Who, args: Args): ReturnType<LuksDesk['run']> {
  return who === 'lamina' ? d.runLamina(args) : d.run('cryptsetup', args);
}

function good(who: Who, args: Record<Who, Args>): string {
  const { status, stdout, stderr } = run(who, args[who]);
  assert.equal(status, 0, `${who} ${args[who].join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

/** An empty place for a volume, with a mark where its data is. */
function empty(name: string, form: Form): Image {
  const device = d.fresh(name, 3 * MIB);
  const bytes = readFileSync(device);
  bytes.fill('data', bytes.length - DATA_BYTES);
  writeFileSync(device, bytes);
  const header = form.isDetached ? `${device}.hdr` : device;
  // LUKS1 becomes LUKS2 only where there is room.
  if (form.isDetached) d.fresh(`${name}.hdr`, 2 * MIB);
  return { form, device, header, at: form.isDetached ? ['--header', header] : [] };
}

/** An image with the passphrases `one` and `two`, and a backup of it. Each is made once, and copied. */
function madeBy(who: Who, name: string, form: Form): Image {
  const made = `${who}-${form.type}-${form.isDetached ? 'detached' : 'attached'}`;
  if (!existsSync(d.at(made))) {
    const image = empty(made, form);
    good(who, formatArgs(image));
    good(who, addArgs(image, 'one', 'two'));
    backup(who, image, backupOf(image));
  }
  for (const suffix of form.isDetached ? ['', '.hdr', '.bak'] : ['', '.bak']) {
    rmSync(d.at(`${name}${suffix}`), { force: true });
    copyFileSync(d.at(`${made}${suffix}`), d.at(`${name}${suffix}`));
  }
  const header = form.isDetached ? `${d.at(name)}.hdr` : d.at(name);
  return { form, device: d.at(name), header, at: form.isDetached ? ['--header', header] : [] };
}

function backup(who: Who, { device, at }: Image, to: string): void {
  good(who, {
    lamina: ['header-backup', ...at, device, to],
    cryptsetup: ['luksHeaderBackup', ...at, device, '--header-backup-file', to],
  });
}

/** Both say of each passphrase that it opens, and which slot, or that it opens none. */
function opens({ device, at }: Image): string {
  return KEYS.map((name) => {
    const rest = [...at, device, '--key-file', key(name)];
    const theirs = run('cryptsetup', ['open', '--test-passphrase', '-v', ...rest]);
    const ours = run('lamina', ['test-passphrase', ...rest]);
    const found = /Key slot (\d+) unlocked/.exec(theirs.stdout)?.[1];
    const said = `${name}: ${theirs.stdout}${theirs.stderr}${ours.stderr}`;
    assert.equal(/key slot (\d+) opens/.exec(ours.stdout)?.[1], found, said);
    if (found !== undefined) return `${name} opens ${found}`;
    // What is wrong is wrong for both: cryptsetup says so with 2, lamina with 3.
    assert.deepEqual([theirs.status, ours.status], [2, 3], said);
    return '';
  })
    .filter((text) => text !== '')
    .join(', ');
}

/** The dump of either program, which is the same. */
function dump({ device, at }: Image): string {
  const text = d.cryptsetup('luksDump', ...at, device);
  assert.equal(d.lamina('dump', ...at, device), text);
  return text;
}

/** What is not random and not the file's name. */
function skeleton(text: string): string {
  return text
    .replaceAll(/^LUKS header information for .*\n/gm, '')
    .replaceAll(/([0-9a-f]{2} ){4,}\n?/g, '')
    .replaceAll(/^Epoch:.*\n/gm, '')
    .replaceAll(/[\t ]+/g, ' ');
}

function volumeKey(image: Image): string {
  const rest = [
    ...image.at,
    image.device,
    '--key-file',
    key(image.form.isDetached ? 'two' : 'one'),
  ];
  const theirs = d.cryptsetup('luksDump', '-q', '--dump-volume-key', ...rest);
  const hex = (/MK dump:([\s0-9a-f]+)/.exec(theirs)?.[1] ?? '').replaceAll(/\s/g, '');
  assert.match(d.lamina('dump', '--volume-key', ...rest), new RegExp(`^Volume key: ${hex}$`, 'm'));
  return hex;
}

function isDataThere({ device }: Image): void {
  const tail = readFileSync(device).subarray(-DATA_BYTES);
  assert.ok(tail.equals(Buffer.alloc(DATA_BYTES, 'data')), 'the data stays');
}

function isRefusedByBoth(verb: Verb, image: Image): void {
  const bytes = readFileSync(image.header);
  for (const who of ['lamina', 'cryptsetup'] as const) {
    const { status, stderr } = run(who, verb.args(image)[who]);
    assert.equal(status, 1, `${who}: ${stderr}`);
    assert.doesNotMatch(stderr, /\n +at /);
  }
  assert.ok(readFileSync(image.header).equals(bytes));
}

function check(verb: Verb, form: Form): void {
  const found = (['lamina', 'cryptsetup'] as const).map((who) => {
    const maker = who === 'lamina' ? 'cryptsetup' : 'lamina';
    const image = verb.isFirst === true ? empty(who, form) : madeBy(maker, who, form);
    if (verb.first !== undefined) good(maker, verb.first(image));
    const printed = good(who, verb.args(image));
    const opened = opens(image);
    const names = [...opened.matchAll(/(\w+) opens/g)].map(([, name]) => name);
    assert.deepEqual(names, verb.opens ?? ['one', 'two'], `changed by ${who}`);
    isDataThere(image);
    const text = skeleton(dump(image));
    const places = /^ ?(?:Area offset|Keyslots area|Key material offset):.*\n/gm;
    const same = verb.isMoving === true ? text.replaceAll(places, '') : text;
    return [opened, same, verb.isSamePrint === true ? printed : ''];
  });
  assert.deepEqual(found[0], found[1]);
}

/** All that have none below them, by their words. */
function leaves(command: Command, path: Args = []): string[] {
  if (command.commands.length === 0) return [path.join(' ')];
  return command.commands.flatMap((child) => leaves(child, [...path, child.name()]));
}

describe('every verb of luks beside cryptsetup', { skip: without('cryptsetup') }, () => {
  before(() => {
    d = new LuksDesk({ one: 'one', two: 'two', three: 'three', vk: 'k'.repeat(32), token: TOKEN });
  });
  after(() => d[Symbol.dispose]());

  it('no verb is missing here', async () => {
    const luks = (await makeProgram()).commands.find((command) => command.name() === 'luks');
    assert.ok(luks !== undefined);
    assert.deepEqual(leaves(luks).toSorted(), Object.keys(VERBS).toSorted());
  });

  for (const form of FORMS) {
    const name = `${form.type}, ${form.isDetached ? 'detached' : 'attached'}`;
    it(`${name}: what either does, both read`, () => {
      for (const [words, verb] of Object.entries(VERBS)) {
        if (typeof verb === 'string') continue;
        try {
          if (verb.isLuks2Only === true && form.type === 'luks1') {
            isRefusedByBoth(verb, madeBy('cryptsetup', 'refused', form));
          } else check(verb, form);
        } catch (error) {
          throw new Error(`${words}: ${(error as Error).message}`, { cause: error });
        }
      }
    });

    it(`${name}: what only looks finds the same in what either made`, () => {
      const found = (['lamina', 'cryptsetup'] as const).map((who) => {
        const image = madeBy(who, who, form);
        const bytes = readFileSync(image.header);
        const copies = (['lamina', 'cryptsetup'] as const).map((by) => {
          const to = `${image.device}.${by}.bak`;
          rmSync(to, { force: true });
          backup(by, image, to);
          return readFileSync(to);
        });
        assert.ok(copies[0]?.equals(copies[1] as Buffer), 'backups are the same bytes');
        if (form.type === 'luks2') {
          const words = ['token', 'list', ...image.at, image.device];
          assert.equal(d.lamina(...words), '');
          good(who, importArgs(image));
          assert.equal(d.lamina(...words), '4: mine 1\n');
          assert.match(d.cryptsetup('luksDump', ...image.at, image.device), / {2}4: mine\n.*1$/m);
        } else {
          assert.equal(d.runLamina(['token', 'list', ...image.at, image.device]).status, 1);
          assert.ok(readFileSync(image.header).equals(bytes), 'nothing is written');
        }
        return [opens(image), skeleton(dump(image)), volumeKey(image)];
      });
      assert.deepEqual(found[0], found[1]);
    });
  }
});
