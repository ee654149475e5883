import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { MIB } from '../../base/units.ts';
import { Arena } from '../../io/arena.ts';
import { IovList } from '../../io/engine.ts';
import { Scheduler } from './scheduler.ts';
import { SimSocket } from './socket.ts';

test('a reset takes along what the server sent before it closed its end', async () => {
  const arena = new Arena(MIB);
  const mem = arena.tryAlloc(4096);
  for (let seed = 1; seed <= 50; seed++) {
    const scheduler = new Scheduler(new Prng(seed));
    const socket = new SimSocket(arena, scheduler, new Prng(seed), assert.fail);
    const heard: string[] = [];
    socket.connect({ received: () => heard.push('bytes'), ended: () => heard.push('the end') });
    const iov = new IovList();
    iov.add(mem, 16);
    await scheduler.settle(
      new Promise<void>((resolve) => {
        socket.send(iov, { ioDone: () => resolve() }, {});
        socket.widen();
      }),
    );
    socket.close();
    heard.length = 0;
    socket.reset();
    await scheduler.settle(new Promise<void>((resolve) => void scheduler.after(100, resolve)));
    assert.deepEqual(heard, [], `seed ${seed}`);
  }
});
