// What tables share: opened once, closed behind the last, never two at a time.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BlockDevice } from '../bio/device.ts';
import { type Shared, ShareKind, Shares } from './shares.ts';

class Thing implements Shared {
  readonly said: string[];
  readonly gate: Promise<void>;
  failure: Error | null = null;

  constructor(said: string[], gate: Promise<void> = Promise.resolve()) {
    this.said = said;
    this.gate = gate;
  }

  async abandon(): Promise<void> {
    this.said.push('abandon');
    await this.gate;
    this.said.push('abandoned');
  }

  async close(): Promise<void> {
    this.said.push('close');
    await this.gate;
    this.said.push('closed');
    if (this.failure !== null) throw this.failure;
  }
}

const THING = new ShareKind<Thing>('thing');
const OTHER = new ShareKind<Thing>('other');
const KEY = { name: 'key' } as BlockDevice;

function gate(): { readonly opens: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const opens = new Promise<void>((resolve) => (open = resolve));
  return { opens, open: () => open() };
}

function opener(said: string[], until?: Promise<void>): () => Promise<Thing> {
  return async () => {
    said.push('open');
    return await Promise.resolve(new Thing(said, until));
  };
}

test('all providers have one object, which is closed behind the last user', async () => {
  const shares = new Shares();
  const said: string[] = [];
  const [a, b] = await Promise.all([
    shares.provide(THING, KEY, opener(said)),
    shares.provide(THING, KEY, opener(said)),
  ]);
  assert.equal(a.object, b.object);
  const other = await shares.provide(OTHER, KEY, opener(said));
  assert.notEqual(other.object, a.object);
  await a.close();
  await a.close();
  assert.deepEqual(said, ['open', 'open']);
  await b.close();
  assert.deepEqual(said, ['open', 'open', 'close', 'closed']);
  await other.close();
  assert.equal(shares.size, 0);
});

test('nobody gets the key before closing has ended, and then a new object', async () => {
  const shares = new Shares();
  const said: string[] = [];
  const { opens, open } = gate();
  const first = await shares.provide(THING, KEY, opener(said, opens));
  const closing = first.close();
  const again = shares.provide(THING, KEY, opener(said));
  await new Promise(setImmediate);
  assert.deepEqual(said, ['open', 'close']);
  open();
  await closing;
  const second = await again;
  assert.notEqual(second.object, first.object);
  assert.deepEqual(said, ['open', 'close', 'closed', 'open']);
  await second.close();
  assert.equal(shares.size, 0);
});

test('an object without providers is abandoned, then closed behind its last user', async () => {
  const shares = new Shares();
  const said: string[] = [];
  const { opens, open } = gate();
  const provider = await shares.provide(THING, KEY, opener(said, opens));
  const user = provider.use();
  const abandoning = provider.close();
  // The user goes while it is being abandoned; somebody new comes as well.
  const closing = user.close();
  const again = shares.provide(THING, KEY, opener(said));
  open();
  await Promise.all([abandoning, closing]);
  const next = await again;
  assert.deepEqual(said, ['open', 'abandon', 'abandoned', 'close', 'closed', 'open']);
  await next.close();
  assert.equal(shares.size, 0);
});

test('an object that was abandoned is none for others, and is closed beside the new one', async () => {
  const shares = new Shares();
  const said: string[] = [];
  const provider = await shares.provide(THING, KEY, opener(said));
  const user = provider.use();
  await provider.close();
  const next = await shares.provide(THING, KEY, opener(said));
  assert.notEqual(next.object, user.object);
  await user.close();
  assert.equal(shares.size, 1, 'the new one stays');
  await next.close();
  assert.equal(shares.size, 0);
});

test('an open or a close that fails leaves nothing in the way', async () => {
  const shares = new Shares();
  const said: string[] = [];
  const refuse = async (): Promise<Thing> => await Promise.reject(new Error('refused'));
  const both = [shares.provide(THING, KEY, refuse), shares.provide(THING, KEY, refuse)];
  for (const one of both) await assert.rejects(one, /refused/);
  assert.equal(shares.size, 0);
  const share = await shares.provide(THING, KEY, opener(said));
  (share.object as Thing).failure = new Error('lost');
  await assert.rejects(share.close(), /lost/);
  assert.equal(shares.size, 0);
});
