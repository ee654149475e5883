// What LUKS1 and LUKS2 have in common for those who use a volume: its key slots, its key, its data.

import type { KdfLimits, KdfParams } from './key-derivation.ts';
import type { LuksIo } from './luks-io.ts';

export interface UnlockOptions {
  /** Only this slot; without it all that belong to the data, preferred ones first. */
  readonly slot?: number | undefined;
  /** Any but this one. */
  readonly exceptSlot?: number | undefined;
  /** LUKS2: slots of other keys than that of the data count, too. */
  readonly isAnyKey?: boolean | undefined;
  readonly limits?: KdfLimits | undefined;
  /** Before each slot that is tried: how many were, of how many. */
  readonly onTry?: ((done: number, total: number, slot: number) => void) | undefined;
}

export interface Unlocked {
  readonly slot: number;
  /** The caller zeroes it. */
  readonly volumeKey: Buffer;
}

export interface NewKeyOptions {
  /** The first free one if not given. */
  readonly slot?: number | undefined;
  readonly kdf: KdfParams;
  readonly limits?: KdfLimits | undefined;
  /** LUKS2: the cipher of the slot's area, and its key size in bytes. */
  readonly cipher?: string | undefined;
  readonly cipherKeyBytes?: number | undefined;
  /** LUKS2: the hash of the splitter. */
  readonly hash?: string | undefined;
  /** LUKS2: the type of a token that marks the slot. */
  readonly tokenType?: string | undefined;
}

/** A range of the data device, in order from the begin of the mapped device. Bytes. */
export interface LuksSegment {
  readonly type: 'crypt' | 'linear';
  readonly offsetBytes: number;
  /** Undefined: up to the end of the device. */
  readonly sizeBytes: number | undefined;
  /**
   * Of crypt: a dm-crypt cipher, the number of the first sector for the IV, and the size of
   * sectors.
   */
  readonly cipher: string;
  readonly ivOffset: number;
  readonly sectorBytes: number;
}

export interface LuksVolume {
  readonly version: 1 | 2;
  readonly io: LuksIo;
  readonly uuid: string;
  readonly volumeKeyBytes: number;
  /** From the begin, the header and all its key slots: what a backup holds. Bytes. */
  readonly headerBytes: number;
  /** What an operator should know, such as that one copy of the header was not used. */
  readonly notes: readonly string[];
  /** Slots in use. */
  readonly slots: readonly number[];
  /** Slots in use that hold the key of the data. */
  readonly dataSlots: readonly number[];
  /** Options of dm-crypt that the header asks for, in its words (`allow_discards`). */
  readonly flags: readonly string[];

  /**
   * Throws WrongPassphrase when no slot opens, and another DmError when slots could not be tried
   * and none of the others opens.
   */
  unlock(passphrase: Uint8Array, options?: UnlockOptions): Promise<Unlocked>;
  /** Throws WrongPassphrase unless it is the key of the data. */
  checkVolumeKey(volumeKey: Uint8Array): Promise<void>;
  /** Puts the volume key under another passphrase. Answers the slot. */
  addKey(volumeKey: Uint8Array, passphrase: Uint8Array, options: NewKeyOptions): Promise<number>;
  /** Replaces the passphrase of a slot; LUKS1 answers another slot. */
  changeKey(
    slot: number,
    volumeKey: Uint8Array,
    passphrase: Uint8Array,
    options: NewKeyOptions,
  ): Promise<number>;
  /** Makes a slot unusable: the header first, then its key material is overwritten. */
  removeKey(slot: number): Promise<void>;
  /** The key derivation of a slot, to give a new key the same. */
  kdfOf(slot: number): KdfParams;
  /** Throws DmError when the data cannot be mapped, naming why. */
  segments(): LuksSegment[];
  /** The header as `cryptsetup luksDump` prints it. */
  dump(): string;
  /** The header for programs; no keys. */
  describe(): Record<string, unknown>;
}
