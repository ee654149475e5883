// Boots a real Linux kernel in QEMU, without KVM, and runs a shell script in it as root.
//
// Disks are /dev/vda, /dev/vdb, ... in the order given. The host's loopback is 10.0.2.2 there. The script
// runs with `sh -e`; what it prints is the output. Emulated: some six seconds to its first line.

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const IMAGE =
  process.env['LAMINA_TEST_KERNEL'] ??
  join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'lamina/test-kernel');

export interface KernelRun {
  readonly script: string;
  /** Raw image files, or NBD URIs of which QEMU is the client. */
  readonly disks?: readonly string[];
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
  const { script, disks = [], timeoutSeconds = 300, memoryMib = 1024 } = options;
  const overlay = join(work, 'overlay');
  await run('mkdir', [overlay]);
  writeFileSync(join(overlay, 'script'), script);
  const initrd = join(work, 'initrd');
  await run('bash', [
    '-c',
    '(cd "$1" && find . | cpio -o -H newc --quiet | gzip -1) | cat "$2" - >"$3"',
    'bash',
    overlay,
    join(IMAGE, 'initramfs.gz'),
    initrd,
  ]);
  const machine = `-machine q35 -accel tcg,thread=multi -cpu max -m ${memoryMib} -smp 2`;
  const screen = '-display none -no-reboot -monitor none -nic user,model=virtio-net-pci';
  const args = [
    ...`${machine} ${screen}`.split(' '),
    '-kernel',
    join(IMAGE, 'vmlinuz'),
    '-initrd',
    initrd,
    '-append',
    'console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off',
    '-serial',
    `file:${join(work, 'console')}`,
    '-serial',
    `file:${join(work, 'out')}`,
    ...disks.flatMap((disk) => [
      '-drive',
      `file=${disk},format=raw,if=virtio,cache=writeback,discard=unmap`,
    ]),
  ];
  const failure = await run('qemu-system-x86_64', args, { timeout: timeoutSeconds * 1000 }).then(
    () => '',
    (error: { killed?: boolean; stderr?: string }) =>
      error.killed === true ? `no end in ${timeoutSeconds} s` : (error.stderr ?? 'qemu failed'),
  );
  const out = read(join(work, 'out'));
  const match = /^exit status (\d+)$/m.exec(out);
  if (match === null) {
    const console = read(join(work, 'console')).slice(-2000);
    throw new Error(`the kernel did not end the script: ${failure}\n${out}\nconsole: ${console}`);
  }
  return { output: out.replace(/^exit status \d+\n?/m, ''), status: Number(match[1]) };
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8').replaceAll('\r', '');
  } catch {
    return '';
  }
}
