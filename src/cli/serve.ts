// lamina serve: a stack in the foreground, served over NBD until a signal ends it.

import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { baseFolder, socketIn } from '../daemon/paths.ts';
import type { Plane } from '../daemon/plane.ts';
import { buildStack, parseExports, type Stack, type StackExport } from '../daemon/stack.ts';
import type { LoadedStack } from '../daemon/stack-file.ts';
import { parseConcise } from '../dm/table-text.ts';
import {
  type ListenAddress,
  parseTcpAddress,
  parseUnixAddress,
} from '../frontends/nbd/listen-address.ts';
import type { NbdListener } from '../frontends/nbd/listener.ts';
import type { Ending } from './ending.ts';
import { asCall, WrongCall } from './errors.ts';
import { imageDevice } from './image-device.ts';
import { addListenOptions, type ListenFlags, listenerOptions } from './listen-options.ts';
import { repeated } from './option-values.ts';
import { addServerOptions, type ServerFlags, startServer } from './server.ts';

interface ServeOptions extends ServerFlags, ListenFlags {
  readonly table: string[];
  readonly name: string;
  readonly concise?: string;
  readonly file?: string;
  readonly unix?: string;
  readonly tcp?: string;
  readonly export: string[];
  readonly readOnly?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  Serve a disk image; the URI is printed when clients may connect:
    truncate -s 64M disk.img
    lamina serve disk.img --unix disk.sock

  Look at it, in another terminal:
    nbdinfo 'nbd+unix:///?socket=disk.sock'

  Two files striped in 64 KiB chunks, from table lines as dmsetup takes them:
    truncate -s 1G a.img b.img
    lamina serve --table '0 4194304 striped 2 128 a.img 0 b.img 0' --export fast

  A whole stack in one argument (dmsetup's concise form: name,uuid,minor,flags,table...;...):
    lamina serve --concise 'low,,,rw,0 2048 linear a.img 0;top,,,rw,0 2048 linear low 0'

  Create a sparse image and serve it on TCP, on a free port (loopback unless told otherwise):
    lamina serve 'file:new.img?create=1&size=10G' --tcp 127.0.0.1:0

SIGTERM, SIGINT, SIGHUP (a closed terminal), SIGQUIT: requests in flight are answered, everything
is flushed and closed. A further signal, or the end of --grace, ends it at once and says
what was not flushed.

Exit status: 0 ended with everything flushed, 1 something was refused or a flush failed, 2 a wrong call.`;

export function addServe(program: Command): void {
  const command = program
    .command('serve')
    .summary('serve a stack of devices over NBD, in the foreground')
    .description(
      'Builds a stack of mapped devices from an image, table lines, a concise spec or a YAML file and\n' +
        'serves it over NBD. Prints one line with the NBD URI when clients may connect.',
    )
    .argument('[image]', 'an image file, a block device or a backend URI, exported as it is')
    .option(
      '--table <line>',
      'a table line; repeat it for more lines of the one device',
      repeated,
      [],
    )
    .option('--name <name>', 'name of the device that --table makes', 'lamina')
    .option('--concise <spec>', "devices in dmsetup's concise form")
    .option('--file <stack.yaml>', 'devices, exports and listeners from a file')
    .option('--unix <path>', 'listen on a unix socket (mode 0600)')
    .option('--tcp <host:port>', 'listen on TCP; port 0 takes a free one')
    .option('--export <name[=device]>', 'what to export; repeatable', repeated, [])
    .option('--read-only', 'open and export everything read-only');
  addListenOptions(addServerOptions(command))
    .option('--json', 'print the ready line as JSON, with every export')
    .addHelpText('after', EXAMPLES)
    .action(async (image: string | undefined, options: ServeOptions) => {
      await serve(image, options);
    });
}

async function serve(image: string | undefined, options: ServeOptions): Promise<void> {
  const server = startServer(options);
  await server.ending.run(async () => {
    const who = await listenerOptions('serve', options);
    const fromFile = await stackOf(options.file);
    const address = await listenAddress(options, fromFile?.listen ?? {}, server.ending);
    const plane = await server.openPlane();
    const stack = await chooseStack(plane, image, options, fromFile, server.log);
    const exports = await buildStack(plane, stack);
    const listener = await server.openListener({
      address,
      catalog: plane,
      transmission: plane,
      log: server.log,
      ...who,
    });
    await server.announce(await readyLine(plane, listener, exports, options.json === true));
  });
}

/** What reads such a file takes longer to load than most commands take. */
async function stackOf(file: string | undefined): Promise<LoadedStack | undefined> {
  if (file === undefined) return undefined;
  const { loadStackFile } = await import('../daemon/stack-file.ts');
  return loadStackFile(file);
}

async function chooseStack(
  plane: Plane,
  image: string | undefined,
  options: ServeOptions,
  file: LoadedStack | undefined,
  note: (text: string) => void,
): Promise<Stack> {
  const isReadOnly = options.readOnly === true;
  const given = [
    image === undefined ? '' : 'IMAGE',
    options.table.length > 0 ? '--table' : '',
    options.concise === undefined ? '' : '--concise',
    file === undefined ? '' : '--file',
  ].filter((s) => s !== '');
  if (given.length !== 1) {
    const found = given.length === 0 ? 'none' : given.join(' and ');
    throw new WrongCall(`serve: give one of IMAGE, --table, --concise, --file; found ${found}`);
  }
  let devices = file?.devices ?? [];
  if (options.concise !== undefined) devices = parseConcise(options.concise);
  else if (image !== undefined) devices = [await imageDevice(plane, image, { isReadOnly, note })];
  else if (options.table.length > 0) {
    const table = options.table.join('\n');
    devices = [{ name: options.name, uuid: '', minor: undefined, isReadOnly, table }];
  }
  const wanted = options.export;
  const named = wanted.length > 0 ? asCall(() => parseExports(wanted, devices)) : undefined;
  return { devices, exports: named ?? file?.exports, isReadOnly };
}

async function listenAddress(
  options: ServeOptions,
  file: LoadedStack['listen'],
  ending: Ending,
): Promise<ListenAddress> {
  const unix = options.unix ?? (options.tcp === undefined ? file.unix : undefined);
  const tcp = options.tcp ?? (unix === undefined ? file.tcp : undefined);
  if (unix !== undefined && tcp !== undefined) {
    throw new WrongCall('serve: --unix and --tcp: give one of them');
  }
  if (tcp !== undefined) return asCall(() => parseTcpAddress('--tcp', tcp));
  if (unix !== undefined) return asCall(() => parseUnixAddress('--unix', unix));
  // The variable may name a folder that nobody has made: after `su`, say.
  const runtime = baseFolder('XDG_RUNTIME_DIR');
  const isThere = runtime !== undefined && existsSync(runtime);
  const base = isThere ? runtime : tmpdir();
  const folder = mkdtempSync(join(base, 'lamina-'));
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  await ending.hold({ close: remove, abandon: remove });
  const variable = isThere ? 'XDG_RUNTIME_DIR' : 'TMPDIR';
  return { kind: 'unix', path: socketIn({ path: folder, variable }, 'nbd.sock') };
}

async function readyLine(
  plane: Plane,
  listener: NbdListener,
  exports: readonly StackExport[],
  isJson: boolean,
): Promise<string> {
  const first = exports.find((e) => e.name === '') ?? exports[0];
  const uri = listener.uri(first?.name ?? '');
  if (!isJson) return uri;
  const all = await plane.listExports();
  const listed = all.map((e) => ({ ...e, uri: listener.uri(e.name) }));
  return JSON.stringify({ uri, engine: plane.engine, pid: process.pid, exports: listed });
}
