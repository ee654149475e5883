// The data plane itself: an engine, a device mapper and the exports over it. Runs where the engine runs,
// and is called by method name with plain data, so that a message port can be in between.

import type { Duplex } from 'node:stream';
import { assert } from '../base/assert.ts';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { openBackend } from '../backends/open.ts';
import { DeviceMapper } from '../dm/device-mapper.ts';
import { ExportCatalog } from '../exports/catalog.ts';
import type { ExportOptions } from '../exports/control.ts';
import type { Agreement, FrontEnd } from '../exports/front-end.ts';
import { TransmissionServer } from '../frontends/nbd/transmission.ts';
import type { IoEngine } from '../io/engine.ts';
import { listTargetTypes, loadTargetType } from '../targets/load-target.ts';
import type { PlaneStats } from './plane.ts';

/** How long clients have for their last replies when the data plane ends. */
const SHUTDOWN_GRACE_MS = 5000;

export class PlaneCore {
  readonly engine: IoEngine;
  readonly dm: DeviceMapper;
  readonly exports: ExportCatalog;
  readonly #frontEnds: readonly FrontEnd[];

  constructor(engine: IoEngine) {
    this.engine = engine;
    this.dm = new DeviceMapper({
      engine,
      clock: engine.clock,
      random: Math.random,
      loadTargetType,
      listTargetTypes,
      openBackend: (reference, options) => openBackend(reference, options, engine),
    });
    this.exports = new ExportCatalog({ openDevice: (name) => this.dm.openDevice(name) });
    this.#frontEnds = [new TransmissionServer(engine, this.exports)];
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

  /** One control call. The names are those of `Plane`. */
  async call(method: string, args: readonly unknown[]): Promise<unknown> {
    switch (method) {
      case 'createExport':
        return await this.exports.create(args[0] as ExportOptions);
      case 'removeExport': {
        const options = args[1] as { readonly force?: boolean } | undefined;
        await this.exports.remove(args[0] as string, options?.force === true);
        return undefined;
      }
      case 'listExports':
        return this.exports.list().map((found) => found.status());
      case 'listNames':
        return this.exports.list().map(({ name, description }) => ({ name, description }));
      case 'lookup':
        return this.exports.find(args[0] as string)?.info();
      case 'stats':
        return this.#stats();
      case 'shutdown':
        await this.#shutdown();
        return undefined;
      default:
        return await this.#control(method, args);
    }
  }

  async #control(method: string, args: readonly unknown[]): Promise<unknown> {
    const dm = this.dm as unknown as Record<string, unknown>;
    const verb = CONTROL_VERBS.has(method) ? dm[method] : undefined;
    if (typeof verb !== 'function') {
      throw new DmError(Status.Invalid, `control call '${method}': no such verb`);
    }
    return await (verb as (...a: unknown[]) => Promise<unknown>).apply(this.dm, [...args]);
  }

  async #shutdown(): Promise<void> {
    await Promise.all(this.#frontEnds.map((frontEnd) => frontEnd.stop(SHUTDOWN_GRACE_MS)));
    // Together: what a cut off connection still waits for may only end when its device does.
    const results = await Promise.allSettled([this.exports.close(), this.dm.close()]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  #stats(): PlaneStats {
    const { arena } = this.engine;
    const all = this.#frontEnds.map((frontEnd) => frontEnd.stats());
    return {
      engine: this.engine.name,
      connections: all.reduce((sum, s) => sum + s.connections, 0),
      requests: all.reduce((sum, s) => sum + s.requests, 0),
      bufferBytes: arena.sizeBytes,
      bufferBytesUsed: arena.usedBytes,
      bufferBytesPeak: arena.usedBytesPeak,
    };
  }
}

/** The verbs of DmControl. */
export const CONTROL_VERBS: ReadonlySet<string> = new Set([
  'create',
  'load',
  'clear',
  'suspend',
  'resume',
  'remove',
  'rename',
  'setUuid',
  'list',
  'info',
  'deps',
  'table',
  'status',
  'message',
  'wait',
  'targets',
  'measure',
]);
