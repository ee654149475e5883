// The real clients and real file systems against `lamina serve`, on both engines, over unix sockets and
// TCP. A client that is not installed is a skip with its name.

import assert from 'node:assert/strict';
import { execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { Prng } from '../../src/base/prng.ts';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';

const run = promisify(execFile);
const MIB = 1 << 20;
const DISK_BYTES = 384 * MIB;

function has(...tools: string[]): string | undefined {
  const missing = tools.filter((tool) => {
    try {
      execFileSync('sh', ['-c', `command -v ${tool}`], { stdio: 'ignore' });
      return false;
    } catch {
      return true;
    }
  });
  return missing.length === 0 ? undefined : `not installed: ${missing.join(', ')}`;
}

interface Served {
  readonly uri: string;
  readonly folder: string;
}

/** Serves two striped files for the time of `body`, and expects a clean end. */
async function served(
  engine: string,
  where: 'unix' | 'tcp',
  body: (s: Served) => Promise<void>,
): Promise<void> {
  const folder = makeTestFolder();
  try {
    for (const leg of ['a', 'b']) {
      writeFileSync(join(folder.path, leg), '');
      truncateSync(join(folder.path, leg), DISK_BYTES / 2);
    }
    const sectors = DISK_BYTES / 512;
    const [a, b] = [join(folder.path, 'a'), join(folder.path, 'b')];
    const stack = `low,,,rw,0 ${sectors} striped 2 128 ${a} 0 ${b} 0;top,,,rw,0 ${sectors} linear low 0`;
    const address =
      where === 'unix' ? ['--unix', join(folder.path, 's')] : ['--tcp', '127.0.0.1:0'];
    const args = ['--concise', stack, '--engine', engine, '--export', '=top'];
    const server = await startLamina(args, address);
    try {
      await body({ uri: server.uri, folder: folder.path });
    } finally {
      assert.equal(await server.stop(), 0, server.stderr());
    }
  } finally {
    folder.remove();
  }
}

function skips(t: TestContext, ...tools: string[]): boolean {
  const missing = has(...tools);
  if (missing !== undefined) t.skip(missing);
  return missing !== undefined;
}

for (const engine of ['uring', 'node']) {
  for (const where of ['unix', 'tcp'] as const) {
    const name = `${engine} over ${where}`;

    test(`nbdinfo and nbdcopy: ${name}`, async (t) => {
      if (skips(t, 'nbdinfo', 'nbdcopy')) return;
      await served(engine, where, async ({ uri, folder }) => {
        const { stdout } = await run('nbdinfo', ['--json', uri]);
        const info = (JSON.parse(stdout) as { exports: Record<string, unknown>[] }).exports[0];
        assert.equal(info?.['export-size'], DISK_BYTES);
        assert.equal(info?.['can_multi_conn'], true);
        assert.equal(info?.['block_size_maximum'], 64 * MIB);
        const image = join(folder, 'image');
        const data = Buffer.alloc(DISK_BYTES);
        new Prng(5).fill(data.subarray(3 * MIB, 9 * MIB));
        writeFileSync(image, data);
        await run('nbdcopy', [image, uri]);
        await run('nbdcopy', [uri, join(folder, 'back')]);
        assert.ok(readFileSync(join(folder, 'back')).equals(data));
        const map = (await run('nbdinfo', ['--map', uri])).stdout.trim().split('\n');
        assert.match(map[0] ?? '', /^\s*0\s+3145728\s+3/);
        assert.match(map[map.length - 1] ?? '', /hole,zero$/);
      });
    });

    test(`qemu-img and qemu-io: ${name}`, async (t) => {
      if (skips(t, 'qemu-img', 'qemu-io')) return;
      await served(engine, where, async ({ uri, folder }) => {
        const image = join(folder, 'image');
        const data = Buffer.alloc(DISK_BYTES);
        new Prng(6).fill(data.subarray(MIB, 20 * MIB));
        writeFileSync(image, data);
        await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uri]);
        const compared = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
        assert.match(compared.stdout, /identical/);
        const steps = [
          'write -P 9 513 70001',
          'read -P 9 513 70001',
          'write -z -u 1M 3M',
          'read -P 0 1M 3M',
          'write -f -P 7 0 512',
          'discard 8M 1M',
          'write -P 3 100M 32M',
          'read -P 3 100M 32M',
          'flush',
        ].flatMap((step) => ['-c', step]);
        const { stdout } = await run('qemu-io', ['-f', 'raw', ...steps, uri]);
        assert.doesNotMatch(stdout, /failed|error/i);
        const mapped = await run('qemu-img', ['map', '--output=json', '-f', 'raw', uri]);
        assert.ok((JSON.parse(mapped.stdout) as unknown[]).length >= 1);
      });
    });

    test(`fio with verify: ${name}`, async (t) => {
      if (skips(t, 'fio')) return;
      await served(engine, where, async ({ uri, folder }) => {
        const common = ['--ioengine=nbd', `--uri=${uri}`, '--size=48M', '--verify=crc32c'];
        const job = ['--rw=randrw', '--bsrange=512-128k', '--iodepth=32', '--verify_fatal=1'];
        const { stdout } = await run('fio', ['--name=v', ...common, ...job], { cwd: folder });
        assert.match(stdout, /err= 0/);
      });
    });
  }

  for (const fs of ['ext4', 'xfs'] as const) {
    test(`mkfs and fsck of ${fs}, through nbdfuse: ${engine}`, async (t) => {
      const check = fs === 'ext4' ? 'e2fsck' : 'xfs_repair';
      if (skips(t, 'nbdfuse', 'fusermount3', `mkfs.${fs}`, check)) return;
      if (!existsSync('/dev/fuse')) {
        t.skip('no /dev/fuse here');
        return;
      }
      await served(engine, 'unix', async ({ uri, folder }) => {
        const mount = join(folder, 'fuse');
        mkdirSync(mount);
        const fuse = spawn('nbdfuse', [mount, uri], { stdio: 'inherit' });
        const ended = new Promise((resolve) => fuse.once('exit', resolve));
        try {
          const disk = join(mount, 'nbd');
          for (let i = 0; !existsSync(disk); i++) {
            assert.ok(i < 200, 'nbdfuse did not mount');
            await new Promise((resolve) => setTimeout(resolve, 25));
          }
          await run(`mkfs.${fs}`, [fs === 'ext4' ? '-F' : '-f', '-q', disk]);
          if (fs === 'ext4') {
            await run('debugfs', ['-w', '-R', `write ${process.execPath} node`, disk]);
            const out = join(folder, 'node.back');
            await run('debugfs', ['-R', `dump node ${out}`, disk]);
            assert.ok(readFileSync(out).equals(readFileSync(process.execPath)));
          }
          await run(check, [fs === 'ext4' ? '-fn' : '-n', disk]);
        } finally {
          await run('fusermount3', ['-u', mount]);
          await ended;
        }
      });
    });
  }
}
