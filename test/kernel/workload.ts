// What the kernel does to a file system in the crash tests, and how what is left of it is looked at.
//
// The workload prints `synced N` when file N has its content and its name for good: the file was fsynced,
// renamed, and then its directory was fsynced. Nothing touches it afterwards. Beside them files come and go
// that nobody syncs.

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export type FileSystem = 'ext4' | 'xfs';
export const FS_BYTES = 320 << 20;

const ENV = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/sbin:/usr/sbin` };

export function workload(fs: FileSystem, files: number): string {
  return `modprobe ${fs}
mkdir -p /mnt
mount -t ${fs} /dev/vda /mnt
i=0
while [ $i -lt ${files} ]; do
  i=$((i + 1))
  yes "file $i" | head -c $((i * 997 % 60000 + 1)) >/tmp/data
  cp /tmp/data /mnt/new && sync /mnt/new && mv /mnt/new /mnt/f$i && sync /mnt || break
  echo "synced $i"
  if [ $((i % 4)) = 0 ]; then mkdir -p /mnt/d$((i % 3)) && cp /tmp/data /mnt/d$((i % 3))/x$i || break; fi
  if [ $((i % 5)) = 0 ]; then cp /tmp/data /mnt/over && ln -f /mnt/over /mnt/link || break; fi
  if [ $((i % 7)) = 0 ]; then rm -rf /mnt/d$((i % 2)) || break; fi
  if [ $((i % 9)) = 0 ]; then truncate -s $((i * 100)) /mnt/over || break; fi
  if [ $((i % 20)) = 0 ]; then sync; fi
done
umount /mnt || true`;
}

/** The content of file `n`, as the shell makes it. */
export function contentOf(n: number): Buffer {
  return Buffer.alloc(((n * 997) % 60000) + 1, `file ${n}\n`);
}

export function makeFileSystem(fs: FileSystem, path: string): void {
  writeFileSync(path, '');
  truncateSync(path, FS_BYTES);
  execFileSync(`mkfs.${fs}`, ['-q', path], { env: ENV });
}

/** Replays the journal and nothing else; what is wrong afterwards, or ''. */
export function recoverExt4(path: string): string {
  const recovered = spawnSync('e2fsck', ['-E', 'journal_only', '-y', path], {
    encoding: 'utf8',
    env: ENV,
  });
  if ((recovered.status ?? 8) > 1) return `recovery: ${recovered.stdout}${recovered.stderr}`;
  return checkClean('ext4', path);
}

/** Of a file system that was recovered; '' when nothing is wrong. */
export function checkClean(fs: FileSystem, path: string): string {
  const [program, ...args] = fs === 'ext4' ? ['e2fsck', '-fn', path] : ['xfs_repair', '-nf', path];
  const checked = spawnSync(program, args, { encoding: 'utf8', env: ENV });
  return checked.status === 0 ? '' : `${program}: ${checked.stdout}${checked.stderr}`.slice(-1500);
}

/** What is wrong with files 1 to `synced` of an ext4 image, or ''. */
export function checkExt4Files(path: string, synced: number, scratch: string): string {
  if (synced === 0) return '';
  const tree = join(scratch, 'tree');
  mkdirSync(tree);
  try {
    execFileSync('debugfs', ['-R', `rdump / ${tree}`, path], { env: ENV, stdio: 'pipe' });
    const wrong: string[] = [];
    for (let n = 1; n <= synced; n++) {
      const file = join(tree, `f${n}`);
      const isThere = statSync(file, { throwIfNoEntry: false }) !== undefined;
      if (!isThere) wrong.push(`f${n} of ${synced} is not there`);
      else if (!readFileSync(file).equals(contentOf(n))) wrong.push(`f${n} of ${synced} differs`);
    }
    return wrong.join(', ');
  } finally {
    rmSync(tree, { recursive: true });
  }
}

/**
 * For the VM: mounts each disk, which recovers it, prints the sums of its files, and unmounts it. The
 * output goes to `readSums`.
 */
export function sumsScript(fs: FileSystem): string {
  return `modprobe ${fs}; mkdir -p /mnt
for d in /dev/vd?; do
  echo "disk $d"
  mount -t ${fs} ${fs === 'xfs' ? '-o nouuid' : ''} $d /mnt || { echo "does not mount"; continue; }
  (cd /mnt && for f in f*; do [ -e $f ] && echo $f; done | xargs -r md5sum) || echo "cannot read"
  umount /mnt || echo "does not unmount"
done
echo "looked at all"`;
}

/** What is wrong with files 1 to `synced[i]` of the i-th disk, or ''. */
export function readSums(output: string, synced: readonly number[]): string[] {
  if (!output.includes('looked at all\n')) throw new Error(`the script did not end:\n${output}`);
  const parts = output.split(/^disk \/dev\/vd[a-z]\n/m).slice(1);
  if (parts.length !== synced.length) throw new Error(`${parts.length} disks:\n${output}`);
  return parts.map((part, i) => {
    const wrong = /^(does not mount|does not unmount|cannot read)$/m.exec(part);
    if (wrong !== null) return part.trim();
    const sums = new Map(
      [...part.matchAll(/^([0-9a-f]{32}) {2}f(\d+)$/gm)].map(([, sum, n]) => [Number(n), sum]),
    );
    const lost: string[] = [];
    for (let n = 1; n <= (synced[i] as number); n++) {
      const sum = createHash('md5').update(contentOf(n)).digest('hex');
      const found = sums.get(n);
      if (found !== sum)
        lost.push(`f${n} of ${synced[i]} ${found === undefined ? 'lost' : 'differs'}`);
    }
    return lost.join(', ');
  });
}
