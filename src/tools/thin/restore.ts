// Makes a thin pool's metadata from XML. Devices that shared mapping trees have their own ones afterwards:
// the XML does not say. They still share the data blocks.

import { DmError, invalid } from '../../base/errors.ts';
import type { MetadataIo } from '../../persistent-data/block-manager.ts';
import { PoolBuilder } from './pool-builder.ts';
import { readPoolXml, type XmlDevice } from './xml-reader.ts';

export interface RestoreResult {
  readonly devices: number;
  readonly mappedBlocks: number;
}

/** Whatever was in `io` is lost. If this rejects, `io` holds no pool. */
export async function restorePool(
  io: MetadataIo,
  pieces: AsyncIterable<string> | Iterable<string>,
): Promise<RestoreResult> {
  let builder: PoolBuilder | undefined;
  let device: XmlDevice | undefined;
  let tree = 0;
  let mapped = 0;
  let devices = 0;
  let mappedBlocks = 0;
  for await (const event of readPoolXml(pieces)) {
    if (event.kind === 'superblock') {
      builder = await PoolBuilder.start(io, event);
      continue;
    }
    // The reader has seen to the order of the elements.
    if (builder === undefined) throw invalid('XML without a superblock');
    if (event.kind === 'device') {
      device = event;
      tree = await builder.emptyTree();
      mapped = 0;
    } else if (event.kind === 'run') {
      tree = await inDevice(device, builder.addRun(tree, event));
      mapped += event.length;
    } else if (event.kind === 'end of device' && device !== undefined) {
      refuseCount(device, mapped);
      await inDevice(device, builder.addDevice(device, tree, mapped));
      devices++;
      mappedBlocks += mapped;
    }
  }
  await builder?.finish();
  return { devices, mappedBlocks };
}

/** Reads XML to its end, and writes nothing. Throws DmError at what no pool is made of. */
export async function checkPoolXml(
  pieces: AsyncIterable<string> | Iterable<string>,
): Promise<void> {
  let device: XmlDevice | undefined;
  let mapped = 0;
  for await (const event of readPoolXml(pieces)) {
    if (event.kind === 'device') {
      device = event;
      mapped = 0;
    } else if (event.kind === 'run') mapped += event.length;
    else if (event.kind === 'end of device' && device !== undefined) refuseCount(device, mapped);
  }
}

/** A device with fewer mappings than it says is one of which a part is missing. */
function refuseCount(device: XmlDevice, mapped: number): void {
  if (device.mappedBlocks === mapped) return;
  throw invalid(
    `XML: device ${device.id}: says it has ${device.mappedBlocks} mapped blocks, but has ${mapped}`,
  );
}

async function inDevice<T>(device: XmlDevice | undefined, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    const text = `XML: device ${device?.id}: ${error.message}`;
    throw new DmError(error.status, text, { cause: error });
  }
}
