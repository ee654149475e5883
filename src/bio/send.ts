// Bios for slow paths: one sent, its end awaited.

import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { Bio, type BioOwner, Op } from './bio.ts';
import { type IoContext, systemContext } from './context.ts';
import type { BlockDevice } from './device.ts';
import { submitBio } from './submit.ts';
import { type BioVec, NO_VEC } from './vec.ts';

export interface SendOptions {
  /** Bits of BioFlag. */
  readonly flags?: number;
  /** On whose account; the system's if not given. A reference is taken. */
  readonly ctx?: IoContext;
}

/** Sends a bio, in pieces if the device takes only small ones; resolves with the first error, or Ok. */
export async function sendBio(
  op: Op,
  device: BlockDevice,
  sector: number,
  lenBytes: number,
  vec: BioVec = NO_VEC,
  options: SendOptions = {},
): Promise<Status> {
  const maxBytes = device.limits.maxIoSectors * SECTOR_BYTES;
  const hasData = op === Op.Read || op === Op.Write;
  if (!hasData || lenBytes <= maxBytes)
    return await sendPiece(op, device, sector, vec, options, 0, lenBytes);
  const pieces: Promise<Status>[] = [];
  for (let at = 0; at < lenBytes; at += maxBytes) {
    const len = Math.min(maxBytes, lenBytes - at);
    pieces.push(sendPiece(op, device, sector, vec, options, at, len));
  }
  return (await Promise.all(pieces)).find((status) => status !== Status.Ok) ?? Status.Ok;
}

function sendPiece(
  op: Op,
  device: BlockDevice,
  sector: number,
  vec: BioVec,
  options: SendOptions,
  skipBytes: number,
  lenBytes: number,
): Promise<Status> {
  return new Promise((resolve) => {
    const owner: BioOwner = { bioEnd: (bio) => resolve(bio.status) };
    const bio = new Bio();
    const ctx = options.ctx ?? systemContext;
    bio.init(op, device, sector, skipBytes + lenBytes, vec, ctx, owner);
    if (skipBytes > 0) bio.advance(skipBytes);
    bio.flags = options.flags ?? 0;
    submitBio(bio);
  });
}

/** Reads or writes the first `lenBytes` of what `bio` has left, at another place; its status. */
export function sendPart(
  bio: Bio,
  device: BlockDevice,
  sector: number,
  lenBytes: number,
): Promise<Status> {
  return new Promise((resolve) => {
    const owner: BioOwner = { bioEnd: (ended) => resolve(ended.status) };
    const part = new Bio();
    part.init(bio.op, device, sector, lenBytes, bio.vec, bio.ctx, owner);
    part.segment = bio.segment;
    part.segmentDone = bio.segmentDone;
    submitBio(part);
  });
}

/** Flushes a device; its status. */
export function flushDevice(device: BlockDevice): Promise<Status> {
  return sendBio(Op.Flush, device, 0, 0);
}
