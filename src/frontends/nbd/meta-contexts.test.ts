// Metadata contexts by name: what is listed, and what can be selected.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { madeUpExport } from '../../testing/nbd-raw.ts';
import { listContexts, selectContexts } from './meta-contexts.ts';

const PLAIN = madeUpExport('x', {});
const THIN = madeUpExport('x', { bases: ['mon', 'qemu:x'] });
const OF_MON = ['lamina:diff:mon', 'qemu:dirty-bitmap:mon'];
const OF_X = ['lamina:diff:qemu:x', 'qemu:dirty-bitmap:qemu:x'];

test('a namespace lists what is in it, no query lists everything', () => {
  assert.deepEqual(listContexts(PLAIN, []), ['base:allocation']);
  assert.deepEqual(listContexts(THIN, []), ['base:allocation', ...OF_MON, ...OF_X]);
  assert.deepEqual(listContexts(THIN, ['qemu:']), [OF_MON[1], OF_X[1]]);
  assert.deepEqual(listContexts(THIN, ['qemu:dirty-bitmap:']), [OF_MON[1], OF_X[1]]);
  assert.deepEqual(listContexts(THIN, ['lamina:diff:mon', 'base:']), [
    'base:allocation',
    OF_MON[0],
  ]);
  assert.deepEqual(listContexts(THIN, ['qemu:dirty', 'other:x']), []);
});

test('only whole names select; each has an id of its own and the device it is about', () => {
  assert.deepEqual(selectContexts(THIN, ['qemu:', 'qemu:dirty-bitmap:tue', 'lamina:diff:']), []);
  assert.deepEqual(selectContexts(THIN, ['qemu:dirty-bitmap:qemu:x', 'base:allocation']), [
    { id: 1, name: 'base:allocation', base: undefined },
    { id: 2, name: 'qemu:dirty-bitmap:qemu:x', base: 'qemu:x' },
  ]);
  const bases = Array.from({ length: 40 }, (_, i) => `s${i}`);
  const all = bases.map((base) => `lamina:diff:${base}`);
  assert.equal(selectContexts(madeUpExport('x', { bases }), all).length, 16);
});
