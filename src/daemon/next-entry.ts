// What becomes of a device's entry in the book by a verb, or by what the plane says of the device.

import type { DeviceEntry } from './book.ts';

/** Behind a clear. */
export function withoutInactive({ saved, isVolatile }: DeviceEntry): DeviceEntry {
  const { inactive: _, ...rest } = saved;
  return { saved: rest, isVolatile };
}

/** Behind a resume. */
export function resumed(entry: DeviceEntry): DeviceEntry {
  const { inactive, ...rest } = entry.saved;
  if (inactive === undefined) {
    return { ...entry, saved: { ...entry.saved, isSuspended: false } };
  }
  return { ...entry, saved: { ...rest, live: inactive, isSuspended: false } };
}

/** What is so, with what only the book knows. */
export function merged(saved: DeviceEntry['saved'], was: DeviceEntry | undefined): DeviceEntry {
  const isVolatile = was?.isVolatile ?? false;
  const isDeferredRemove = saved.isDeferredRemove || was?.saved.isDeferredRemove === true;
  const waits = was?.missingInactive !== undefined && saved.inactive === undefined;
  const { inactive } = was?.saved ?? {};
  return {
    saved: {
      ...saved,
      isDeferredRemove,
      ...(waits && inactive !== undefined ? { inactive } : {}),
    },
    isVolatile,
    ...(waits ? { missingInactive: was.missingInactive } : {}),
  };
}
