// The data plane itself: an engine, a device mapper and the exports over it. Runs where the engine runs,
// and is called by method name with plain data, so that a message port can be in between.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { openBackend } from '../backends/open.ts';
import type { ExportOptions } from '../dm/control.ts';
import { DeviceMapper } from '../dm/device-mapper.ts';
import { TransmissionServer } from '../frontends/nbd/transmission.ts';
import type { IoEngine } from '../io/engine.ts';
import { listTargetTypes, loadTargetType } from '../targets/load-target.ts';
import type { PlaneStats } from './plane.ts';

export class PlaneCore {
  readonly engine: IoEngine;
  readonly dm: DeviceMapper;
  readonly transmission: TransmissionServer;

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
    this.transmission = new TransmissionServer({
      engine,
      openDevice: (name) => this.dm.openDevice(name),
    });
  }

  /** One control call. The names are those of `Plane`. */
  async call(method: string, args: readonly unknown[]): Promise<unknown> {
    switch (method) {
      case 'createExport':
        return await this.transmission.createExport(args[0] as ExportOptions);
      case 'removeExport': {
        const options = args[1] as { readonly force?: boolean } | undefined;
        await this.transmission.removeExport(args[0] as string, options?.force === true);
        return undefined;
      }
      case 'listExports':
        return this.transmission.listExports();
      case 'listNames':
        return this.transmission
          .listExports()
          .map(({ name, description }) => ({ name, description }));
      case 'lookup':
        return this.transmission.lookup(args[0] as string);
      case 'stats':
        return this.#stats();
      case 'shutdown':
        await this.transmission.shutdown();
        await this.dm.close();
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

  #stats(): PlaneStats {
    const { arena } = this.engine;
    return {
      engine: this.engine.name,
      connections: this.transmission.connectionCount,
      requests: this.transmission.requestCount,
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
