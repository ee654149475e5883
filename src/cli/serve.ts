// lamina serve: a stack in the foreground, served over NBD until a signal ends it.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import { invalid } from '../base/errors.ts';
import type { Plane } from '../daemon/plane.ts';
import { buildStack, parseExports, type Stack, type StackExport } from '../daemon/stack.ts';
import { loadStackFile } from '../daemon/stack-file.ts';
import { parseConcise } from '../dm/table-text.ts';
import {
  type ListenAddress,
  parseTcpAddress,
  parseUnixAddress,
} from '../frontends/nbd/listen-address.ts';
import { CONNECTIONS_MAX, NbdListener } from '../frontends/nbd/listener.ts';
import { TlsServer } from '../frontends/nbd/tls.ts';
import { endOnSignals } from './end-on-signals.ts';
import { imageDevice } from './image-device.ts';
import { positive, repeated } from './option-values.ts';
import { addPlaneOptions, openPlane, type PlaneFlags } from './plane-options.ts';

interface ServeOptions extends PlaneFlags {
  readonly table: string[];
  readonly name: string;
  readonly concise?: string;
  readonly file?: string;
  readonly unix?: string;
  readonly tcp?: string;
  readonly export: string[];
  readonly readOnly?: boolean;
  readonly tls: 'off' | 'offer' | 'require';
  readonly tlsCreds?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyClient?: boolean;
  readonly allowInsecure?: boolean;
  readonly maxConnections: number;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  Serve a disk image; the URI is printed when clients may connect:
    lamina serve disk.img --unix /tmp/disk.sock
    nbdinfo 'nbd+unix:///?socket=/tmp/disk.sock'

  Two files striped in 64 KiB chunks, from table lines as dmsetup takes them:
    lamina serve --table '0 4194304 striped 2 128 a.img 0 b.img 0' --export fast

  A whole stack in one argument (dmsetup's concise form: name,uuid,minor,flags,table...;...):
    lamina serve --concise 'low,,,rw,0 2048 linear a.img 0;top,,,rw,0 2048 linear low 0'

  Create a sparse image and serve it on TCP (loopback unless told otherwise):
    lamina serve 'file:new.img?create=1&size=10G' --tcp 127.0.0.1:10809

Exit status: 0 after SIGTERM or SIGINT with everything flushed, 1 when something was refused or a
flush failed, 2 for a wrong call. A second signal ends it at once.`;

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
  addPlaneOptions(command)
    .addOption(
      new Option('--tls <mode>', 'TLS for clients')
        .choices(['off', 'offer', 'require'])
        .default('off'),
    )
    .option('--tls-creds <dir>', 'ca-cert.pem, server-cert.pem and server-key.pem are there')
    .option('--tls-psk <file>', 'pre-shared keys, a line "user:hexkey" each')
    .option('--tls-verify-client', 'clients must show a certificate signed by the CA')
    .option('--allow-insecure', 'let other machines in without TLS')
    .option('--max-connections <n>', 'connections at a time', positive, CONNECTIONS_MAX)
    .option('--json', 'print the ready line as JSON, with every export')
    .addHelpText('after', EXAMPLES)
    .action(async (image: string | undefined, options: ServeOptions) => {
      await serve(image, options);
    });
}

async function serve(image: string | undefined, options: ServeOptions): Promise<void> {
  const tls = await tlsServer(options);
  const fromFile = options.file === undefined ? undefined : loadStackFile(options.file);
  const where = listenAddress(options, fromFile?.listen ?? {});
  const plane = await openPlane(options);
  try {
    const stack = await chooseStack(plane, image, options, fromFile);
    const exports = await buildStack(plane, stack);
    const listener = await NbdListener.open({
      address: where.address,
      catalog: plane,
      transmission: plane,
      log: (line) => process.stderr.write(`lamina: ${line}\n`),
      allowInsecure: options.allowInsecure === true,
      connectionsMax: options.maxConnections,
      ...(tls === undefined ? {} : { tls }),
    });
    endOnSignals(async () => {
      await listener.close();
      await plane.shutdown();
      where.cleanUp();
    });
    await announce(plane, listener, exports, options.json === true);
  } catch (error) {
    where.cleanUp();
    await plane.shutdown();
    throw error;
  }
}

type FileStack = ReturnType<typeof loadStackFile>;

async function chooseStack(
  plane: Plane,
  image: string | undefined,
  options: ServeOptions,
  file: FileStack | undefined,
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
    throw invalid(`serve: give one of IMAGE, --table, --concise, --file; found ${found}`);
  }
  let devices = file?.devices ?? [];
  if (options.concise !== undefined) devices = parseConcise(options.concise);
  else if (image !== undefined) devices = [await imageDevice(plane, image, { isReadOnly, note })];
  else if (options.table.length > 0) {
    const table = options.table.join('\n');
    devices = [{ name: options.name, uuid: '', minor: undefined, isReadOnly, table }];
  }
  const named = options.export.length > 0 ? parseExports(options.export, devices) : undefined;
  return { devices, exports: named ?? file?.exports, isReadOnly };
}

function note(text: string): void {
  process.stderr.write(`lamina: ${text}\n`);
}

function listenAddress(
  options: ServeOptions,
  file: FileStack['listen'],
): { readonly address: ListenAddress; readonly cleanUp: () => void } {
  const unix = options.unix ?? (options.tcp === undefined ? file.unix : undefined);
  const tcp = options.tcp ?? (unix === undefined ? file.tcp : undefined);
  if (unix !== undefined && tcp !== undefined) {
    throw invalid('serve: --unix and --tcp: give one of them');
  }
  if (tcp !== undefined) {
    return { address: parseTcpAddress('--tcp', tcp), cleanUp: () => undefined };
  }
  if (unix !== undefined) {
    return { address: parseUnixAddress('--unix', unix), cleanUp: () => undefined };
  }
  const folder = mkdtempSync(join(process.env['XDG_RUNTIME_DIR'] ?? tmpdir(), 'lamina-'));
  return {
    address: parseUnixAddress('--unix', join(folder, 'nbd.sock')),
    cleanUp: () => rmSync(folder, { recursive: true, force: true }),
  };
}

async function tlsServer(options: ServeOptions): Promise<TlsServer | undefined> {
  const { tls, tlsCreds, tlsPsk } = options;
  if (tls === 'off') {
    if (tlsCreds === undefined && tlsPsk === undefined) return undefined;
    throw invalid('serve: --tls-creds and --tls-psk need --tls offer or --tls require');
  }
  const mode = tls === 'offer' ? 'offered' : 'required';
  if (tlsPsk !== undefined && tlsCreds === undefined) {
    return await TlsServer.fromKeys(tlsPsk, mode);
  }
  if (tlsCreds !== undefined && tlsPsk === undefined) {
    return await TlsServer.fromCertificates(tlsCreds, {
      mode,
      verifyPeer: options.tlsVerifyClient === true,
    });
  }
  throw invalid(`serve: --tls ${tls}: give one of --tls-creds DIR and --tls-psk FILE`);
}

async function announce(
  plane: Plane,
  listener: NbdListener,
  exports: readonly StackExport[],
  isJson: boolean,
): Promise<void> {
  const first = exports.find((e) => e.name === '') ?? exports[0];
  const uri = listener.uri(first?.name ?? '');
  if (!isJson) {
    process.stdout.write(`${uri}\n`);
    return;
  }
  const all = await plane.listExports();
  const listed = all.map((e) => ({ ...e, uri: listener.uri(e.name) }));
  const ready = { uri, engine: plane.engine, pid: process.pid, exports: listed };
  process.stdout.write(`${JSON.stringify(ready)}\n`);
}
