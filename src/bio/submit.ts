// The submit loop and the end loop: the only two ways a bio moves.
//
// Submitting is depth-first and flat. A bio submitted while another is being handled (a target's clone,
// the rest of a split) is queued on the running loop: bios for lower devices first, then those for the
// device just called, then what was queued before. So the deepest work runs first, a split gives back
// its reserve before it takes the next piece, and no stack of any height recurses.
//
// Ending is flat as well: a bio ended from inside a `bioEnd` or a `submit` inside it waits its turn on
// the end list.

import { assert, bug, debugBuild } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import type { Bio } from './bio.ts';
import type { BlockDevice } from './device.ts';

let isSubmitting = false;
let currentDevice: BlockDevice | null = null;
// Lists of the running loop, linked through bio.next.
let pending: Bio | null = null;
let lowerHead: Bio | null = null;
let lowerTail: Bio | null = null;
let sameHead: Bio | null = null;
let sameTail: Bio | null = null;

/** Sends a bio to `bio.device`. It will be ended once, perhaps before this returns. */
export function submitBio(bio: Bio): void {
  if (debugBuild) checkSubmit(bio);
  if (!isSubmitting) {
    isSubmitting = true;
    pending = bio;
    bio.next = null;
    runSubmits();
    return;
  }
  bio.next = null;
  if (bio.device !== currentDevice) {
    if (lowerTail === null) lowerHead = bio;
    else lowerTail.next = bio;
    lowerTail = bio;
  } else {
    if (sameTail === null) sameHead = bio;
    else sameTail.next = bio;
    sameTail = bio;
  }
}

function runSubmits(): void {
  try {
    while (pending !== null) {
      const bio = pending;
      pending = bio.next;
      bio.next = null;
      const device = bio.device as BlockDevice;
      currentDevice = device;
      device.submit(bio);
      if (sameTail !== null) {
        sameTail.next = pending;
        pending = sameHead;
        sameHead = sameTail = null;
      }
      if (lowerTail !== null) {
        lowerTail.next = pending;
        pending = lowerHead;
        lowerHead = lowerTail = null;
      }
    }
  } finally {
    isSubmitting = false;
    currentDevice = null;
    // Left only by a broken invariant: what comes after it in this process starts clean.
    pending = lowerHead = lowerTail = sameHead = sameTail = null;
  }
}

let isEnding = false;
let endHead: Bio | null = null;
let endTail: Bio | null = null;

/** Ends a bio, once. `status` counts if it is the first error. */
export function endBio(bio: Bio, status: Status): void {
  if (debugBuild) checkEnd(bio);
  if (status !== Status.Ok && bio.status === Status.Ok) bio.status = status;
  if (isEnding) {
    bio.next = null;
    if (endTail === null) endHead = bio;
    else endTail.next = bio;
    endTail = bio;
    return;
  }
  isEnding = true;
  try {
    finish(bio);
    while (endHead !== null) {
      const next: Bio = endHead;
      endHead = next.next;
      if (endHead === null) endTail = null;
      next.next = null;
      finish(next);
    }
  } finally {
    isEnding = false;
    endHead = endTail = null;
  }
}

function finish(first: Bio): void {
  let bio: Bio | null = first;
  while (bio !== null) {
    if (--bio.remaining > 0) return;
    if (!popFrames(bio)) return;
    const parent: Bio | null = bio.parent;
    const status = bio.status;
    release(bio);
    if (parent !== null && status !== Status.Ok && parent.status === Status.Ok) {
      parent.status = status;
    }
    const owner = bio.owner;
    if (owner === null) bug(`bio ${bio.id}: ended without an owner`);
    owner.bioEnd(bio);
    bio = parent;
  }
}

/** False when a layer kept the bio; it counts as in flight again. */
function popFrames(bio: Bio): boolean {
  while (bio.depth > 0) {
    const frame = bio.frames[--bio.depth];
    if (frame === undefined || frame.hook === null)
      return bug(`bio ${bio.id}: frame without a hook`);
    bio.sector = frame.sector;
    bio.lenBytes = frame.lenBytes;
    bio.segment = frame.segment;
    bio.segmentDone = frame.segmentDone;
    bio.remaining = 1;
    if (!frame.hook.bioPopped(bio, frame)) return false;
  }
  bio.remaining = 0;
  return true;
}

function release(bio: Bio): void {
  if (bio.ownsCtx) {
    bio.ctx.charge(bio.op, bio.lenBytes);
    bio.ctx.put();
    bio.ownsCtx = false;
  }
  if (debugBuild) {
    assert(bio.liveClones === 0, `bio ${bio.id}: ended before ${bio.liveClones} of its clones`);
    if (bio.source !== null) bio.source.liveClones--;
  }
}

function checkSubmit(bio: Bio): void {
  assert(!bio.isPoisoned, `bio ${bio.id}: submitted after it was freed`);
  assert(bio.remaining > 0, `bio ${bio.id}: submitted, but it has ended or was never filled`);
  assert(bio.device !== null, `bio ${bio.id}: submitted without a device`);
}

function checkEnd(bio: Bio): void {
  assert(!bio.isPoisoned, `bio ${bio.id}: ended after it was freed`);
  assert(bio.remaining > 0, `bio ${bio.id}: ended twice`);
}
