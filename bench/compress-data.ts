// What bench:compress compresses: data that are made on the spot from what this machine has.

import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { has } from './compress-programs.ts';

const MIB = 1 << 20;
const SBIN = `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`;
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export interface DataSet {
  readonly name: string;
  /** Programs without which it cannot be made. */
  readonly needs: readonly string[];
  /** Makes `path`, of at most so many bytes. `folder` is for what is needed meanwhile. */
  make(path: string, bytesMax: number, folder: string): void;
}

/** Runs a shell script; what is cut off by `head` is no error. */
function shell(script: string, env: Readonly<Record<string, string>>): void {
  execFileSync('bash', ['-c', script], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

/** The most important ones first. */
const PRIORITIES: readonly string[] = ['required', 'important', 'standard', 'optional'];

/** Files of Debian packages, or of /usr where there are none, of so many bytes together. */
function systemFiles(bytesMax: number): string[] {
  const files: string[] = [];
  let left = bytesMax;
  for (const path of has('dpkg-query') ? packageFiles() : usrFiles()) {
    const facts = lstatSync(path, { throwIfNoEntry: false });
    if (facts?.isFile() !== true || facts.size > left) continue;
    // An inode and half a block are lost with each.
    left -= facts.size + 4096;
    files.push(path);
    if (left < 65536) break;
  }
  return files;
}

function* packageFiles(): Iterable<string> {
  const format = ['-W', '-f', '${Priority} ${binary:Package}\n'];
  const lines = execFileSync('dpkg-query', format, { encoding: 'utf8' }).split('\n');
  const packages = lines.map((line) => line.split(' '));
  for (const wanted of PRIORITIES) {
    for (const [priority, name] of packages) {
      if (priority !== wanted || name === undefined) continue;
      yield* execFileSync('dpkg-query', ['-L', name], { encoding: 'utf8' }).split('\n');
    }
  }
}

function* usrFiles(): Iterable<string> {
  for (const entry of readdirSync('/usr', { recursive: true, encoding: 'utf8' })) {
    yield join('/usr', entry);
  }
}

const DATABASE = `
import os, sqlite3, sys
path, most = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path)
db.execute('pragma journal_mode = off')
db.execute('pragma synchronous = off')
db.execute('create table file (id integer primary key, path text unique, bytes int, changed real)')
db.execute('create table line (file int, number int, words int, text text)')
db.execute('create index by_file on line (file, number)')
count = 0
def full():
    db.commit()
    return os.path.getsize(path) > most
for folder, folders, files in os.walk(sys.argv[3]):
    folders.sort()
    for name in sorted(files):
        if not name.endswith(('.js', '.ts', '.json', '.md')): continue
        at = os.path.join(folder, name)
        with open(at, errors='replace') as file: lines = file.readlines()
        facts = os.stat(at)
        count += 1
        row = (count, at, facts.st_size, facts.st_mtime)
        db.execute('insert into file values (?, ?, ?, ?)', row)
        rows = [(count, i, len(l.split()), l.rstrip()) for i, l in enumerate(lines)]
        db.executemany('insert into line values (?, ?, ?, ?)', rows)
        if count % 50 == 0 and full(): sys.exit(0)
db.commit()
`;

export const DATA_SETS: readonly DataSet[] = [
  {
    name: 'rootfs',
    needs: ['mke2fs', 'bash'],
    make(path, bytesMax, folder) {
      const root = join(folder, 'root');
      mkdirSync(root);
      const list = join(folder, 'list');
      writeFileSync(list, systemFiles(bytesMax * 0.82).join('\n'));
      const script = 'tar -cf - -T "$LIST" 2>/dev/null | tar -xf - -C "$ROOT"';
      shell(script, { LIST: list, ROOT: root });
      const size = `${Math.floor(bytesMax / MIB)}M`;
      const options = ['-q', '-F', '-t', 'ext4', '-m', '0', '-J', 'size=4', '-d', root];
      execFileSync('mke2fs', [...options, path, size], { env: { ...process.env, PATH: SBIN } });
      rmSync(root, { recursive: true });
    },
  },
  {
    name: 'database',
    needs: ['python3'],
    make(path, bytesMax) {
      const most = String(Math.floor(bytesMax * 0.97));
      execFileSync('python3', ['-c', DATABASE, path, most, ROOT], { stdio: 'inherit' });
      cutAt(path, bytesMax);
    },
  },
  {
    name: 'source',
    needs: ['tar', 'bash'],
    make(path, bytesMax) {
      const parts = ['src', 'test', 'docs', 'bench', 'node_modules'];
      const there = parts.filter((name) => existsSync(join(ROOT, name)));
      const script = `tar -cf - -C "$ROOT" ${there.join(' ')} 2>/dev/null | head -c "$BYTES" >"$OUT"`;
      shell(script, { ROOT, BYTES: String(bytesMax), OUT: path });
    },
  },
  {
    name: 'random',
    needs: ['bash'],
    make(path, bytesMax) {
      shell('head -c "$BYTES" /dev/urandom >"$OUT"', { BYTES: String(bytesMax), OUT: path });
    },
  },
];

/** Makes the file, a whole number of MiB; how many bytes it has. */
export function makeData(data: DataSet, path: string, bytesMax: number, folder: string): number {
  closeSync(openSync(path, 'w'));
  data.make(path, bytesMax, folder);
  cutAt(path, Math.floor(statSync(path).size / MIB) * MIB);
  return statSync(path).size;
}

function cutAt(path: string, bytes: number): void {
  if (statSync(path).size > bytes) truncateSync(path, bytes);
}
