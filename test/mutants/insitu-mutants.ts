// Bugs to plant in insitu_comp; see mutants.ts. Storms over the target alone must find them.

import type { Mutant } from './mutants.ts';

const COMMITS = 'targets/insitu-comp/commits.js';
const VOLUME = 'targets/insitu-comp/volume.js';
const READS = 'targets/insitu-comp/reads.js';
const WRITES = 'targets/insitu-comp/writes.js';
const REGION = 'targets/insitu-comp/region.js';
const REPACK = 'targets/insitu-comp/repack.js';
const MAKER = 'targets/insitu-comp/space-maker.js';

export const INSITU_MUTANTS: readonly Mutant[] = [
  {
    name: 'insitu_comp: records are written before the data are there',
    file: COMMITS,
    find: 'let status = await flushDevice(device);',
    replace: 'let status = Status.Ok;',
  },
  {
    name: 'insitu_comp: a commit ends before its records are there',
    file: COMMITS,
    find: 'const flushed = await flushDevice(device);',
    replace: 'const flushed = Status.Ok;',
  },
  {
    name: 'insitu_comp: sectors are used again before the commit',
    file: REGION,
    find: 'extent.refs++; extent.isRecorded = true;',
    replace: '',
  },
  {
    name: 'insitu_comp: a flush does not wait for a commit',
    file: COMMITS,
    find: 'if (this.isClean) {',
    replace: 'if (true) {',
  },
  {
    name: 'insitu_comp: FUA ends with the data',
    file: VOLUME,
    find: 'if (this.mustBeDurable(bio)) this.commits.endDurable(bio); else',
    replace: '',
  },
  {
    name: 'insitu_comp: an extent goes when one of its blocks is overwritten',
    file: VOLUME,
    find: 'if (extent.visible === 0) this.#leave(region, extent);',
    replace: 'if (true) this.#leave(region, extent);',
  },
  {
    name: 'insitu_comp: an extent loses its checksum with its first block',
    file: VOLUME,
    find: 'else region.settle(extent);',
    replace: '',
  },
  {
    name: 'insitu_comp: what is left of an extent has no sectors of its own',
    file: VOLUME,
    find: 'for (const part of parts) this.#share(region, part);',
    replace: '',
  },
  {
    name: 'insitu_comp: the spill area counts as free after a restart',
    file: VOLUME,
    find: 'if (!this.spill.claim(extent.at, extent.sectors)) {',
    replace: 'if (false) {',
  },
  {
    name: 'insitu_comp: a suspend leaves changes in memory',
    file: VOLUME,
    find: 'if (!this.commits.isClean) status = await this.commits.run();',
    replace: '',
  },
  {
    name: 'insitu_comp: a moved extent takes blocks of others along',
    file: VOLUME,
    find: 'before === from[i]',
    replace: 'old.includes(before)',
  },
  {
    name: 'insitu_comp: the checksum of data as they are is not looked at',
    file: READS,
    find: 'if (sum === extent.sums[block - extent.first]) continue;',
    replace: 'continue;',
  },
  {
    name: 'insitu_comp: the checksum of a payload is not looked at',
    file: 'codec/codec-jobs.js',
    find: 'this.#checksum(seed, src, sectors, 0) === this.#i32[word + 1]',
    replace: 'true',
  },
  {
    name: 'insitu_comp: sectors are given to others while they are read',
    file: READS,
    find: 'job.status = Status.Ok; extent.refs++;',
    replace: 'job.status = Status.Ok;',
  },
  {
    name: 'insitu_comp: a read of the end of an extent gets its beginning',
    file: READS,
    find: 'let from = dst + (job.block - extent.first) * BLOCK_BYTES;',
    replace: 'let from = dst;',
  },
  {
    name: 'insitu_comp: a write ends while its payload is on the way',
    file: WRITES,
    find: 'clone.ownerWord = job; submitBio(clone);',
    replace:
      'clone.ownerWord = job; job.isFua = true; this.#volume.apply(job.region, new Extent(job.first, job.count, job.codec, job.at, job.sectors, job.bytes, job.sums)); submitBio(clone);',
  },
  {
    name: 'insitu_comp: sectors in use are discarded',
    file: REGION,
    find: 'if (!this.#isFree(block * 8, 8)) continue;',
    replace: '',
  },
  {
    name: 'insitu_comp: a region is written to while it is moved',
    file: MAKER,
    find: 'region.isLocked = true;',
    replace: '',
  },
  {
    name: 'insitu_comp: damage that is moved gets a checksum that is right',
    file: REPACK,
    find: 'known.get(block) ?? codecs.checksum(',
    replace: 'codecs.checksum(',
  },
  {
    name: 'insitu_comp: a damaged payload is decompressed all the same',
    file: REPACK,
    find: 'damage.extents.add(extent); return true;',
    replace: '',
  },
  {
    name: 'insitu_comp: an error of the write of a record is not told',
    file: COMMITS,
    find: 'for (const one of run) one.status = status;',
    replace: '',
  },
  {
    name: 'insitu_comp: after an error the new record counts as not written',
    file: COMMITS,
    find: 'region.keep(gone);',
    replace: 'for (const extent of gone) this.#host.drop(region, extent);',
  },
  {
    name: 'insitu_comp: what was not committed is forgotten',
    file: COMMITS,
    find: 'region.keep(gone); this.#keep(region);',
    replace: 'region.keep(gone);',
  },
];
