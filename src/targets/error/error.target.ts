// error: every I/O fails. What a table is replaced by when its devices are gone.

import { type DeviceRange, MapResult, type Target, type TargetType } from '../../dm/target.ts';

class ErrorTarget implements Target {
  map(): MapResult {
    return MapResult.Kill;
  }

  status(): string {
    return '';
  }

  devices(): readonly DeviceRange[] {
    return [];
  }
}

/** Arguments are ignored, so that any line can be turned off by changing one word. */
function create(): Promise<Target> {
  return Promise.resolve(new ErrorTarget());
}

export default { name: 'error', version: [1, 5, 0], create } satisfies TargetType;
