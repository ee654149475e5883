// A disk of a command that is not silent: what takes long is told, with what it waits for, and an error ends with what
// has become of the device.

import { DmError } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { errnoAdvice, errnoText } from '../base/system-error.ts';
import { Disk } from '../bio/disk.ts';
import type { BackendDevice } from '../dm/backend.ts';
import type { Arena } from '../io/arena.ts';
import { call } from './daemon-call.ts';
import { tell } from './output.ts';

/** Behind this long, whoever waits is told for what. */
const SILENT_MS = 1500;

/** A command says it once, however often it waits. */
let isTold = false;

/** Tells what is waited for when `work` takes long. `reason` answers '' where nothing is known. */
export async function told<T>(
  name: string,
  work: Promise<T>,
  reason: () => Promise<string> | string,
): Promise<T> {
  if (isTold) return await work;
  let isOver = false;
  const say = async (): Promise<void> => {
    const why = await reason();
    if (isOver || isTold) return;
    isTold = true;
    tell(
      `lamina: waiting for ${printable(name)}${why === '' ? ' to answer' : `: ${printable(why)}`}\n`,
    );
  };
  const timer = setTimeout(() => void say(), SILENT_MS);
  try {
    return await work;
  } finally {
    isOver = true;
    clearTimeout(timer);
  }
}

export class WatchedDisk extends Disk {
  readonly #name: string;
  readonly #blockBytes: number;
  readonly #reason: () => Promise<string> | string;

  /**
   * `mapped`: the device is that mapped device of the daemon, with blocks of `blockBytes` at least.
   * `name` is what errors and the operator hear.
   */
  constructor(
    device: BackendDevice,
    arena: Arena,
    options: {
      readonly name?: string | undefined;
      readonly mapped?: string | undefined;
      readonly blockBytes?: number;
    },
  ) {
    const { name = device.name, mapped } = options;
    super(device, arena, async () => await device.close(), options.name);
    this.#name = name;
    this.#blockBytes = options.blockBytes ?? 0;
    this.#reason = () => (mapped === undefined ? (device.warning ?? '') : reasonOf(mapped));
  }

  override get blockBytes(): number {
    return Math.max(super.blockBytes, this.#blockBytes);
  }

  override async read(offBytes: number, lenBytes: number): Promise<Buffer> {
    return await this.#watched(super.read(offBytes, lenBytes));
  }

  override async write(
    offBytes: number,
    data: Uint8Array,
    options: { readonly fua?: boolean } = {},
  ): Promise<void> {
    await this.#watched(super.write(offBytes, data, options));
  }

  override async flush(): Promise<void> {
    await this.#watched(super.flush());
  }

  override async discard(offBytes: number, lenBytes: number): Promise<void> {
    await this.#watched(super.discard(offBytes, lenBytes));
  }

  override async zero(offBytes: number, lenBytes: number): Promise<void> {
    await this.#watched(super.zero(offBytes, lenBytes));
  }

  async #watched<T>(work: Promise<T>): Promise<T> {
    try {
      return await told(this.#name, work, this.#reason);
    } catch (error) {
      if (!(error instanceof DmError) || error.status !== Status.Io) throw error;
      const why = await this.#reason();
      if (why === '') throw error;
      // In place of the advice that goes with any error of this kind.
      const text = error.message.replace(errnoAdvice(error.status), errnoText(error.status));
      throw new DmError(error.status, `${text}: ${why}`, { cause: error });
    }
  }
}

/** What keeps a mapped device, or one below it, from its work; '' when nothing is known. */
async function reasonOf(name: string): Promise<string> {
  try {
    return await reasonAt(name, new Set());
  } catch (error) {
    // Such as that the daemon is gone.
    if (error instanceof DmError) return error.message;
    throw error;
  }
}

async function reasonAt(name: string, seen: Set<string>): Promise<string> {
  seen.add(name);
  const { state, warning } = await call('info', name);
  if (state === 'SUSPENDED')
    return `device ${name} is suspended: lamina resume ${name} lets it go on`;
  if (warning !== '') return warning;
  const lines = await call('status', name, { noflush: true });
  const isFull = lines.some(
    ({ type, params }) => type === 'thin-pool' && params.includes(' out_of_data_space '),
  );
  if (isFull) return `pool ${name} has no room for data left: lamina pool grow ${name} makes some`;
  for (const dep of await call('deps', name)) {
    if (!dep.isMapped || seen.has(dep.name)) continue;
    const below = await reasonAt(dep.name, seen);
    if (below !== '') return below;
  }
  return '';
}
