// What `lamina serve` and `lamina daemon` have in common: a data plane and a listener that end with the process,
// and output that never holds it up.

import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { realClock } from '../base/clock.ts';
import { invalid } from '../base/errors.ts';
import type { Plane, PlaneOptions } from '../daemon/plane.ts';
import { NbdListener, type ListenerOptions } from '../frontends/nbd/listener.ts';
import { exitNow } from '../io/output-calls.ts';
import { Ending, GRACE_SECONDS } from './ending.ts';
import { addPlaneOptions, openPlane, type PlaneFlags } from './plane-options.ts';
import { ServerOutput } from './server-output.ts';

const GRACE_SECONDS_MAX = 3600;
const OWNER_BITS = 0o700;

export interface ServerFlags extends PlaneFlags {
  readonly grace: number;
}

/** Options of everything that serves. */
export function addServerOptions(command: Command): Command {
  return addPlaneOptions(command).option(
    '--grace <seconds>',
    'when ending, give up what is not flushed by then',
    graceTime,
    GRACE_SECONDS,
  );
}

function graceTime(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !(value > 0) || value > GRACE_SECONDS_MAX) {
    throw new InvalidArgumentError(`expected a number of seconds, up to ${GRACE_SECONDS_MAX}`);
  }
  return value;
}

export interface Server {
  readonly ending: Ending;
  readonly log: (line: string) => void;
  /** Flushed and closed when the server ends. Throws DmError. */
  openPlane(options?: Pick<PlaneOptions, 'bareWordsAreDevices'>): Promise<Plane>;
  /** Throws DmError. */
  openListener(options: ListenerOptions): Promise<NbdListener>;
  /** Tells a program that waits for it that clients may connect. */
  announce(line: string): Promise<void>;
}

/** Files, folders and sockets that are made would be out of the server's own reach. Throws DmError. */
function refuseUselessUmask(): void {
  const umask = process.umask();
  if ((umask & OWNER_BITS) === 0) return;
  const shown = umask.toString(8).padStart(3, '0');
  throw invalid(
    `umask ${shown}: takes away the server's own rights to the files and sockets that it makes: set another, such as 077`,
  );
}

/** From here on, signals end the process as `Ending` says, and `ending.run` is the only way on. */
export function startServer(flags: ServerFlags): Server {
  refuseUselessUmask();
  const errors = new ServerOutput(2);
  const log = (line: string): void => errors.log(line);
  const ending = new Ending({
    graceMs: flags.grace * 1000,
    clock: realClock,
    signals: process,
    log,
    exit: exitNow,
  });
  return {
    ending,
    log,
    openPlane: async (options) => {
      const plane = await openPlane(flags, { ...options, log });
      ending.onQuestion(async () => await plane.unflushed());
      const watch = watchFiles(plane);
      await ending.hold({
        close: async () => {
          await watch.end();
          await plane.shutdown();
        },
      });
      return plane;
    },
    openListener: async (options) => {
      const listener = await NbdListener.open(options);
      await ending.hold({
        close: async () => await listener.close(),
        abandon: () => listener.abandon(),
      });
      return listener;
    },
    announce: async (line) => {
      if (!(await new ServerOutput(1).deliver(`${line}\n`))) {
        log('the line that says where clients may connect could not be written to stdout');
      }
    },
  };
}

/** How often files are looked after. */
const LOOK_MS = 5000;
/** How long the last look may take: a file system may not answer. */
const LAST_LOOK_MS = 1000;

/** Has the files of a plane looked after, and once more at the end: what was deleted must not go without a word. */
function watchFiles(plane: Plane): { end(): Promise<void> } {
  let looking: Promise<unknown> | undefined;
  const look = async (): Promise<unknown> => {
    // A look that does not end is not followed by more.
    looking ??= plane.look().finally(() => (looking = undefined));
    return await looking;
  };
  const timer = setInterval(() => void look().catch(() => undefined), LOOK_MS);
  timer.unref();
  return {
    end: async () => {
      clearInterval(timer);
      const tooLong = sleep(LAST_LOOK_MS, undefined, { ref: false });
      await Promise.race([look().catch(() => undefined), tooLong]);
    },
  };
}
