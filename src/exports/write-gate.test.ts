// The write gate: who is inside with whom, that everybody gets in, and that nobody inside needs memory.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { Arena, NONE } from '../io/arena.ts';
import { SEED } from '../testing/seed.ts';
import { GATE_BLOCK_BYTES, WriteGate } from './write-gate.ts';

const MIB = 1 << 20;

function makeGate(arena = new Arena(MIB)): WriteGate {
  const gate = WriteGate.tryMake(arena);
  assert.ok(gate !== undefined);
  return gate;
}

/** Writers of one gate as a model sees them: who is inside, who waits. */
class Room {
  readonly gate = makeGate();
  readonly inside: { readonly id: number; readonly isExclusive: boolean }[] = [];
  readonly entered: number[] = [];
  waiting = 0;

  come(id: number, isExclusive: boolean, isBrief = false): void {
    const enter = (): void => {
      this.inside.push({ id, isExclusive });
      this.entered.push(id);
      const exclusive = this.inside.filter((w) => w.isExclusive).length;
      assert.ok(exclusive === 0 || this.inside.length === 1, `${id} shares with who is alone`);
      // Ends while it is being let in, as a write to memory does.
      if (isBrief) this.leave(id);
    };
    this.waiting++;
    const waiter = {
      gateEntered: () => {
        this.waiting--;
        enter();
      },
    };
    if (this.gate.enter(waiter, isExclusive)) waiter.gateEntered();
  }

  leave(id: number): void {
    const at = this.inside.findIndex((w) => w.id === id);
    this.inside.splice(at, 1);
    this.gate.leave();
  }
}

test('whoever is alone is alone, all get in, in the order they came', () => {
  const rng = new Prng(SEED);
  const what = `LAMINA_SEED=${SEED}`;
  for (let round = 0; round < 50; round++) {
    const room = new Room();
    let came = 0;
    for (let step = 0; step < 200; step++) {
      if (rng.chance(0.5)) room.come(came++, rng.chance(0.3), rng.chance(0.3));
      else if (room.inside.length > 0) {
        room.leave(room.inside[rng.below(room.inside.length)]?.id as number);
      }
      assert.ok(room.waiting === 0 || room.inside.length > 0, `${what}: waits for nobody`);
    }
    while (room.inside.length > 0) room.leave(room.inside[0]?.id as number);
    assert.equal(room.waiting, 0, what);
    assert.deepEqual(
      room.entered,
      Array.from({ length: came }, (_, i) => i),
      what,
    );
    room.gate.close();
  }
});

test('ten thousand who wait take their turns in a moment', () => {
  const room = new Room();
  room.come(0, true);
  for (let i = 1; i <= 10_000; i++) room.come(i, i % 7 === 0, true);
  room.leave(0);
  assert.equal(room.entered.length, 10_001);
});

test('the block of a gate is taken with it, given back with it, and missed at once', () => {
  const arena = new Arena(MIB);
  const gate = makeGate(arena);
  assert.equal(arena.usedBytes, GATE_BLOCK_BYTES);
  gate.close();
  assert.equal(arena.usedBytes, 0);
  while (arena.tryAlloc(4096) !== NONE);
  assert.equal(WriteGate.tryMake(arena), undefined);
});
