// The end of a server, step by step, on a clock that stands still.

import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { test } from 'node:test';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { StandingClock } from '../testing/standing-clock.ts';
import { type Closable, Ending, Interrupted } from './ending.ts';
import { WrongCall } from './errors.ts';

const GRACE_MS = 5000;

function make() {
  const clock = new StandingClock();
  const signals = new EventEmitter();
  const logged: string[] = [];
  const exits: number[] = [];
  const events: string[] = [];
  const told: [number, string][] = [];
  const ending = new Ending({
    graceMs: GRACE_MS,
    clock,
    signals,
    log: (line) => void logged.push(line),
    exit: (status) => void exits.push(status),
  });
  ending.onExit((...end) => void told.push(end));
  const closable = (name: string, end: Promise<void> = Promise.resolve()): Closable => ({
    close: async () => {
      events.push(`close ${name}`);
      await end;
    },
    abandon: () => void events.push(`abandon ${name}`),
  });
  return { clock, signals, logged, exits, events, told, ending, closable };
}

/** Lets promises move; nothing here waits for anything else. */
async function settle(): Promise<void> {
  for (let i = 0; i < 30; i++) await Promise.resolve();
}

function gate(): { readonly promise: Promise<void>; open(): void; fail(error: Error): void } {
  let open = (): void => undefined;
  let fail = (_error: Error): void => undefined;
  const promise = new Promise<void>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open: () => open(), fail: (error) => fail(error) };
}

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGPWR']) {
  test(`${signal} closes what is held, the newest first, and exits 0`, async () => {
    const t = make();
    await t.ending.run(async () => {
      await t.ending.hold(t.closable('a'));
      await t.ending.hold(t.closable('b'));
    });
    t.signals.emit(signal);
    await settle();
    assert.deepEqual(t.events, ['close b', 'close a']);
    assert.deepEqual(t.exits, [0]);
    assert.deepEqual(t.told, [[0, '']]);
    assert.deepEqual(t.logged, []);
    assert.equal(t.clock.timerCount, 0);
  });
}

test('signals that mean nothing to a server end nothing', async () => {
  const t = make();
  await t.ending.run(async () => await t.ending.hold(t.closable('a')));
  for (const signal of ['SIGUSR1', 'SIGUSR2', 'SIGPIPE', 'SIGALRM', 'SIGXFSZ']) {
    assert.ok(t.signals.emit(signal), `${signal} has a listener`);
  }
  await settle();
  assert.deepEqual([t.events, t.exits], [[], []]);
});

test('what fails to close is told, the rest is closed all the same, and the exit is 1', async () => {
  const t = make();
  const bad = gate();
  await t.ending.run(async () => {
    await t.ending.hold(t.closable('a'));
    await t.ending.hold(t.closable('bad', bad.promise));
  });
  t.signals.emit('SIGTERM');
  bad.fail(new DmError(Status.Io, 'device d: flush of x: EIO'));
  await settle();
  assert.deepEqual(t.events, ['close bad', 'close a']);
  const why = 'device d: flush of x: EIO';
  assert.deepEqual(t.logged, [why, `exit status 1: ${why}`]);
  assert.deepEqual(t.exits, [1]);
  assert.deepEqual(t.told, [[1, why]]);
});

test('a second signal right behind the first is the same wish; a later one ends at once', async () => {
  const t = make();
  const stuck = gate();
  t.ending.onQuestion(() => Promise.resolve(['devices d']));
  await t.ending.run(async () => {
    await t.ending.hold(t.closable('folder'));
    await t.ending.hold(t.closable('plane', stuck.promise));
  });
  t.signals.emit('SIGINT');
  await settle();
  t.clock.advance(199);
  t.signals.emit('SIGTERM');
  await settle();
  assert.deepEqual(t.exits, []);
  t.clock.advance(2);
  t.signals.emit('SIGTERM');
  await settle();
  assert.deepEqual(t.logged, [
    'SIGTERM: ending at once',
    'not flushed: devices d',
    'exit status 1: not flushed: devices d',
  ]);
  assert.deepEqual(t.events, ['close plane', 'abandon plane', 'abandon folder']);
  assert.deepEqual(t.exits, [1]);
  stuck.open();
  t.clock.advance(GRACE_MS);
  await settle();
  assert.deepEqual(t.exits, [1], 'once');
});

test('an end that takes long says so after a second, and is given up when the grace is over', async () => {
  const t = make();
  // A data plane that is stuck does not even say what it waits for.
  t.ending.onQuestion(() => new Promise(() => undefined));
  await t.ending.run(async () => await t.ending.hold(t.closable('plane', gate().promise)));
  t.signals.emit('SIGTERM');
  for (let ms = 0; ms <= GRACE_MS + 1000; ms += 250) {
    await settle();
    t.clock.advance(250);
  }
  await settle();
  assert.deepEqual(t.logged, [
    'SIGTERM: ending takes a while: the data plane does not answer',
    'not everything could be ended in 5 s (--grace)',
    'not flushed: the data plane does not answer',
    'exit status 1: not flushed: the data plane does not answer',
  ]);
  assert.deepEqual(t.exits, [1]);
});

test('a start that fails closes what it had, says why, and exits with the status of its error', async () => {
  for (const [error, status] of [
    [invalid('device x: no such file'), 1],
    [new WrongCall('serve: give one of them'), 2],
  ] as const) {
    const t = make();
    await t.ending.run(async () => {
      await t.ending.hold(t.closable('a'));
      throw error;
    });
    await settle();
    assert.deepEqual([t.events, t.logged, t.exits], [['close a'], [error.message], [status]]);
    assert.deepEqual(t.told, [[status, error.message]]);
  }
});

test('a signal during the start: what comes later is closed at once, and the start says nothing more', async () => {
  const t = make();
  const slow = gate();
  let thrown: unknown;
  void t.ending.run(async () => {
    await t.ending.hold(t.closable('plane'));
    await slow.promise;
    try {
      await t.ending.hold(t.closable('listener'));
    } catch (error) {
      thrown = error;
      throw error;
    }
  });
  await settle();
  t.signals.emit('SIGTERM');
  await settle();
  assert.deepEqual(
    [t.events, t.exits],
    [['close plane'], []],
    'the start may still make something',
  );
  slow.open();
  await settle();
  assert.ok(thrown instanceof Interrupted);
  assert.deepEqual(t.events, ['close plane', 'close listener']);
  assert.deepEqual([t.logged, t.exits], [[], [0]]);
});

test('a start that never comes back does not hold up the end', async () => {
  const t = make();
  void t.ending.run(() => new Promise(() => undefined));
  t.signals.emit('SIGTERM');
  await settle();
  t.clock.advance(3000);
  await settle();
  assert.deepEqual(t.exits, [0]);
});

test('a bug is told with its stack and leaves no socket behind', async () => {
  const t = make();
  await t.ending.run(async () => await t.ending.hold(t.closable('listener')));
  t.signals.emit('uncaughtException', new Error('boom'));
  assert.equal(t.logged[0], 'boom');
  assert.match(t.logged.join('\n'), /at .*ending\.test/);
  assert.deepEqual([t.events, t.exits], [['abandon listener'], [1]]);
});
