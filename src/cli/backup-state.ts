// The state of a thin volume, as backups name it, and the snapshots that are kept with one.

import { randomBytes } from 'node:crypto';
import { call } from './daemon-call.ts';

/** The UUID of a snapshot that is kept: this, and the state that its backup has. */
export const KEPT = 'lamina-backup:';

interface State {
  readonly state: string;
  readonly isUnchanged: boolean;
}

/** The state of device `of`, as its snapshot has it. */
export async function stateOf(pool: string, snapshot: number, of: number): Promise<State> {
  const uuid = randomBytes(16).toString('hex');
  const answer = await call('message', pool, 0, `backup_state ${snapshot} ${of} ${uuid}`);
  const words = answer.trim().split(' ');
  return { state: words.slice(0, 4).join('/'), isUnchanged: words[4] === '1' };
}
