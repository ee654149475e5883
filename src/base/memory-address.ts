// The address of shared memory in this process, for native code that works on arena places.

import koffi from 'koffi';
import type { SharedMemory } from './wasm.ts';

const addresses = new WeakMap<SharedMemory, number>();

/** The address of byte 0. It never moves, and is below 2^47, so exact as a number. */
export function addressOf(memory: SharedMemory): number {
  let address = addresses.get(memory);
  if (address === undefined) {
    address = Number(koffi.address(new Uint8Array(memory.buffer)));
    addresses.set(memory, address);
  }
  return address;
}
