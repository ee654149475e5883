// A folder with LUKS volumes, key files, and the programs that work on them: lamina's command line and cryptsetup.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { LuksFile } from '../tools/luks/luks-io.ts';
import { openLuks } from '../tools/luks/open-luks.ts';
import { makeTestFolder } from './lamina-server.ts';
import { type Ran, WarmLamina } from './warm-lamina.ts';

export type { Ran } from './warm-lamina.ts';

const PATHS = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)];
const ENV = { ...process.env, PATH: PATHS.join(delimiter) };
const MIB = 1024 * 1024;

/** One for all desks of a test file: starting it takes as long as many calls. */
let warm: WarmLamina | undefined;

/** Why tests that need these programs are skipped, or false. */
export function without(...tools: readonly string[]): string | false {
  const absent = tools.filter((tool) => !PATHS.some((folder) => existsSync(join(folder, tool))));
  return absent.length > 0 && `not installed: ${absent.join(', ')}`;
}

export class LuksDesk implements Disposable {
  readonly #folder = makeTestFolder();

  /** Makes the files of `files`. */
  constructor(files: Readonly<Record<string, string>>) {
    for (const [name, text] of Object.entries(files)) this.with(name, text);
  }

  at(name: string): string {
    return join(this.#folder.path, name);
  }

  /** Writes a file and answers its path. */
  with(name: string, text: string): string {
    writeFileSync(this.at(name), text);
    return this.at(name);
  }

  /** A file of zeroes in place of any that is there. */
  fresh(name: string, sizeBytes = 20 * MIB): string {
    rmSync(this.at(name), { force: true });
    this.with(name, '');
    truncateSync(this.at(name), sizeBytes);
    return this.at(name);
  }

  run(
    command: string,
    args: readonly string[],
    input: string | Buffer = '',
    env: Readonly<Record<string, string>> = {},
  ): Ran {
    const done = spawnSync(command, args, {
      env: { ...ENV, ...env },
      input,
      maxBuffer: 2 ** 28,
      timeout: 120_000,
    });
    return { status: done.status, stdout: String(done.stdout), stderr: String(done.stderr) };
  }

  /** Answers stdout of a program that ends well. */
  good(command: string, ...args: readonly string[]): string {
    const { status, stdout, stderr } = this.run(command, args);
    assert.equal(status, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`);
    return stdout;
  }

  cryptsetup(...args: readonly string[]): string {
    return this.good('cryptsetup', ...args);
  }

  /** `lamina luks`, which ends well. */
  lamina(...args: readonly string[]): string {
    const { status, stdout, stderr } = this.runLamina(args);
    assert.equal(status, 0, `lamina luks ${args.join(' ')}: ${stdout}${stderr}`);
    return stdout;
  }

  runLamina(args: readonly string[], input: string | Buffer = ''): Ran {
    warm ??= new WarmLamina(ENV);
    return warm.run(['luks', ...args], input);
  }

  /** The JSON text of the first copy of a LUKS2 header of 16 KiB. */
  metadataText(file: string): string {
    const area = readFileSync(file).subarray(4096, 16384);
    return area.subarray(0, area.indexOf(0)).toString();
  }

  /** Both print the same header. */
  sameDump(file: string): void {
    const io = LuksFile.open(file, { isReadOnly: true });
    try {
      const ours = openLuks(io, { isDetached: true }).dump();
      assert.equal(ours, this.cryptsetup('luksDump', file));
    } finally {
      io.close();
    }
  }

  [Symbol.dispose](): void {
    this.#folder.remove();
  }
}
