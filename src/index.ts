// Lamina as a library: stacks of mapped devices in this process.
//
//   const stack = await openStack("d,,,rw,0 2048 linear disk.img 0");
//   const disk = await stack.open('d');
//   await disk.write(0, data);          // bytes; whole logical blocks
//   await disk.flush();
//   await stack.close();
//
// An encrypted volume is opened to a table line of its own:
//
//   const file = LuksFile.open('disk.img', { isReadOnly: true });
//   const volume = openLuks(file);
//   const { volumeKey } = await volume.unlock(passphrase);
//   luksTable(volume, { key: volumeKey.toString('hex'), device: 'disk.img', deviceBytes: file.sizeBytes });
//
// `stack.control` has dmsetup's verbs. To serve NBD from a program, see `createPlane` and `NbdListener`.

import { MIB } from './base/units.ts';
import { Disk } from './bio/disk.ts';
import { PlaneCore } from './daemon/plane-core.ts';
import type { DmControl } from './dm/control.ts';
import { parseConcise } from './dm/table-text.ts';
import { Arena } from './io/arena.ts';
import { NodeEngine } from './io/node-engine.ts';

export { DmError } from './base/errors.ts';
export { createPlane } from './daemon/create-plane.ts';
export type { Plane, PlaneOptions } from './daemon/plane.ts';
export type { CreateOptions, DeviceInfo, DmControl, TargetLine } from './dm/control.ts';
export { parseConcise, parseTable } from './dm/table-text.ts';
export {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
  type TargetType,
} from './dm/target.ts';
export type { Bio } from './bio/bio.ts';
export { Disk } from './bio/disk.ts';
export type { BlockDevice, Extent } from './bio/device.ts';
export { NbdListener } from './frontends/nbd/listener.ts';
export { WrongPassphrase } from './tools/luks/luks-error.ts';
export { LuksFile } from './tools/luks/luks-io.ts';
export { luksTable } from './tools/luks/luks-table.ts';
export type {
  LuksSegment,
  LuksVolume,
  Unlocked,
  UnlockOptions,
} from './tools/luks/luks-volume.ts';
export { openLuks } from './tools/luks/open-luks.ts';
export { LogError, type LogEntry, LogReader, openLog } from './tools/replay/log-reader.ts';
export {
  type LogPoint,
  replay,
  type ReplayChecks,
  type ReplayOptions,
  type ReplayResult,
  type ReplayState,
} from './tools/replay/replayer.ts';

export interface OpenStackOptions {
  /** Budget for I/O buffers, bytes. 64 MiB if not given. */
  readonly bufferBytes?: number;
}

export interface OpenedStack {
  readonly control: DmControl;
  open(name: string): Promise<Disk>;
  /** Flushes and closes every device. Rejects when a flush failed. */
  close(): Promise<void>;
}

/** Builds a stack from dmsetup's concise form, with the node engine, in this thread. */
export async function openStack(
  concise: string,
  options: OpenStackOptions = {},
): Promise<OpenedStack> {
  const devices = parseConcise(concise);
  const core = new PlaneCore(new NodeEngine(new Arena(options.bufferBytes ?? 64 * MIB)));
  const close = async (): Promise<void> => {
    try {
      await core.dm.close();
    } finally {
      core.engine.close();
    }
  };
  try {
    for (const { minor, ...device } of devices) {
      await core.dm.create(minor === undefined ? device : { ...device, minor });
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    control: core.dm,
    close,
    async open(name) {
      const opened = await core.dm.openDevice(name);
      return new Disk(opened.device, core.engine.arena, () => opened.close());
    },
  };
}
