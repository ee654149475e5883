// What a table of a snapshot opens: its devices, what it shares with its origin, and the snapshot
// itself, which another table may have already.

import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { Kcopyd } from '../../dm/kcopyd.ts';
import { ShareKind } from '../../dm/shares.ts';
import type { TargetHost } from '../../dm/target.ts';
import { chunkComplaint } from './chunk-size.ts';
import { ExceptionTable } from './exception-table.ts';
import { openStore } from './open-store.ts';
import { ORIGIN, Origin } from './origin.ts';
import { Snapshot, type SnapshotVoice } from './snapshot.ts';
import type { SnapshotLine } from './table-line.ts';
import { TransientStore } from './transient-store.ts';

const SNAPSHOT = new ShareKind<Snapshot>('snapshot');
/** As many as are copied and committed together. */
const PENDING_MAX = 256;

export interface OpenedSnapshot {
  readonly origin: Origin;
  readonly snapshot: Snapshot;
  readonly voice: SnapshotVoice;
}

/** Throws DmError. */
export async function openSnapshot(line: SnapshotLine, host: TargetHost): Promise<OpenedSnapshot> {
  if (host.startSector !== 0) {
    throw invalid(`Invalid start sector: ${host.startSector}: a snapshot begins at sector 0`);
  }
  const range = { startSector: 0, lenSectors: host.lenSectors };
  const device = await named(
    'Cannot get origin device',
    async () => await host.openDevice(line.originWord, range),
  );
  const cow = await named('Cannot get COW device', async () => await host.openDevice(line.cowWord));
  if (cow === device) throw invalid('COW device cannot be the same as origin device');
  const origin = await host.share(ORIGIN, device, () => Promise.resolve(new Origin(device)));
  const all = { device: cow, startSector: 0, lenSectors: cow.lenSectors };
  host.claim(all, { role: 'cow device', by: 'a snapshot', holder: origin });
  const voice = { event: () => host.event(), log: (text: string) => host.log(text) };
  const snapshot = await host.share(
    SNAPSHOT,
    cow,
    async () => await makeSnapshot({ line, host, origin, cow, voice }),
  );
  if (snapshot.store.word !== wordOf(line)) {
    throw invalid(
      `Snapshot cow pairing for exception table handover failed: ${cow.name} has a store of ` +
        `type ${snapshot.store.word}, the table says ${wordOf(line)}`,
    );
  }
  return { origin, snapshot, voice };
}

async function named(what: string, open: () => Promise<BlockDevice>): Promise<BlockDevice> {
  try {
    return await open();
  } catch (error) {
    const status = error instanceof DmError ? error.status : Status.Io;
    throw new DmError(status, `${what}: ${errorText(error)}`, { cause: error });
  }
}

function wordOf({ isPersistent, showsOverflow }: SnapshotLine): string {
  if (!isPersistent) return 'N';
  return showsOverflow ? 'PO' : 'P';
}

interface Making {
  readonly line: SnapshotLine;
  readonly host: TargetHost;
  readonly origin: Origin;
  readonly cow: BlockDevice;
  readonly voice: SnapshotVoice;
}

async function makeSnapshot(making: Making): Promise<Snapshot> {
  const { line, host, origin, cow, voice } = making;
  const kcopyd = new Kcopyd(host.engine.arena);
  try {
    const exceptions = new ExceptionTable();
    const opened = line.isPersistent
      ? await openPersistent(making, kcopyd, exceptions)
      : openTransient(making);
    const snapshot = new Snapshot({
      origin: origin.device,
      cow,
      exceptions,
      kcopyd,
      clock: host.clock,
      voice,
      pendingMax: Math.min(PENDING_MAX, host.clonesMax),
      lenSectors: host.lenSectors,
      closed: (closed) => origin.remove(closed),
      ...opened,
    });
    // What a store has was true of the origin as it was; from here on the origin may not change
    // without it.
    if (!snapshot.isNew) origin.add(snapshot);
    return snapshot;
  } catch (error) {
    kcopyd.close();
    throw error;
  }
}

type Opened = Pick<Snapshot, 'store' | 'isValid' | 'isNew'>;

async function openPersistent(
  { line, host, origin, cow, voice }: Making,
  kcopyd: Kcopyd,
  exceptions: ExceptionTable,
): Promise<Opened> {
  const { chunkSectors, showsOverflow } = line;
  const opened = await openStore(
    {
      origin: origin.device,
      cow,
      arena: host.engine.arena,
      kcopyd,
      chunkSectors,
      showsOverflow,
      mustExist: host.isRestored || host.isReadOnly,
      log: voice.log,
    },
    exceptions,
  );
  if (!opened.isValid) voice.log('Snapshot is marked invalid.');
  return opened;
}

/**
 * What a transient store had is lost with the program: afterwards the snapshot would show the
 * origin as it is now.
 */
function openTransient({ line, host, origin, cow, voice }: Making): Opened {
  const { chunkSectors } = line;
  if (chunkSectors === 0) throw invalid('Chunk size not set: a transient store needs one');
  const complaint = chunkComplaint(chunkSectors, [origin.device, cow]);
  if (complaint !== '') throw invalid(complaint);
  const store = new TransientStore(cow, chunkSectors);
  if (host.isRestored) voice.log('invalid: its store was transient, and is lost');
  return { store, isValid: !host.isRestored, isNew: true };
}
