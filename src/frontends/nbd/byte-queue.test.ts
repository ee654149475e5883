import assert from 'node:assert/strict';
import { it } from 'node:test';
import * as fc from 'fast-check';
import { ByteQueue } from './byte-queue.ts';

it('a byte queue gives back what went in, in order (property)', () => {
  const command = fc.oneof(
    fc.record({ kind: fc.constant('append' as const), bytes: fc.uint8Array({ maxLength: 900 }) }),
    fc.record({ kind: fc.constantFrom('take' as const, 'skip' as const), part: fc.nat(100) }),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 60 }), (commands) => {
      const queue = new ByteQueue();
      let model = Buffer.alloc(0);
      for (const c of commands) {
        if (c.kind === 'append') {
          queue.append(c.bytes);
          model = Buffer.concat([model, c.bytes]);
        } else {
          const count = Math.floor((model.length * c.part) / 100);
          if (c.kind === 'take') assert.deepEqual(queue.take(count), model.subarray(0, count));
          else assert.equal(queue.skip(count), count);
          model = model.subarray(count);
        }
        assert.equal(queue.lenBytes, model.length);
      }
      assert.equal(queue.skip(model.length + 1), model.length);
    }),
  );
});

it('what was taken stays as it is when more comes', () => {
  const queue = new ByteQueue();
  queue.append(Buffer.from('first'));
  const first = queue.take(5);
  for (let i = 0; i < 400; i++) queue.append(Buffer.from('second'));
  assert.equal(first.toString(), 'first');
});
