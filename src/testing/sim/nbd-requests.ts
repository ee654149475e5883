// What a random NBD client may ask: headers, flags, and requests that a server has to refuse.

import type { Prng } from '../../base/prng.ts';
import { Cmd, CmdFlag, NBD_REQUEST_MAGIC, NbdError } from '../../format/nbd.ts';
import type { ModelFlush, ModelRead, ModelWrite } from '../version-model.ts';

/** A request on its way. */
export interface Asked {
  readonly type: number;
  readonly flags: number;
  readonly offBytes: number;
  readonly lenBytes: number;
  /** The error that the protocol asks for; 0: none. */
  readonly refusal: number;
  readonly write?: ModelWrite | undefined;
  readonly read?: ModelRead | undefined;
  readonly flush?: ModelFlush | undefined;
  readonly isLane: boolean;
  /** A read's data, and how much of it has come. */
  readonly data: Uint8Array;
  readonly got: Uint8Array;
}

export function describe({ type, flags, offBytes, lenBytes }: Asked): string {
  const name = Object.entries(Cmd).find(([, number]) => number === type)?.[0] ?? `command ${type}`;
  return `${name.toLowerCase()} ${offBytes}+${lenBytes} flags ${flags}`;
}

export function requestHeader(
  type: number,
  flags: number,
  offBytes: number,
  lenBytes: number,
  cookie: Buffer,
): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  cookie.copy(header, 8);
  header.writeBigUInt64BE(BigInt(offBytes), 16);
  header.writeUInt32BE(lenBytes, 24);
  return header;
}

/** Flags that `type` may carry. */
export function drawFlags(rng: Prng, type: number, isStructured: boolean): number {
  const fua = rng.chance(0.2) ? CmdFlag.Fua : 0;
  if (type === Cmd.Read) return isStructured && rng.chance(0.2) ? CmdFlag.Df : 0;
  if (type === Cmd.WriteZeroes) return fua | rng.pick([0, CmdFlag.NoHole, CmdFlag.FastZero]);
  if (type === Cmd.BlockStatus) return rng.chance(0.4) ? CmdFlag.ReqOne : 0;
  return type === Cmd.Cache ? 0 : fua;
}

type BadRequest = readonly [
  type: number,
  flags: number,
  offBytes: number,
  lenBytes: number,
  error: number,
];

/** What is refused, and the error that the protocol asks for. */
export function badRequests(
  sizeBytes: number,
  isReadOnly: boolean,
  isStructured: boolean,
): BadRequest[] {
  const noSpace = isReadOnly ? NbdError.Perm : NbdError.NoSpace;
  const bad: BadRequest[] = [
    [Cmd.Read, 0, sizeBytes - 4, 8, NbdError.Invalid],
    [Cmd.Read, CmdFlag.NoHole, 0, 8, NbdError.Invalid],
    [Cmd.Write, 0, sizeBytes, 16, noSpace],
    [Cmd.Write, 64, 0, 700, NbdError.Invalid],
    [Cmd.Flush, 0, 8, 0, NbdError.Invalid],
    [Cmd.Trim, 0, 8, sizeBytes, noSpace],
    [Cmd.WriteZeroes, 0, 2 ** 40, 8, noSpace],
    [Cmd.BlockStatus, 0, 0, 0, NbdError.Invalid],
    [99, 0, 0, 0, NbdError.Invalid],
  ];
  if (!isStructured) bad.push([Cmd.Read, CmdFlag.Df, 0, 8, NbdError.Invalid]);
  return bad;
}
