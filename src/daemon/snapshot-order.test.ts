// After a restart an origin is there only behind all of its snapshots.

import assert from 'node:assert/strict';
import { renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FaultyFiles } from '../testing/faulty-files.ts';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { StandingClock } from '../testing/standing-clock.ts';
import { createPlane } from './create-plane.ts';
import { Daemon } from './daemon.ts';
import type { Plane } from './plane.ts';
import { parseState } from './state-file.ts';
import { StateStore } from './state-store.ts';

const STATE = '/state/state.json';
const SECTORS = 2048;

interface Place {
  readonly path: string;
  readonly files: FaultyFiles;
  readonly base: string;
  readonly cow: (name: string) => string;
}

async function inPlace(use: (place: Place) => Promise<void>): Promise<void> {
  const folder = makeTestFolder();
  const file = (name: string): string => {
    const path = join(folder.path, name);
    writeFileSync(path, '');
    truncateSync(path, SECTORS * 512);
    return path;
  };
  try {
    const base = file('base');
    const cows = new Map(['mon', 'tue'].map((name) => [name, file(`${name}.cow`)]));
    const cow = (name: string): string => cows.get(name) ?? '';
    await use({ path: folder.path, files: new FaultyFiles(), base, cow });
  } finally {
    folder.remove();
  }
}

async function withDaemon(
  { files }: Place,
  use: (d: Daemon) => Promise<void>,
  wrap = (plane: Plane): Plane => plane,
): Promise<void> {
  const plane = await createPlane({
    engine: 'node',
    bufferBytes: 8 << 20,
    pollMs: 0,
    bareWordsAreDevices: true,
  });
  try {
    const daemon = await Daemon.start({
      plane: wrap(plane),
      store: new StateStore(STATE, files),
      log: () => undefined,
      stop: () => undefined,
      clock: new StandingClock(),
    });
    await use(daemon);
    await daemon.end();
  } finally {
    await plane.shutdown();
  }
}

function snapshotTable({ base, cow }: Place, name: string, kind = 'P'): string {
  return `0 ${SECTORS} snapshot ${base} ${cow(name)} ${kind} 16`;
}

/** An origin with an export and a device on top, and snapshots of it. */
async function makeAll(d: Daemon, place: Place, ...names: readonly string[]): Promise<void> {
  const { base } = place;
  await d.run('create', [{ name: 'vol', table: `0 ${SECTORS} snapshot-origin ${base}` }]);
  await d.run('create', [{ name: 'top', table: `0 ${SECTORS} linear vol 0` }]);
  await d.run('createExport', [{ name: 'vol', device: 'vol' }]);
  for (const name of names) await d.run('create', [{ name, table: snapshotTable(place, name) }]);
}

function missing(d: Daemon): string[] {
  return d.missing().map(({ kind, name }) => `${kind} ${name}`);
}

test('an origin comes back when the last of its snapshots has, however long that takes', async () => {
  await inPlace(async (place) => {
    await withDaemon(place, async (d) => await makeAll(d, place, 'mon', 'tue'));
    const order: string[] = [];
    const slow = (plane: Plane): Plane => ({
      ...plane,
      create: async (options) => {
        if (options.name === 'tue') await new Promise((resolve) => setTimeout(resolve, 50));
        order.push(`begin ${options.name}`);
        const info = await plane.create(options);
        order.push(`end ${options.name}`);
        return info;
      },
    });
    const use = async (d: Daemon): Promise<void> => {
      assert.deepEqual(missing(d), []);
      assert.equal((await d.run('status', ['tue', undefined]))[0]?.params, `32/${SECTORS} 32`);
      assert.equal((await d.run('listExports', []))[0]?.state, 'ACTIVE');
      await Promise.resolve();
    };
    await withDaemon(place, use, slow);
    for (const name of ['mon', 'tue']) {
      const isBefore = order.indexOf(`end ${name}`) < order.indexOf('begin vol');
      assert.ok(isBefore, order.join(', '));
    }
  });
});

test('an origin whose snapshot cannot be opened stays away until that is back, or given up', async () => {
  for (const isGivenUp of [false, true]) {
    await inPlace(async (place) => {
      await withDaemon(place, async (d) => await makeAll(d, place, 'mon', 'tue'));
      const away = join(place.path, 'away');
      renameSync(place.cow('mon'), away);
      await withDaemon(place, async (d) => {
        const all = ['device mon', 'device top', 'device vol', 'export vol'];
        assert.deepEqual(missing(d).toSorted(), all);
        const { reason = '' } = await d.run('info', ['vol']);
        assert.match(
          reason,
          /^snapshot mon is missing: .*mon\.cow.*would spoil it.*: lamina remove mon$/,
        );
        const top = await d.run('info', ['top']);
        assert.match(top.reason ?? '', /vol is missing: snapshot mon is missing/);
        assert.equal((await d.run('info', ['tue'])).state, 'ACTIVE');
        await d.run('retry', [undefined]);
        assert.deepEqual(missing(d).toSorted(), all);
        // Nor by another name.
        const other = { name: 'other', table: `0 8 snapshot-origin ${place.base}` };
        await assert.rejects(
          d.run('create', [other]),
          /^\w*Error: device other: snapshot mon is missing/,
        );
        await d.run('create', [{ name: 'free', table: '0 8 zero' }]);
        await d.run('load', ['free', other.table, undefined]);
        await assert.rejects(d.run('resume', ['free']), /device free: snapshot mon is missing/);
        await d.run('clear', ['free']);
        if (isGivenUp) {
          await d.run('remove', ['mon', undefined]);
          const state = parseState(STATE, place.files.contents.get(STATE)?.toString() ?? '');
          assert.ok(!state.devices.some(({ name }) => name === 'mon'));
        } else {
          renameSync(away, place.cow('mon'));
          await d.run('retry', ['mon']);
        }
        assert.deepEqual(missing(d), []);
        assert.equal((await d.run('listExports', []))[0]?.state, 'ACTIVE');
      });
    });
  }
});

test('a merge waits for the other snapshots, and an origin for none that is transient', async () => {
  await inPlace(async (place) => {
    const merge = snapshotTable(place, 'mon').replace('snapshot', 'snapshot-merge');
    await withDaemon(place, async (d) => {
      await makeAll(d, place, 'mon', 'tue');
      await d.run('suspend', ['mon', undefined]);
      await d.run('load', ['vol', merge, undefined]);
      await d.run('resume', ['vol']);
    });
    renameSync(place.cow('tue'), join(place.path, 'away'));
    await withDaemon(place, async (d) => {
      assert.match((await d.run('info', ['vol'])).reason ?? '', /^snapshot tue is missing/);
      await d.run('remove', ['tue', undefined]);
      assert.deepEqual(missing(d), []);
      assert.equal((await d.run('info', ['mon'])).state, 'SUSPENDED');
    });
  });
  await inPlace(async (place) => {
    await withDaemon(place, async (d) => {
      await makeAll(d, place);
      await d.run('create', [{ name: 'mon', table: snapshotTable(place, 'mon', 'N') }]);
    });
    renameSync(place.cow('mon'), join(place.path, 'away'));
    await withDaemon(place, async (d) => {
      await Promise.resolve();
      assert.deepEqual(missing(d), ['device mon']);
    });
  });
});
