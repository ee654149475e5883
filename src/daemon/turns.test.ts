import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Turns } from './turns.ts';

interface Held {
  readonly promise: Promise<void>;
  readonly release: () => void;
}

function held(): Held {
  let release = (): void => undefined;
  const promise = new Promise<void>((resolve) => {
    release = resolve;
  });
  return { promise, release };
}

test('what concerns one thing goes in order; what concerns another does not wait', async () => {
  const turns = new Turns();
  const order: string[] = [];
  const first = held();
  const a1 = turns.take(['a'], async () => {
    await first.promise;
    order.push('a1');
  });
  const both = turns.take(['b', 'a'], async () => void order.push(await Promise.resolve('both')));
  const b2 = turns.take(['b'], async () => void order.push(await Promise.resolve('b2')));
  await turns.take(['c'], async () => void order.push(await Promise.resolve('c')));
  assert.deepEqual(order, ['c']);
  first.release();
  await Promise.all([a1, both, b2]);
  assert.deepEqual(order, ['c', 'a1', 'both', 'b2']);
  await turns.idle();
  assert.equal(turns.isTaken('a'), false);
});

test('who gives up in line goes at once, and those behind still wait for those before', async () => {
  const turns = new Turns();
  const order: string[] = [];
  const first = held();
  const running = turns.take(['a'], async () => {
    await first.promise;
    order.push('first');
  });
  const abandon = new AbortController();
  const gone = turns.take(['a'], () => assert.fail('its turn came'), abandon.signal);
  const last = turns.take(['a'], async () => void order.push(await Promise.resolve('last')));
  abandon.abort();
  await assert.rejects(gone, /given up before it began/);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order, []);
  first.release();
  await Promise.all([running, last]);
  assert.deepEqual(order, ['first', 'last']);
});

test('work that fails is no obstacle', async () => {
  const turns = new Turns();
  await assert.rejects(
    turns.take(['a'], () => Promise.reject(new Error('no'))),
    /no/,
  );
  assert.equal(await turns.take(['a'], () => Promise.resolve(7)), 7);
});
