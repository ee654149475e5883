// Persistent arrays against Debian's cache tools: the mapping array of a dm-cache that cache_restore made
// is read and changed by us, and the tools find it clean and changed.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, it } from 'node:test';
import { getU64, setU64 } from '../../src/format/struct.ts';
import { PersistentArray } from '../../src/persistent-data/array.ts';
import { type BlockKind, Salt } from '../../src/persistent-data/block-kind.ts';
import { BlockManager } from '../../src/persistent-data/block-manager.ts';
import { openTransactionManager } from '../../src/persistent-data/open.ts';
import { U64_VALUE } from '../../src/persistent-data/values.format.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { MetadataDisk } from '../../src/testing/metadata-disk.ts';

const PATHS = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)];
const ENV = { ...process.env, PATH: PATHS.join(delimiter) };
const absent = ['cache_check', 'cache_dump', 'cache_restore'].filter(
  (tool) => !PATHS.some((folder) => existsSync(join(folder, tool))),
);
const skip = absent.length > 0 && `not installed: ${absent.join(', ')}`;

const CACHE_SUPERBLOCK: BlockKind = {
  name: 'cache superblock',
  salt: Salt.CacheSuperblock,
  blockNumberOffset: 8,
};
const SPACE_MAP_AT = 64;
const MAPPING_ROOT_AT = 192;
const BLOCKS = 1024;
const CACHE_BLOCKS = 1500;
const ORIGIN_SHIFT = 65536;
const [VALID, DIRTY] = [1, 2];

let folder: ReturnType<typeof makeTestFolder>;
before(() => {
  folder = makeTestFolder();
});
after(() => folder.remove());

/** Cache block to origin block, as XML has it. */
function xmlOf(mappings: ReadonlyMap<number, number>): string {
  const lines = [...mappings].map(
    ([cache, origin]) =>
      `<mapping cache_block="${cache}" origin_block="${origin}" dirty="${origin % 2 === 0}"/>`,
  );
  const hints = [...mappings.keys()].map((c) => `<hint cache_block="${c}" data="AAAAAA=="/>`);
  return (
    `<superblock uuid="" block_size="128" nr_cache_blocks="${CACHE_BLOCKS}" policy="mq" hint_width="4">` +
    `<mappings>${lines.join('')}</mappings><hints>${hints.join('')}</hints></superblock>`
  );
}

function dumped(file: string): Map<number, number> {
  const xml = execFileSync('cache_dump', [file], { encoding: 'utf8', env: ENV });
  const found = xml.matchAll(/<mapping cache_block="(\d+)" origin_block="(\d+)" dirty="(\w+)"/g);
  return new Map(
    [...found].map(([, cache, origin, dirty]) => {
      assert.equal(dirty, String(Number(origin) % 2 === 0));
      return [Number(cache), Number(origin)];
    }),
  );
}

it('the mapping array of a real cache is read, changed, and still clean', { skip }, async () => {
  const file = join(folder.path, 'cache');
  const xml = join(folder.path, 'cache.xml');
  const model = new Map<number, number>();
  for (let i = 0; i < CACHE_BLOCKS; i += 3) model.set(i, i * 7 + 1);
  writeFileSync(xml, xmlOf(model));
  writeFileSync(file, new Uint8Array(BLOCKS * 4096));
  execFileSync('cache_restore', ['-i', xml, '-o', file], { env: ENV });

  const disk = new MetadataDisk(BLOCKS, readFileSync(file));
  const blocks = new BlockManager(disk);
  const superblock = await blocks.get(0, CACHE_SUPERBLOCK);
  const tm = await openTransactionManager(blocks, superblock.view, SPACE_MAP_AT);
  const array = new PersistentArray(tm, U64_VALUE);
  let root = getU64(superblock.view, MAPPING_ROOT_AT);
  let count = 0;
  await array.walk(root, (cache, value) => {
    const origin = model.get(cache);
    const flags = origin === undefined ? 0 : VALID | (origin % 2 === 0 ? DIRTY : 0);
    assert.equal(value, origin === undefined ? 0 : origin * ORIGIN_SHIFT + flags);
    count++;
    return true;
  });
  assert.equal(count, CACHE_BLOCKS);

  for (let cache = 1; cache < CACHE_BLOCKS; cache += 5) {
    const origin = cache * 1000 + 1;
    model.set(cache, origin);
    root = await array.set(root, cache, origin * ORIGIN_SHIFT + VALID);
  }
  await tm.preCommit();
  const data = superblock.data.slice();
  const view = new DataView(data.buffer);
  setU64(view, MAPPING_ROOT_AT, root);
  tm.metadataMap.encodeRoot(view, SPACE_MAP_AT);
  await tm.commit({ number: 0, kind: CACHE_SUPERBLOCK, data });
  writeFileSync(file, disk.image);
  execFileSync('cache_check', [file], { env: ENV });
  const inOrder = [...model].sort((a, b) => a[0] - b[0]);
  assert.deepEqual(
    [...dumped(file)],
    inOrder.map(([c, o]) => [c, o]),
  );
});
