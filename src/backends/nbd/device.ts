// The device over an NBD export: ties bios, connections and reconnecting together.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import type { BackendDevice } from '../../dm/backend.ts';
import { Cmd, CmdFlag } from '../../format/nbd.ts';
import type { IoEngine } from '../../io/engine.ts';
import { type Capabilities, capabilitiesOf, limitsOf, refusalOf } from './capabilities.ts';
import { Connector, type ConnectorHost } from './connector.ts';
import { ExtentCollector } from './extents.ts';
import type { ExportTerms } from './handshake.ts';
import { Jobs } from './jobs.ts';
import type { NbdLink } from './link.ts';
import { NbdRequest } from './request.ts';
import { Router } from './router.ts';
import { NbdSession } from './session.ts';
import type { NbdReference } from './uri.ts';

/** The longest range asked for at a time: a whole number of blocks of any size. */
const STATUS_BYTES_MAX = 2 ** 31;

export interface NbdDeviceOptions {
  readonly name: string;
  readonly reference: NbdReference;
  readonly engine: IoEngine;
  readonly isReadOnly: boolean;
  /** Hears of losses and returns of the server, a line each. */
  readonly log: (line: string) => void;
}

/** How the connection is, for operators. */
export interface ConnectionState {
  readonly state: 'connected' | 'disconnected' | 'failed';
  readonly connections: number;
  /** Why the last connection was lost or could not be made; '' if that never happened. */
  readonly reason: string;
  /** Acknowledged writes are gone, or may be: flushes fail from then on. */
  readonly hasLostWrites: boolean;
}

export class NbdDevice implements BackendDevice, ConnectorHost {
  readonly name: string;
  readonly lenSectors: number;
  readonly isReadOnly: boolean;
  readonly limits: QueueLimits;
  /** What an operator should know about the size; undefined when there is nothing to say. */
  readonly sizeNote: string | undefined;
  readonly #engine: IoEngine;
  readonly #reference: NbdReference;
  readonly #can: Capabilities;
  readonly #hasBlockStatus: boolean;
  readonly #router: Router;
  readonly #jobs: Jobs;
  readonly #connector: Connector;
  readonly #log: (line: string) => void;
  /** The server is looked for, and the operator knows. */
  #isDown = false;
  #isClosing = false;

  private constructor(options: NbdDeviceOptions, connector: Connector, terms: ExportTerms) {
    const { engine, reference } = options;
    this.name = options.name;
    this.#log = (line) => options.log(`device ${options.name}: ${line}`);
    this.#engine = engine;
    this.#reference = reference;
    this.#connector = connector;
    this.#can = capabilitiesOf(terms);
    this.#hasBlockStatus = terms.allocationContextId >= 0;
    this.isReadOnly = options.isReadOnly || this.#can.isReadOnly;
    this.lenSectors = this.#can.lenSectors;
    this.limits = limitsOf(this.#can, terms, this.isReadOnly);
    const unserved = terms.sizeBytes - this.lenSectors * SECTOR_BYTES;
    this.sizeNote =
      unserved === 0
        ? undefined
        : `device ${this.name}: size ${terms.sizeBytes} is not a multiple of ` +
          `${this.#can.logicalBlockBytes} bytes: the last ${unserved} are not served`;
    const routing = {
      engine,
      canFlush: this.#can.flush,
      replayBytes: this.isReadOnly ? 0 : reference.replayBytes,
      failsWhenDown: reference.onDisconnect === 'fail',
      onLost: (reason: string) => this.#lost(reason),
      onProgress: () => {
        if (this.#isDown) this.#isBack();
        connector.progressed();
      },
      onLostWrites: () =>
        this.#log('acknowledged writes are lost or may be: every flush fails until it is closed'),
    };
    this.#router = new Router(routing, reference.reconnectMs > 0);
    this.#jobs = new Jobs(this.#router, engine.arena, this.#can);
  }

  /** Throws DmError. */
  static async open(options: NbdDeviceOptions): Promise<NbdDevice> {
    const { engine, reference } = options;
    const { target, reconnectMs } = reference;
    let device: NbdDevice | undefined;
    const host = (): NbdDevice => device as NbdDevice;
    const connector = new Connector({
      host: {
        refusal: (terms) => host().refusal(terms),
        sessionCount: () => host().sessionCount(),
        connected: (link) => host().connected(link),
        gaveUp: (reason) => host().gaveUp(reason),
      },
      engine,
      target,
      reconnectMs,
    });
    const link = await connector.connect();
    try {
      device = new NbdDevice(options, connector, link.terms);
    } catch (error) {
      link.stream.close();
      throw error;
    }
    device.connected(link);
    await device.#openMore();
    return device;
  }

  get connection(): ConnectionState {
    const { isFailed, isUp, sessionCount, hasLostWrites } = this.#router;
    return {
      state: isFailed ? 'failed' : isUp ? 'connected' : 'disconnected',
      connections: sessionCount,
      reason: this.#connector.lastReason,
      hasLostWrites,
    };
  }

  get warning(): string {
    const { state, reason, hasLostWrites } = this.connection;
    if (state === 'failed') return `the server is given up: ${reason}`;
    const lost = hasLostWrites ? 'acknowledged writes are lost or may be: every flush fails' : '';
    if (state === 'connected') return lost;
    const away = `the server is away: ${reason}; it is looked for`;
    return lost === '' ? away : `${away}; ${lost}`;
  }

  submit(bio: Bio): void {
    if (this.isReadOnly && bio.op !== Op.Read && bio.op !== Op.Flush) {
      endBio(bio, Status.ReadOnly);
      return;
    }
    this.#jobs.start(bio);
  }

  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const lenBytes = Math.min(lenSectors * SECTOR_BYTES, STATUS_BYTES_MAX);
    const collector = new ExtentCollector(lenBytes / SECTOR_BYTES, maxExtents);
    if (!this.#hasBlockStatus) return collector.finish();
    const status = await this.#ask((request) => {
      request.begin(Cmd.BlockStatus, sector * SECTOR_BYTES, lenBytes);
      request.flags = maxExtents === 1 ? CmdFlag.ReqOne : 0;
      request.collector = collector;
    });
    if (status === Status.Ok) return collector.finish();
    const remark = this.#router.lastRemark;
    const words = remark === '' ? '' : ` (${remark})`;
    throw new DmError(status, `device ${this.name}: block status: ${errnoText(status)}${words}`);
  }

  async close(): Promise<void> {
    const router = this.#router;
    this.#isClosing = true;
    await this.#connector.stop();
    // A loss from now on is final, so nothing below waits for a server that does not come back.
    router.stopReconnecting();
    let status: Status = router.hasLostWrites ? Status.Io : Status.Ok;
    if (router.isDirty && status === Status.Ok) {
      status = await this.#ask((request) => request.begin(Cmd.Flush, 0, 0));
    }
    await router.disconnect();
    if (status === Status.Ok) return;
    const reason = this.#connector.lastReason;
    throw new DmError(
      status,
      `device ${this.name}: what was written may not be on the server's medium: ` +
        `${errnoText(status)}${reason === '' ? '' : ` (${reason})`}`,
    );
  }

  refusal(terms: ExportTerms): string | undefined {
    return refusalOf(this.#can, terms, !this.isReadOnly);
  }

  sessionCount(): number {
    return this.#router.sessionCount;
  }

  connected(link: NbdLink): void {
    const session = new NbdSession(this.#router, this.#engine, link, this.#reference.timeoutMs);
    session.start();
    this.#router.admit(session);
  }

  gaveUp(reason: string): void {
    this.#log(`given up: ${reason}; everything fails until its table is loaded again`);
    this.#router.fail();
  }

  #lost(reason: string): void {
    if (!this.#isDown && !this.#isClosing && this.#router.sessionCount === 0) {
      this.#isDown = true;
      const then =
        this.#reference.reconnectMs === 0 ? 'everything fails' : 'looking for the server';
      this.#log(`connection lost: ${reason}; ${then}`);
    }
    this.#connector.lost(reason);
  }

  #isBack(): void {
    this.#isDown = false;
    this.#log('connected again');
  }

  /** The further connections that were asked for, if the server can keep them in step. */
  async #openMore(): Promise<void> {
    const wanted = this.#can.multiConn ? this.#reference.connections : 1;
    try {
      for (let i = 1; i < wanted; i++) {
        const link = await this.#connector.connect();
        const refusal = this.refusal(link.terms);
        if (refusal !== undefined) {
          link.stream.close();
          throw new DmError(Status.Invalid, `connection ${i + 1}: ${refusal}`);
        }
        this.connected(link);
      }
    } catch (error) {
      await this.close();
      throw error;
    }
    this.#connector.keep(wanted);
  }

  #ask(fill: (request: NbdRequest) => void): Promise<Status> {
    return new Promise((resolve) => {
      const request = new NbdRequest({ requestDone: (_request, status) => resolve(status) });
      fill(request);
      this.#router.send(request);
    });
  }
}
