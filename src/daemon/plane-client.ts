// A Plane whose every verb is a call by name: over a message port to the data plane's thread, or straight
// to a core in this one. Nobody above can tell which.

import type { CreateOptions, DeviceInfo, LineOptions, TargetLine } from '../dm/control.ts';
import type { ExportInfo, ExportOptions, ExportStatus } from '../exports/control.ts';
import type { ConnectionTaker } from '../exports/front-end.ts';
import type { EngineName } from '../io/engine.ts';
import type { Plane, PlaneStats } from './plane.ts';

/** How a call and a connection reach the core. */
export interface PlaneLink extends ConnectionTaker {
  readonly engine: EngineName;
  call(method: string, args: unknown[]): Promise<unknown>;
  /** After `shutdown` has been called; frees threads and memory. */
  close(): Promise<void>;
}

export class PlaneClient implements Plane {
  readonly #link: PlaneLink;

  constructor(link: PlaneLink) {
    this.#link = link;
  }

  get engine(): EngineName {
    return this.#link.engine;
  }

  create(options: CreateOptions): Promise<DeviceInfo> {
    return this.#call('create', options);
  }
  load(name: string, table: string, options?: { readonly isReadOnly?: boolean }): Promise<void> {
    return this.#call('load', name, table, options);
  }
  clear(name: string): Promise<void> {
    return this.#call('clear', name);
  }
  suspend(name: string, options?: { readonly noflush?: boolean }): Promise<void> {
    return this.#call('suspend', name, options);
  }
  resume(name: string): Promise<void> {
    return this.#call('resume', name);
  }
  remove(
    name: string,
    options?: { readonly force?: boolean; readonly deferred?: boolean },
  ): Promise<void> {
    return this.#call('remove', name, options);
  }
  rename(name: string, newName: string): Promise<void> {
    return this.#call('rename', name, newName);
  }
  setUuid(name: string, uuid: string): Promise<void> {
    return this.#call('setUuid', name, uuid);
  }
  list(): Promise<DeviceInfo[]> {
    return this.#call('list');
  }
  info(name: string): Promise<DeviceInfo> {
    return this.#call('info', name);
  }
  deps(name: string): Promise<{ readonly name: string; readonly isMapped: boolean }[]> {
    return this.#call('deps', name);
  }
  table(name: string, options?: LineOptions): Promise<TargetLine[]> {
    return this.#call('table', name, options);
  }
  status(name: string, options?: LineOptions): Promise<TargetLine[]> {
    return this.#call('status', name, options);
  }
  message(name: string, sector: number, text: string): Promise<string> {
    return this.#call('message', name, sector, text);
  }
  wait(name: string, eventNr?: number): Promise<DeviceInfo> {
    return this.#call('wait', name, eventNr);
  }
  targets(): Promise<{ readonly name: string; readonly version: string }[]> {
    return this.#call('targets');
  }
  measure(
    reference: string,
    options: { readonly readOnly: boolean },
  ): Promise<{ readonly lenSectors: number; readonly sizeNote: string | undefined }> {
    return this.#call('measure', reference, options);
  }
  createExport(options: ExportOptions): Promise<ExportStatus> {
    return this.#call('createExport', options);
  }
  removeExport(name: string, options?: { readonly force?: boolean }): Promise<void> {
    return this.#call('removeExport', name, options);
  }
  listExports(): Promise<ExportStatus[]> {
    return this.#call('listExports');
  }
  lookup(name: string): Promise<ExportInfo | undefined> {
    return this.#call('lookup', name);
  }
  listNames(): Promise<readonly { readonly name: string; readonly description: string }[]> {
    return this.#call('listNames');
  }
  stats(): Promise<PlaneStats> {
    return this.#call('stats');
  }
  begin(...connection: Parameters<ConnectionTaker['begin']>): Promise<void> {
    return this.#link.begin(...connection);
  }

  async shutdown(): Promise<void> {
    try {
      await this.#call('shutdown');
    } finally {
      await this.#link.close();
    }
  }

  async #call<T>(method: string, ...args: unknown[]): Promise<T> {
    // The core's methods have the types of the same names above.
    return (await this.#link.call(method, args)) as T;
  }
}
