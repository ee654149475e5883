// The catalog of exports: names, two at once, removal by force, and ends that fail.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Timer } from '../base/clock.ts';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import { Arena, NONE } from '../io/arena.ts';
import { ExportCatalog } from './catalog.ts';
import type { ExportUser, OpenDevice } from './export.ts';

/** Devices that count who holds them open, as the device mapper does. */
class Devices {
  readonly held = new Map<string, number>();
  readonly closed: string[] = [];
  /** When set, an open waits for this. */
  gate: Promise<void> = Promise.resolve();
  failClose: string | undefined;
  readonly lines: string[] = [];
  /** Lets the time of whatever waits be over. */
  timeIsUp: () => void = () => {};
  readonly after = (_delayMs: number, fire: () => void): Timer => {
    this.timeIsUp = fire;
    return { cancel: () => {} };
  };
  readonly #devices = new Map<string, BlockDevice>();

  get(name: string): BlockDevice {
    let device = this.#devices.get(name);
    if (device === undefined) {
      device = {
        name,
        lenSectors: 16,
        isReadOnly: false,
        limits: { logicalBlockBytes: 512, physicalBlockBytes: 4096, maxDiscardSectors: 0 },
      } as BlockDevice;
      this.#devices.set(name, device);
    }
    return device;
  }

  async open(name: string): Promise<OpenDevice> {
    await this.gate;
    if (name === 'none') throw new DmError(Status.NoDevice, 'no such device');
    this.held.set(name, (this.held.get(name) ?? 0) + 1);
    return {
      device: this.get(name),
      close: () => {
        this.held.set(name, (this.held.get(name) ?? 0) - 1);
        this.closed.push(name);
        if (this.failClose === name) throw new DmError(Status.Io, `${name}: flush failed`);
      },
    };
  }
}

function make(): { devices: Devices; catalog: ExportCatalog; arena: Arena } {
  const devices = new Devices();
  const arena = new Arena(1 << 20);
  const catalog = new ExportCatalog({
    arena,
    clock: { nowMs: () => 0, after: devices.after },
    log: (line) => devices.lines.push(line),
    openDevice: (name) => devices.open(name),
  });
  return { devices, catalog, arena };
}

function refused(promise: Promise<unknown>, status: Status, text: RegExp): Promise<void> {
  return assert.rejects(promise, (error) => {
    assert.ok(error instanceof DmError, String(error));
    assert.equal(error.status, status);
    assert.match(error.message, text);
    return true;
  });
}

test('an exclusive export is alone: others cannot write as long as it has its client', async () => {
  const { catalog, devices } = make();
  const user: ExportUser = { end: () => Promise.resolve() };
  await catalog.create({ name: 'old', device: 'd' });
  const old = catalog.find('old');
  assert.ok(old !== undefined);
  old.attach(user);
  const alone = { name: 'alone', device: 'd', isExclusive: true };
  await refused(
    catalog.create(alone),
    Status.Busy,
    /device d: is in use; export 'old' has clients/,
  );
  old.detach(user);
  await catalog.create({ name: 'elsewhere', device: 'e' });
  await catalog.create(alone);
  // From the beginning, and behind a later one as well.
  await catalog.create({ name: 'new', device: 'd' });
  assert.deepEqual([old.isReadOnly, old.info().isReadOnly], [true, true]);
  assert.equal(catalog.find('new')?.isReadOnly, true);
  assert.equal(catalog.find('elsewhere')?.isReadOnly, false);
  assert.equal(catalog.find('alone')?.isReadOnly, false);
  assert.equal(catalog.holderOf(devices.get('d')), 'alone');
  await refused(
    catalog.create({ ...alone, name: 'second' }),
    Status.Busy,
    /is in use; export 'alone' has clients/,
  );
  assert.equal(devices.held.get('d'), 3);
  catalog.find('alone')?.attach(user);
  assert.equal(old.isReadOnly, true);
  // A client that was killed leaves its export and holds nothing.
  catalog.find('alone')?.detach(user);
  assert.equal(old.isReadOnly, false);
  assert.equal(catalog.holderOf(devices.get('d')), undefined);
  await catalog.close();
});

test('an export shows its device, its size and its users', async () => {
  const { catalog, devices } = make();
  assert.deepEqual(await catalog.create({ name: 'x', device: 'd', description: 'a disk' }), {
    name: 'x',
    device: 'd',
    description: 'a disk',
    isReadOnly: false,
    sizeBytes: 8192,
    blockBytes: 512,
    connections: 0,
  });
  const user: ExportUser = { end: () => Promise.resolve() };
  catalog.find('x')?.attach(user);
  assert.equal(catalog.list()[0]?.status().connections, 1);
  (devices.get('d') as { name: string }).name = 'renamed';
  assert.equal(catalog.list()[0]?.status().device, 'renamed', 'it belongs to the device');
});

test('exports of one device share a gate, others do not', async () => {
  const { catalog } = make();
  for (const [name, device] of [
    ['a', 'd'],
    ['b', 'd'],
    ['c', 'e'],
  ] as const) {
    await catalog.create({ name, device });
  }
  const [a, b, c] = catalog.list();
  assert.equal(a?.gate, b?.gate);
  assert.notEqual(a?.gate, c?.gate);
});

test('names are checked, and shown escaped', async () => {
  const { catalog, devices } = make();
  await refused(
    catalog.create({ name: 'a\u001b[2J', device: 'd' }),
    Status.Invalid,
    /^export name 'a\\x1b\[2J': has the control character/,
  );
  await refused(catalog.create({ name: 'a ', device: 'd' }), Status.Invalid, /a blank/);
  const long = 'ä'.repeat(2049);
  await refused(catalog.create({ name: long, device: 'd' }), Status.Invalid, /4098 bytes/);
  await refused(
    catalog.create({ name: 'a', device: 'd', description: long }),
    Status.Invalid,
    /^export 'a': description: 4098 bytes; the limit is 4096/,
  );
  assert.equal(devices.held.size, 0, 'no device was opened');
  await catalog.create({ name: '', device: 'd' });
  await catalog.create({ name: 'ä'.repeat(2048), device: 'd' });
});

test('of two creates of one name at once exactly one wins, and one device is held', async () => {
  const { catalog, devices } = make();
  let open: (() => void) | undefined;
  devices.gate = new Promise((resolve) => {
    open = resolve;
  });
  const both = ['d', 'e'].map((device) => catalog.create({ name: 'x', device }));
  open?.();
  const results = await Promise.allSettled(both);
  assert.deepEqual(
    results.map((r) => r.status),
    ['fulfilled', 'rejected'],
  );
  await refused(both[1] as Promise<unknown>, Status.Exists, /'x': exists already/);
  assert.deepEqual([...devices.held], [['d', 1]]);
});

test('a create that fails leaves the name free', async () => {
  const { catalog } = make();
  await refused(catalog.create({ name: 'x', device: 'none' }), Status.NoDevice, /no such device/);
  await catalog.create({ name: 'x', device: 'd' });
});

test('an export in use is busy; by force its users end before its device is let go', async () => {
  const { catalog, devices } = make();
  await catalog.create({ name: 'x', device: 'd' });
  const found = catalog.find('x');
  assert.ok(found !== undefined);
  const order: string[] = [];
  const user: ExportUser = {
    end: async () => {
      await Promise.resolve();
      order.push(`ended, device held ${devices.held.get('d')}`);
      found.detach(user);
    },
  };
  found.attach(user);
  await refused(catalog.remove('x'), Status.Busy, /1 connections use it/);
  await catalog.remove('x', true);
  assert.deepEqual(order, ['ended, device held 1']);
  assert.equal(devices.held.get('d'), 0);
  await refused(catalog.remove('x'), Status.NoEntry, /'x': no such export; there are none/);
});

test('at the end every device is let go, also behind one that fails', async () => {
  const { catalog, devices } = make();
  for (const name of ['a', 'b', 'c']) await catalog.create({ name, device: name });
  devices.failClose = 'a';
  await refused(catalog.close(), Status.Io, /a: flush failed/);
  assert.deepEqual(devices.closed, ['a', 'b', 'c']);
  await refused(catalog.create({ name: 'late', device: 'd' }), Status.ShuttingDown, /is ending/);
  assert.equal(devices.held.get('d'), 0, 'what was opened for the late one is closed');
});

test('a flush of a client that failed is an error at the end, whatever became of its export', async () => {
  for (const isRemoved of [false, true]) {
    const { catalog } = make();
    await catalog.create({ name: 'x', device: 'd' });
    await catalog.create({ name: 'y', device: 'e' });
    catalog.find('x')?.flushFailed(Status.NoSpace);
    catalog.find('x')?.flushFailed(Status.Io);
    if (isRemoved) await catalog.remove('x');
    await refused(
      catalog.close(),
      Status.NoSpace,
      /^device d: a flush by a client of export 'x' failed \(No space left on device\)/,
    );
  }
});

test('the buffer of a gate is taken with its first export and given back with its last', async () => {
  const { catalog, devices, arena } = make();
  await catalog.create({ name: 'a', device: 'd' });
  const used = arena.usedBytes;
  assert.ok(used > 0);
  await catalog.create({ name: 'b', device: 'd' });
  assert.equal(arena.usedBytes, used);
  await catalog.remove('a');
  assert.equal(arena.usedBytes, used);
  await catalog.remove('b');
  assert.equal(arena.usedBytes, 0);
  while (arena.tryAlloc(4096) !== NONE);
  await refused(catalog.create({ name: 'a', device: 'd' }), Status.NoMemory, /--buffer/);
  assert.equal(devices.held.get('d'), 0, 'the device is let go');
});

test('a removal by force does not wait for ever for I/O that its device holds', async () => {
  const { catalog, devices } = make();
  await catalog.create({ name: 'x', device: 'd' });
  const found = catalog.find('x');
  assert.ok(found !== undefined);
  let ioEnds: () => void = () => {};
  const user: ExportUser = {
    end: () =>
      new Promise((resolve) => {
        ioEnds = () => {
          found.detach(user);
          resolve();
        };
      }),
  };
  found.attach(user);
  const removed = catalog.remove('x', true);
  devices.timeIsUp();
  await removed;
  assert.equal(catalog.find('x'), undefined);
  assert.equal(devices.held.get('d'), 1, 'held until its I/O has ended');
  devices.failClose = 'd';
  ioEnds();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(devices.held.get('d'), 0);
  assert.match(devices.lines.join(), /export 'x', removed before: d: flush failed/);
});
