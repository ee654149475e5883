// dust against a model: which blocks are bad, and what a write does to them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { makeLab } from '../../testing/sim/lab.ts';
import { SEED } from '../../testing/seed.ts';

const BLOCKS = 32;
const START = 16;

test(`random messages and I/O equal a model, LAMINA_SEED=${SEED}`, async () => {
  for (const blockSectors of [1, 8]) {
    const rng = new Prng(SEED + blockSectors);
    const lab = makeLab({ seed: SEED, clonesMax: 2 });
    lab.disk('a', (START + BLOCKS) * 8);
    const table = `0 ${BLOCKS * blockSectors} dust test:a ${START} ${blockSectors * 512}`;
    await lab.dm.create({ name: 'd', table });
    const open = await lab.dm.openDevice('d');
    const driver = new BioDriver(open.device, lab.arena);
    const tell = async (text: string): Promise<string> => await lab.dm.message('d', 0, text);
    /** Bad blocks, counted on the disk below, and how many writes each still fails. */
    const bad = new Map<number, number>();
    const first = START / blockSectors;
    let isEnabled = false;
    for (let i = 0; i < 400; i++) {
      const block = first + rng.below(BLOCKS);
      const at = (block - first) * blockSectors * 512;
      const what = rng.below(6);
      if (what === 0) {
        const failures = rng.pick([0, 0, 1, 3]);
        const added = tell(`addbadblock ${block}${failures > 0 ? ` ${failures}` : ''}`);
        if (bad.has(block)) await assert.rejects(added, /already in badblocklist/);
        else assert.equal(await added, '');
        if (!bad.has(block)) bad.set(block, failures);
      } else if (what === 1) {
        const removed = tell(`removebadblock ${block}`);
        if (bad.delete(block)) assert.equal(await removed, '');
        else await assert.rejects(removed, /not found in badblocklist/);
      } else if (what === 2 && rng.chance(0.2)) {
        isEnabled = !isEnabled;
        await tell(isEnabled ? 'enable' : 'disable');
      } else if (what === 3) {
        const isBad: boolean = isEnabled && bad.has(block);
        const result = await lab.scheduler.settle(driver.tryRead(at, 512));
        assert.equal(result, isBad ? Status.Io : result, `read of block ${block}`);
        if (!isBad) assert.ok(Buffer.isBuffer(result));
      } else if (what === 4) {
        const failures: number | undefined = isEnabled ? bad.get(block) : undefined;
        const status = await lab.scheduler.settle(driver.write(at, new Uint8Array(512)));
        assert.equal(status, (failures ?? 0) > 0 ? Status.Io : Status.Ok, `write of ${block}`);
        if (failures === 0) bad.delete(block);
        else if (failures !== undefined) bad.set(block, failures - 1);
      } else {
        const is = bad.has(block) ? 'found' : 'not found';
        assert.equal(
          await tell(`queryblock ${block}`),
          `queryblock: block ${block} ${is} in badblocklist`,
        );
      }
      assert.equal(await tell('countbadblocks'), `countbadblocks: ${bad.size} badblock(s) found`);
    }
    const listed = [...bad.keys()].sort((a, b) => a - b).join('\n');
    assert.equal(await tell('listbadblocks'), listed);
    const had = bad.size > 0 ? 'badblocks cleared' : 'no badblocks found';
    assert.equal(await tell('clearbadblocks'), `clearbadblocks: ${had}`);
    assert.equal(await tell('countbadblocks'), 'countbadblocks: 0 badblock(s) found');
    await open.close();
    await lab.dm.close();
  }
});

test('status, table and refusals speak as the kernel does', async () => {
  const lab = makeLab({ seed: 1 });
  lab.disk('a', 64);
  await lab.dm.create({ name: 'd', table: '0 32 dust test:a 8 1024' });
  const info = async (): Promise<string | undefined> => (await lab.dm.status('d'))[0]?.params;
  assert.equal(await info(), 'test:a bypass verbose');
  await lab.dm.message('d', 0, 'enable');
  await lab.dm.message('d', 0, 'QUIET');
  assert.equal(await info(), 'test:a fail_read_on_bad_block quiet');
  assert.equal((await lab.dm.table('d'))[0]?.params, 'test:a 8 1024');
  const refused: readonly (readonly [string, RegExp])[] = [
    ['addbadblock', /addbadblock requires an additional argument/],
    ['addbadblock x', /selected block value out of range: 'x', expected 0\.\.32/],
    ['addbadblock 33', /selected block value out of range: '33'/],
    ['addbadblock 1 256', /selected write fail count out of range: '256'/],
    ['removebadblock 1 2', /unrecognized message/],
    ['enable 1', /unrecognized message 'enable 1' received/],
    ['explode', /unrecognized message 'explode' received/],
  ];
  for (const [text, message] of refused) {
    await assert.rejects(lab.dm.message('d', 0, text), { name: 'DmError', message });
  }
  const tables: readonly (readonly [string, RegExp])[] = [
    ['test:a 8', /dust: Invalid argument count: 2/],
    ['test:a 8 0', /Invalid block size parameter: '0'/],
    ['test:a 8 256', /Block size must be at least 512: found 256/],
    ['test:a 8 1536', /Block size must be a power of 2: found 1536/],
    ['test:a q 512', /Invalid device offset sector: 'q'/],
  ];
  for (const [words, message] of tables) {
    const table = `0 32 dust ${words}`;
    await assert.rejects(lab.dm.create({ name: 'x', table }), { name: 'DmError', message });
  }
  await lab.dm.close();
});
