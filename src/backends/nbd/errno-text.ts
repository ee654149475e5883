// An errno of the connection in words for operators.

import { getSystemErrorMap } from 'node:util';
import { type Status, statusName } from '../../base/status.ts';

export function errnoText(status: Status): string {
  const known = getSystemErrorMap().get(-status);
  return known === undefined ? statusName(status) : `${known[1]} (${known[0]})`;
}
