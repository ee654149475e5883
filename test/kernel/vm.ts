// Boots a real Linux kernel in QEMU, without KVM, and runs a shell script in it as root.
//
// Disks, then exports, are /dev/vda, /dev/vdb, ... in the order given. The host's loopback is 10.0.2.2
// there. The script runs with `sh -e`; what it prints is the output. Emulated: some six seconds to its
// first line. A kernel that finds a bug in itself while it runs is a failure, whatever the script says.

import { execFile } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const POLL_MS = 20;
/** What the kernel says on its console when something is wrong with it. */
const COMPLAINT =
  /BUG: |Oops: |general protection fault|Kernel panic|blocked for more than|soft lockup/;
const IMAGE =
  process.env['LAMINA_TEST_KERNEL'] ??
  join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'lamina/test-kernel');

export interface KernelRun {
  readonly script: string;
  /** Raw image files. */
  readonly disks?: readonly string[];
  /** NBD URIs; QEMU is their client. */
  readonly nbd?: readonly string[];
  /** Hears every line of the output, soon after it was printed. */
  readonly onLine?: (line: string) => void;
  readonly timeoutSeconds?: number;
  readonly memoryMib?: number;
}

export interface KernelResult {
  readonly output: string;
  readonly status: number;
}

/** Throws when the kernel did not come as far as the script's end. */
export async function runInKernel(options: KernelRun): Promise<KernelResult> {
  const work = mkdtempSync(join(tmpdir(), 'lamina-kernel-'));
  try {
    return await boot(options, work);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The script's output. Throws when it failed. */
export async function inKernel(options: KernelRun): Promise<string> {
  const { output, status } = await runInKernel(options);
  if (status !== 0) throw new Error(`in the kernel: exit status ${status}:\n${output}`);
  return output;
}

async function boot(options: KernelRun, work: string): Promise<KernelResult> {
  const { timeoutSeconds = 300, onLine } = options;
  const [outPath, consolePath] = [join(work, 'out'), join(work, 'console')];
  const initrd = await makeInitrd(options.script, work);
  const args = [
    '-kernel',
    join(IMAGE, 'vmlinuz'),
    '-initrd',
    initrd,
    '-serial',
    `file:${consolePath}`,
    '-serial',
    `file:${outPath}`,
    ...machineArgs(options),
  ];
  const follower = onLine === undefined ? undefined : new Follower(outPath, onLine);
  // Not SIGTERM: QEMU ends well on that, as if the kernel had.
  const limit = { timeout: timeoutSeconds * 1000, killSignal: 'SIGKILL' } as const;
  const failure = await run('qemu-system-x86_64', args, limit).then(
    () => '',
    (error: { killed?: boolean; stderr?: string; message: string }) =>
      error.killed === true ? `no end in ${timeoutSeconds} s` : (error.stderr ?? error.message),
  );
  follower?.end();
  const out = read(outPath);
  const console = read(consolePath);
  const match = /^exit status (\d+)$/m.exec(out);
  const complaint = COMPLAINT.exec(console);
  if (match === null || complaint !== null) {
    const what = complaint === null ? 'did not end the script' : `complains: ${complaint[0]}`;
    const said =
      complaint === null
        ? console.slice(-2000)
        : console.slice(complaint.index, complaint.index + 4000);
    throw new Error(`the kernel ${what}: ${failure}\n${out.slice(-4000)}\nconsole: ${said}`);
  }
  return { output: out.replace(/^exit status \d+\n?/m, ''), status: Number(match[1]) };
}

/** The image's initramfs with the script laid over it. */
async function makeInitrd(script: string, work: string): Promise<string> {
  const image = join(IMAGE, 'initramfs.gz');
  if (!existsSync(image)) throw new Error(`no ${image}: npm run test:kernel makes it`);
  const overlay = join(work, 'overlay');
  mkdirSync(overlay);
  writeFileSync(join(overlay, 'script'), script);
  const initrd = join(work, 'initrd');
  const pack = '(cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) | cat "$2" - >"$3"';
  await run('bash', ['-o', 'pipefail', '-c', pack, 'bash', overlay, image, initrd]);
  return initrd;
}

function machineArgs({ disks = [], nbd = [], memoryMib = 1024 }: KernelRun): string[] {
  const machine = `-machine q35 -accel tcg,thread=multi -cpu max -m ${memoryMib} -smp 2`;
  const screen = '-display none -no-reboot -monitor none -nic user,model=virtio-net-pci';
  const append = 'console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off';
  const drives = [...disks, ...nbd].flatMap((disk) => [
    '-drive',
    `file=${disk.replaceAll(',', ',,')},format=raw,if=virtio,cache=writeback,discard=unmap`,
  ]);
  return [...`${machine} ${screen}`.split(' '), '-append', append, ...drives];
}

/** Reads what is appended to a file. */
class Follower {
  readonly #path: string;
  readonly #onLine: (line: string) => void;
  readonly #timer: NodeJS.Timeout;
  readonly #buffer = Buffer.alloc(65536);
  #at = 0;
  #rest = '';

  constructor(path: string, onLine: (line: string) => void) {
    this.#path = path;
    this.#onLine = onLine;
    this.#timer = setInterval(() => this.#poll(), POLL_MS);
  }

  end(): void {
    clearInterval(this.#timer);
    this.#poll();
  }

  #poll(): void {
    if (!existsSync(this.#path)) return;
    const fd = openSync(this.#path, 'r');
    try {
      for (;;) {
        const bytes = readSync(fd, this.#buffer, 0, this.#buffer.length, this.#at);
        if (bytes === 0) return;
        this.#at += bytes;
        const lines = (this.#rest + this.#buffer.toString('latin1', 0, bytes)).split('\n');
        this.#rest = lines.pop() ?? '';
        for (const line of lines) this.#onLine(line.replaceAll('\r', ''));
      }
    } finally {
      closeSync(fd);
    }
  }
}

function read(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8').replaceAll('\r', '') : '';
}
