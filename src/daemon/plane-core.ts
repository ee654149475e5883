// The data plane itself: an engine, a device mapper and the exports over it. Runs where the engine runs,
// and is called by method name with plain data, so that a message port can be in between.

import type { Duplex } from 'node:stream';
import { assert } from '../base/assert.ts';
import { LineLog } from '../base/line-log.ts';
import { printable } from '../base/names.ts';
import { openBackend } from '../backends/open.ts';
import type { DmControl } from '../dm/control.ts';
import type { OpenBackend } from '../dm/backend-shares.ts';
import { DeviceMapper } from '../dm/device-mapper.ts';
import { ExportCatalog } from '../exports/catalog.ts';
import type { Agreement, FrontEnd } from '../exports/front-end.ts';
import { TransmissionServer } from '../frontends/nbd/transmission.ts';
import type { IoEngine } from '../io/engine.ts';
import { listTargetTypes, loadTargetType } from '../targets/load-target.ts';
import type { PlaneOptions, PlaneStats, VerbResult } from './plane.ts';
import type { PlaneVerb, VerbArgs } from './verbs.ts';

type Handlers = {
  readonly [N in PlaneVerb]: (
    args: VerbArgs<N>,
    signal: AbortSignal | undefined,
  ) => Promise<VerbResult<N>> | VerbResult<N>;
};

/** What of a plane's options is for its core. */
export interface CoreOptions
  extends Pick<PlaneOptions, 'bareWordsAreDevices' | 'log' | 'patienceMs'> {
  /** In place of the backends that come with lamina: simulated disks. */
  readonly openBackend?: OpenBackend;
}

/** How long clients have for their last replies when the data plane ends. */
const SHUTDOWN_GRACE_MS = 3000;

export class PlaneCore {
  readonly engine: IoEngine;
  readonly dm: DeviceMapper;
  readonly exports: ExportCatalog;
  readonly #frontEnds: readonly FrontEnd[];
  readonly #handlers: Handlers;

  constructor(engine: IoEngine, options: CoreOptions = {}) {
    const { bareWordsAreDevices = false } = options;
    const deviceLog = new LineLog(options.log ?? ((): void => {}), engine.clock);
    this.engine = engine;
    this.dm = new DeviceMapper({
      engine,
      clock: engine.clock,
      random: Math.random,
      bareWordsAreDevices,
      log: options.log,
      holderOf: (device) => this.exports.holderOf(device),
      loadTargetType,
      listTargetTypes,
      openBackend:
        options.openBackend ??
        ((reference, access) => openBackend(reference, access, engine, deviceLog.line)),
    });
    this.exports = new ExportCatalog({
      arena: engine.arena,
      clock: engine.clock,
      log: deviceLog.line,
      changes: this.dm,
      openDevice: (name, how) => this.dm.openDevice(name, how),
    });
    this.#frontEnds = [new TransmissionServer(engine, this.exports, options)];
    this.#handlers = { ...deviceHandlers(this.dm), ...this.#ownHandlers() };
  }

  /** A connection for the front end that its agreement names; see FrontEnd. */
  connect(
    source: number | Duplex,
    agreement: Agreement,
    rest: Uint8Array,
    ended: () => void,
  ): void {
    const frontEnd = this.#frontEnds.find((f) => f.name === agreement.frontEnd);
    assert(frontEnd !== undefined, `data plane: no front end '${agreement.frontEnd}'`);
    frontEnd.connect(source, agreement, rest, ended);
  }

  /** One control call. `signal` gives it up, where a verb can be. */
  async call<N extends PlaneVerb>(
    verb: N,
    args: VerbArgs<N>,
    signal?: AbortSignal,
  ): Promise<VerbResult<N>> {
    return await this.#handlers[verb](args, signal);
  }

  #ownHandlers(): Omit<Handlers, keyof ReturnType<typeof deviceHandlers>> {
    const all = this.exports;
    return {
      createExport: ([options]) => all.create(options),
      removeExport: ([name, options]) => all.remove(name, options?.force === true),
      listExports: () => all.list().map((found) => found.status()),
      listNames: () => all.list().map(({ name, description }) => ({ name, description })),
      lookup: ([name]) => all.find(name)?.info(),
      stats: () => this.#stats(),
      look: () => this.dm.look(),
      unflushed: () => this.#unflushed(),
      shutdown: () => this.#shutdown(),
    };
  }

  async #shutdown(): Promise<void> {
    await Promise.all(this.#frontEnds.map((frontEnd) => frontEnd.stop(SHUTDOWN_GRACE_MS)));
    // Together: what a cut off connection still waits for may only end when its device does.
    const results = await Promise.allSettled([this.exports.close(), this.dm.close()]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async #unflushed(): Promise<readonly string[]> {
    const connections = this.#frontEnds.reduce((sum, f) => sum + f.stats().connections, 0);
    const devices = (await this.dm.list()).map(({ name }) => printable(name));
    return [
      ...(connections === 0 ? [] : [`requests or replies of ${connections} connections`]),
      ...(devices.length === 0 ? [] : [`devices ${devices.join(', ')}`]),
    ];
  }

  #stats(): PlaneStats {
    const { arena } = this.engine;
    const all = this.#frontEnds.map((frontEnd) => frontEnd.stats());
    return {
      engine: this.engine.name,
      loop: this.engine.loopScheme,
      connections: all.reduce((sum, s) => sum + s.connections, 0),
      requests: all.reduce((sum, s) => sum + s.requests, 0),
      bufferBytes: arena.sizeBytes,
      bufferBytesUsed: arena.usedBytes,
      bufferBytesPeak: arena.usedBytesPeak,
    };
  }
}

function deviceHandlers(
  dm: DmControl & Pick<DeviceMapper, 'measure'>,
): Pick<Handlers, keyof DmControl | 'measure'> {
  return {
    create: ([options], signal) => dm.create(options, signal),
    load: ([name, table, options], signal) => dm.load(name, table, options, signal),
    clear: ([name], signal) => dm.clear(name, signal),
    suspend: ([name, options], signal) => dm.suspend(name, options, signal),
    resume: ([name], signal) => dm.resume(name, signal),
    remove: ([name, options], signal) => dm.remove(name, options, signal),
    rename: ([name, newName]) => dm.rename(name, newName),
    insertBelow: ([name, lower, options], signal) => dm.insertBelow(name, lower, options, signal),
    takeOut: ([name, lower, options], signal) => dm.takeOut(name, lower, options, signal),
    setUuid: ([name, uuid]) => dm.setUuid(name, uuid),
    list: () => dm.list(),
    info: ([name]) => dm.info(name),
    deps: ([name]) => dm.deps(name),
    table: ([name, options]) => dm.table(name, options),
    status: ([name, options], signal) => dm.status(name, options, signal),
    message: ([name, sector, text], signal) => dm.message(name, sector, text, signal),
    wait: ([name, eventNr], signal) => dm.wait(name, eventNr, signal),
    targets: () => dm.targets(),
    measure: ([reference, options]) => dm.measure(reference, options),
  };
}
