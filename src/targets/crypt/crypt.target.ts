// crypt: encryption of whole sectors, on the kernel's dm-crypt format. The data path is in
// targets/crypt/crypt-path.ts; here are the table line, the key and the messages.

import { assert } from '../../base/assert.ts';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import {
  type DeviceRange,
  type EndIoResult,
  failMap,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import type { ComputeDefinition } from '../../io/compute.ts';
import { type CipherSpec, parseCipherSpec } from './cipher-spec.ts';
import {
  type CryptOptions,
  type KeySource,
  parseCryptOptions,
  printCryptOptions,
  readKey,
} from './crypt-options.ts';
import { CryptPath, type CryptPlace, IO_BYTES_MAX } from './crypt-path.ts';
import { type CryptorRecipe, makeHandler } from './cryptor.ts';
import { VolumeKey } from './volume-key.ts';

const CRYPTOR_MODULE = new URL(
  `./cryptor.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`,
  import.meta.url,
).href;

class Crypt implements Target {
  readonly traits: TargetTraits;
  readonly #spec: CipherSpec;
  readonly #options: CryptOptions;
  readonly #place: CryptPlace;
  readonly #host: TargetHost;
  readonly #path: CryptPath;
  readonly #sectorMask: number;
  #source: KeySource;
  #key: VolumeKey | null = null;
  #isSuspended = false;

  constructor(
    spec: CipherSpec,
    options: CryptOptions,
    source: KeySource,
    place: CryptPlace,
    host: TargetHost,
  ) {
    this.#spec = spec;
    this.#options = options;
    this.#source = source;
    this.#place = place;
    this.#host = host;
    this.#sectorMask = options.sectorBytes / SECTOR_BYTES - 1;
    this.traits = { discardPieces: options.allowsDiscards ? 1 : 0 };
    this.#path = new CryptPath(`crypt ${host.deviceName}`, options, place, host.engine);
    try {
      this.#useKey(source);
    } catch (error) {
      this.#path.close();
      throw error;
    }
  }

  map(bio: Bio): MapResult {
    if (bio.op !== Op.Discard) {
      if (((bio.sector | bio.lenSectors) & this.#sectorMask) !== 0) return failMap(bio, Status.Io);
      if (bio.op !== Op.Read) {
        if (bio.op === Op.Write) this.#path.write(bio);
        else this.#path.writeZeroes(bio);
        return MapResult.Submitted;
      }
    }
    bio.device = this.#place.device;
    bio.sector += this.#place.startSector;
    bio.targetWord = 0;
    return MapResult.Remapped;
  }

  endIo(bio: Bio): EndIoResult {
    return this.#path.ended(bio);
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'info') return '';
    const { secret, shownWord } = this.#source;
    return this.#tableLine(shownWord ?? '00'.repeat(secret.lenBytes));
  }

  tableWithKeys(): string {
    const { secret, shownWord } = this.#source;
    if (shownWord !== null) return this.#tableLine(shownWord);
    // Wiped, it is zeroes, as the kernel shows it.
    const key = this.#key === null ? Buffer.alloc(secret.lenBytes) : Buffer.from(secret.bytes);
    const word = key.toString('hex');
    key.fill(0);
    return this.#tableLine(word);
  }

  devices(): readonly DeviceRange[] {
    const { lenSectors } = this.#host;
    const { device, startSector } = this.#place;
    return [{ device, startSector, lenSectors }];
  }

  limits(stacked: QueueLimits): QueueLimits {
    const { sectorBytes, allowsDiscards } = this.#options;
    const maxIoSectors = Math.min(stacked.maxIoSectors, IO_BYTES_MAX / SECTOR_BYTES);
    return {
      ...stacked,
      logicalBlockBytes: Math.max(stacked.logicalBlockBytes, sectorBytes),
      physicalBlockBytes: Math.max(stacked.physicalBlockBytes, sectorBytes),
      ioMinBytes: Math.max(stacked.ioMinBytes, sectorBytes),
      maxIoSectors,
      maxDiscardSectors: allowsDiscards ? stacked.maxDiscardSectors : 0,
      // They go down as writes.
      maxWriteZeroesSectors: maxIoSectors,
    };
  }

  /** A hole below is not zeroes here: it decrypts to something. */
  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const { device, startSector } = this.#place;
    const found = await device.extents(startSector + sector, lenSectors, maxExtents);
    return found.map((extent) => ({ ...extent, isZero: false }));
  }

  async message(argv: readonly string[]): Promise<string> {
    const [noun = '', verb = '', word] = argv;
    const isSet = verb.toLowerCase() === 'set' && argv.length === 3;
    const isWipe = verb.toLowerCase() === 'wipe' && argv.length === 2;
    if (noun.toLowerCase() !== 'key' || (!isSet && !isWipe)) {
      const shown = noun.toLowerCase() === 'key' ? `key ${verb}` : noun;
      throw invalid(
        `unrecognised message received: '${shown}' with ${argv.length} words: expected key set <key> ` +
          'or key wipe',
      );
    }
    if (!this.#isSuspended) throw invalid('not suspended during key manipulation');
    if (isWipe) this.#wipeKey();
    else this.#setKey(readKey(word as string));
    return await Promise.resolve('');
  }

  postsuspend(): Promise<void> {
    this.#isSuspended = true;
    return Promise.resolve();
  }

  async preresume(): Promise<void> {
    if (this.#key === null) {
      throw new DmError(Status.Again, 'aborting resume: crypt key is not set: send key set <key>');
    }
    await Promise.resolve();
  }

  resume(): void {
    this.#isSuspended = false;
  }

  async close(): Promise<void> {
    this.#dropKey();
    this.#source.secret.wipe();
    this.#path.close();
    await Promise.resolve();
  }

  // ---- keys ----

  #useKey(source: KeySource): void {
    const { compute } = this.#host.engine;
    const { sectorBytes, hasLargeIvSectors } = this.#options;
    const format = { sectorBytes, hasLargeIvSectors };
    const key = new VolumeKey(this.#spec, format, source.secret.bytes, 1 + compute.threads);
    const [own, ...others] = key.recipes;
    assert(own !== undefined, 'crypt: a key without a recipe');
    const isInline = compute.threads === 0 || own.legacy !== null || own.chainMode === 'null';
    try {
      const queue = isInline ? null : compute.define(this.#definition(others));
      this.#path.useKey(own, queue);
    } catch (error) {
      key.close();
      throw error;
    }
    this.#key = key;
  }

  #definition(recipes: readonly CryptorRecipe[]): ComputeDefinition {
    return {
      name: `crypt ${this.#host.deviceName}`,
      module: CRYPTOR_MODULE,
      makeHandler,
      recipes,
      isSticky: this.#options.isSameCpu,
      weight: this.#options.isHighPriority ? 4 : 1,
    };
  }

  #setKey(source: KeySource): void {
    const old = this.#source;
    if (source.secret.lenBytes !== old.secret.lenBytes) {
      const found = source.secret.lenBytes;
      source.secret.wipe();
      throw invalid(
        `key set: ${found} bytes: the size of the key is fixed: ${old.secret.lenBytes} bytes`,
      );
    }
    const { sectorBytes, hasLargeIvSectors } = this.#options;
    try {
      // Tried before the old one goes.
      const format = { sectorBytes, hasLargeIvSectors };
      new VolumeKey(this.#spec, format, source.secret.bytes, 1).close();
    } catch (error) {
      source.secret.wipe();
      throw error;
    }
    this.#dropKey();
    old.secret.wipe();
    this.#source = source;
    this.#useKey(source);
  }

  #wipeKey(): void {
    this.#dropKey();
    this.#source.secret.bytes.fill(0);
    this.#source = { ...this.#source, shownWord: null };
  }

  #dropKey(): void {
    this.#path.dropKey();
    this.#key?.close();
    this.#key = null;
  }

  #tableLine(key: string): string {
    const { startSector, ivOffset } = this.#place;
    const device = `${deviceWord(this.#place.device)} ${startSector}`;
    const options = printCryptOptions(this.#options);
    return `${this.#spec.text} ${key === '' ? '-' : key} ${ivOffset} ${device}${options}`;
  }
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  if (args.length < 5) {
    throw invalid(
      `Not enough arguments: ${args.length}, expected <cipher> <key> <iv offset> <device> <start sector> ` +
        '[<#options> <option>...]',
    );
  }
  const [cipher, keyWord, ivWord, reference, start, ...rest] = args as [
    string,
    string,
    string,
    string,
    string,
    ...string[],
  ];
  const options = parseCryptOptions(rest, host.lenSectors);
  const spec = parseCipherSpec(cipher);
  const source = readKey(keyWord);
  try {
    const ivOffset = parseSectors(ivWord, 'Invalid iv_offset sector');
    const perSector = options.sectorBytes / SECTOR_BYTES;
    if (ivOffset % perSector !== 0) {
      throw invalid(`Invalid iv_offset sector: ${ivOffset}: expected a multiple of ${perSector}`);
    }
    const startSector = parseSectors(start, 'Invalid device sector');
    const { lenSectors } = host;
    const device = await host.openDevice(reference, { startSector, lenSectors });
    return new Crypt(spec, options, source, { device, startSector, ivOffset }, host);
  } catch (error) {
    source.secret.wipe();
    throw error;
  }
}

export default { name: 'crypt', version: [1, 24, 0], create } satisfies TargetType;
