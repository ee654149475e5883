// Serves devices of a lab over NBD to real programs: a disk with a volatile cache whose power can be cut,
// for servers that are under test and store their data there.

import { DmError } from '../base/errors.ts';
import { ExportCatalog } from '../exports/catalog.ts';
import { NbdListener } from '../frontends/nbd/listener.ts';
import type { Negotiated } from '../frontends/nbd/negotiated.ts';
import { TransmissionServer } from '../frontends/nbd/transmission.ts';
import { NodeEngine } from '../io/node-engine.ts';
import type { Lab } from './sim/lab.ts';

export interface LabServer {
  /** URI of an export, which is named like its device. */
  uri(device: string): string;
  close(): Promise<void>;
}

/** Exports these mapped devices of `lab` on a unix socket. Throws DmError. */
export async function serveLab(
  lab: Lab,
  socketPath: string,
  devices: readonly string[],
): Promise<LabServer> {
  const engine = new NodeEngine(lab.arena);
  const exports = new ExportCatalog({
    arena: lab.arena,
    clock: engine.clock,
    log: () => {},
    openDevice: async (name) => await lab.dm.openDevice(name),
  });
  const server = new TransmissionServer(engine, exports);
  for (const device of devices) await exports.create({ name: device, device });
  const listener = await NbdListener.open({
    address: { kind: 'unix', path: socketPath },
    catalog: {
      lookup: async (name) => await Promise.resolve(exports.find(name)?.info()),
      listNames: async () => await Promise.resolve(exports.list()),
    },
    transmission: {
      begin: async (socket, negotiated, rest, ended) =>
        await Promise.resolve(server.connect(socket, negotiated as Negotiated, rest, ended)),
    },
    log: () => undefined,
  });
  return {
    uri: (device) => listener.uri(device),
    async close() {
      await listener.close();
      await server.stop(5000);
      // Where the power was cut or a disk was to fail, flushes have failed: the client was told.
      await exports.close().catch((error: unknown) => {
        if (!(error instanceof DmError)) throw error;
      });
      engine.close();
    },
  };
}
