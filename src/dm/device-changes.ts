// What has changed in a mapped device since another one, where the targets of both can tell.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BlockDevice } from '../bio/device.ts';
import type { DeviceNode } from './device-node.ts';
import type { ChangesSince, Lineage } from './lineage.ts';
import { MappedDevice } from './mapped-device.ts';

/** Names of the devices since which a device can tell what has changed. */
export function basesOf(nodes: readonly DeviceNode[], device: BlockDevice): string[] {
  const lineage = lineageOf(device);
  if (lineage === undefined) return [];
  return nodes.flatMap((node) => {
    const other = node.device.lineage;
    return other !== undefined && lineage.isComparable(other) ? [node.name] : [];
  });
}

/** What has changed in a device since another one; undefined when that cannot be told. */
export function changesSince(
  nodes: readonly DeviceNode[],
  device: BlockDevice,
  base: string,
): ChangesSince | undefined {
  const node = nodes.find((n) => n.name === base);
  const since = node?.device.lineage;
  if (since === undefined || lineageOf(device)?.isComparable(since) !== true) return undefined;
  // The base is what has this name now, whatever gets the name later.
  return async (sector, lenSectors, maxExtents) => {
    const lineage = lineageOf(device);
    if (lineage?.isComparable(since) === true) {
      return await lineage.changesSince(since, sector, lenSectors, maxExtents);
    }
    throw new DmError(Status.NoDevice, `device ${device.name}: changes since ${base}: not known`);
  };
}

function lineageOf(device: BlockDevice): Lineage | undefined {
  return device instanceof MappedDevice ? device.lineage : undefined;
}
