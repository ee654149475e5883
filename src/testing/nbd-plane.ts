// A data plane with its listener in this process, for tests of the NBD server on either engine.

import { join } from 'node:path';
import { createPlane } from '../daemon/create-plane.ts';
import type { Plane, PlaneOptions } from '../daemon/plane.ts';
import { type ListenerOptions, NbdListener } from '../frontends/nbd/listener.ts';
import type { EngineName } from '../io/engine.ts';
import { makeTestFolder } from './lamina-server.ts';
import { NbdClient, type NbdClientOptions } from './nbd-client.ts';

export interface TestPlane {
  readonly plane: Plane;
  readonly folder: string;
  readonly socketPath: string;
  connect(options?: NbdClientOptions): Promise<NbdClient>;
  /** Creates a device and exports it under its name. */
  device(name: string, table: string, isReadOnly?: boolean): Promise<void>;
  close(): Promise<void>;
  /** What is left to do when the process ends without `close`. */
  removeFolder(): void;
}

export async function startTestPlane(
  engine: EngineName | 'auto',
  bufferBytes: number = 64 << 20,
  listening: Pick<ListenerOptions, 'connectionsMax'> = {},
  planeOptions: Pick<PlaneOptions, 'log' | 'patienceMs'> = {},
): Promise<TestPlane> {
  const folder = makeTestFolder();
  const plane = await createPlane({ engine, bufferBytes, pollMs: 0.02, ...planeOptions });
  const socketPath = join(folder.path, 'nbd.sock');
  const listener = await NbdListener.open({
    address: { kind: 'unix', path: socketPath },
    catalog: plane,
    transmission: plane,
    log: planeOptions.log ?? ((): void => {}),
    ...listening,
  });
  return {
    plane,
    folder: folder.path,
    socketPath,
    connect: (options) => NbdClient.connect({ path: socketPath }, options),
    async device(name, table, isReadOnly = false) {
      await plane.create({ name, table });
      await plane.createExport({ name, device: name, isReadOnly });
    },
    async close() {
      await listener.close();
      await plane.shutdown();
      folder.remove();
    },
    removeFolder: () => folder.remove(),
  };
}
