// Bugs to plant, one at a time: what the conformance suite must find. `find` is a piece of the compiled
// code, written without regard to white space; it must be there exactly once.

export interface Mutant {
  readonly name: string;
  /** Under dist/src/. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export const MUTANTS: readonly Mutant[] = [
  // ---- ends ----
  {
    name: 'a parent ends before its children',
    file: 'bio/submit.js',
    find: 'if (--bio.remaining > 0) return;',
    replace: '--bio.remaining;',
  },
  {
    name: 'the error of a child is lost',
    file: 'bio/submit.js',
    find: 'parent.status = status;',
    replace: '',
  },
  {
    name: 'a bio ends with success whatever happened',
    file: 'bio/submit.js',
    find: 'bio.status = status; if (isEnding)',
    replace: 'bio.status = bio.status; if (isEnding)',
  },
  {
    name: 'an end that comes while another is handled is lost',
    file: 'bio/submit.js',
    find: 'endTail.next = bio;',
    replace: '',
  },
  {
    name: 'the context is not put back at the end',
    file: 'bio/submit.js',
    find: 'bio.ctx.put();',
    replace: '',
  },
  {
    name: 'clones are charged too',
    file: 'bio/submit.js',
    find: 'if (bio.ownsCtx) { bio.ctx.charge(bio.op, bio.lenBytes);',
    replace: 'bio.ctx.charge(bio.op, bio.lenBytes); if (bio.ownsCtx) {',
  },
  {
    name: 'a bio comes back with the iterator of the layer below',
    file: 'bio/submit.js',
    find: 'bio.sector = frame.sector;',
    replace: '',
  },
  {
    name: 'submitting recurses',
    file: 'bio/submit.js',
    find: 'bio.next = null; if (bio.device !== currentDevice) {',
    replace:
      'bio.next = null; if (bio.device !== currentDevice) { const d = currentDevice; currentDevice = bio.device; bio.device.submit(bio); currentDevice = d; return; }; if (bio.device !== currentDevice) {',
  },
  {
    name: 'a bio queued for the same device is dropped when another one is there',
    file: 'bio/submit.js',
    find: 'sameTail.next = bio;',
    replace: '',
  },

  // ---- chains and iterators ----
  {
    name: 'a child is chained twice',
    file: 'bio/bio.js',
    find: 'parent.remaining++;',
    replace: 'parent.remaining += 2;',
  },
  {
    name: 'a child is not counted',
    file: 'bio/bio.js',
    find: 'parent.remaining++;',
    replace: '',
  },
  {
    name: 'advancing forgets the place within a segment',
    file: 'bio/bio.js',
    find: 'this.segmentDone = left;',
    replace: 'this.segmentDone = 0;',
  },
  {
    name: 'iteration by vector, not by bytes left',
    file: 'bio/bio.js',
    find: 'let left = bio.lenBytes; let done = 0;',
    replace: 'let left = bio.vec.lenBytes; let done = 0;',
  },
  {
    name: 'advancing does not move the sector',
    file: 'bio/bio.js',
    find: 'this.sector += bytes / SECTOR_BYTES;',
    replace: '',
  },
  {
    name: 'a clone runs on no context of its source',
    file: 'bio/bio.js',
    find: 'clone.ctx = source.ctx;',
    replace: '',
  },

  // ---- pools ----
  {
    name: 'a reserve is taken twice',
    file: 'bio/bio-set.js',
    find: 'tryClone(source, owner = this, isChained = true) { const bio = this.#take();',
    replace:
      'tryClone(source, owner = this, isChained = true) { this.#take(); const bio = this.#take();',
  },
  {
    name: 'the limit of a pool is not kept',
    file: 'bio/bio-set.js',
    find: 'if (this.outstanding >= this.max) return null;',
    replace: '',
  },
  {
    name: 'a bio given back is not counted',
    file: 'bio/bio-set.js',
    find: 'this.outstanding--;',
    replace: '',
  },
  {
    name: 'who waits for a bio is not woken',
    file: 'bio/bio-set.js',
    find: 'if (this.#waiters.length > 0) this.#wakeOne();',
    replace: '',
  },
  {
    name: 'a split is one sector short',
    file: 'bio/bio-set.js',
    find: 'front.lenBytes = bytes;',
    replace: 'front.lenBytes = bytes - 512;',
  },
  {
    name: 'the rest of a split begins one sector early',
    file: 'bio/bio-set.js',
    find: 'bio.advance(bytes);',
    replace: 'bio.advance(bytes - 512);',
  },
  {
    name: 'a split cuts the shared vector',
    file: 'bio/bio-set.js',
    find: 'front.lenBytes = bytes;',
    replace: 'front.lenBytes = bytes; if (bio.vec.lens.length > 0) bio.vec.lens[0] = bytes;',
  },
  {
    name: 'a clone has forgotten FUA',
    file: 'bio/bio-set.js',
    find: 'bio.flags = source.flags;',
    replace: 'bio.flags = 0;',
  },
  {
    name: 'a clone starts with the status of its last use',
    file: 'bio/bio-set.js',
    find: 'bio.status = Status.Ok; bio.device = source.device;',
    replace: 'bio.device = source.device;',
  },
  {
    name: 'a clone starts at the beginning of its segment',
    file: 'bio/bio-set.js',
    find: 'bio.segmentDone = source.segmentDone;',
    replace: 'bio.segmentDone = 0;',
  },

  // ---- mapped devices ----
  {
    name: 'a flush goes to the first device only',
    file: 'dm/mapped-device.js',
    find: 'while (frame.step < total)',
    replace: 'while (frame.step < 1)',
  },
  {
    name: 'the flush before a write is left out',
    file: 'dm/mapped-device.js',
    find: 'if ((bio.flags & BioFlag.Preflush) !== 0) this.#preflush(bio); else this.#mapData',
    replace: 'bio.flags &= ~BioFlag.Preflush; this.#mapData',
  },
  {
    name: 'a write goes on when the flush before it failed',
    file: 'dm/mapped-device.js',
    find: 'if (status !== Status.Ok) endBio(bio, status); else submitBio(bio);',
    replace: 'submitBio(bio);',
  },
  {
    name: 'boundaries count from the device, not from the target',
    file: 'dm/mapped-device.js',
    find: '((sector - entry.startSector) % boundary)',
    replace: '(sector % boundary)',
  },
  {
    name: 'the largest I/O of the device below is not kept',
    file: 'dm/mapped-device.js',
    find: 'Math.min(sectors, entry.endSector - sector, table.limits.maxIoSectors);',
    replace: 'Math.min(sectors, entry.endSector - sector);',
  },
  {
    name: 'the largest discard of the device below is not kept',
    file: 'dm/mapped-device.js',
    find: 'return limit > 0 ? Math.min(left, limit) : left;',
    replace: 'return left;',
  },
  {
    name: 'I/O goes on while suspended',
    file: 'dm/mapped-device.js',
    find: 'if (this.#isSuspended) { if (this.#flushAnswer === null)',
    replace: 'if (false) { if (this.#flushAnswer === null)',
  },
  {
    name: 'what came while suspended is lost',
    file: 'dm/mapped-device.js',
    find: 'for (const bio of deferred) submitBio(bio);',
    replace: '',
  },
  {
    name: 'suspending does not wait for I/O in flight',
    file: 'dm/mapped-device.js',
    find: 'if (this.#below === 0) this.#onIdle?.();',
    replace: 'this.#onIdle?.();',
  },
  {
    name: 'a bio that went through is still counted',
    file: 'dm/mapped-device.js',
    find: 'this.#returned(); return !entry.hasEndIo',
    replace: 'return !entry.hasEndIo',
  },
  {
    name: 'a split bio waits for its pieces in a lower device',
    file: 'dm/mapped-device.js',
    find: 'if (isLast && frame.lenBytes === bio.lenBytes) {',
    replace: 'if (isLast) {',
  },
  {
    name: 'a bio that needs its clone no longer keeps its turn',
    file: 'dm/mapped-device.js',
    find: 'if (this.#woken.size > 0 && this.#woken.delete(bio)) this.set.passOn();',
    replace: '',
  },
  {
    name: 'a discard misses the last piece',
    file: 'dm/mapped-device.js',
    find: 'if (++frame.step >= pieces) {',
    replace: 'if (++frame.step >= Math.max(1, pieces - 1)) {',
  },
  {
    name: 'nobody looks where the device ends',
    file: 'dm/mapped-device.js',
    find: 'if (sector + sectors > table.lenSectors || (bio.op === Op.Write && table.isReadOnly)) {',
    replace: 'if (bio.op === Op.Write && table.isReadOnly) {',
  },
  {
    name: 'a read-only table takes writes',
    file: 'dm/mapped-device.js',
    find: 'if (sector + sectors > table.lenSectors || (bio.op === Op.Write && table.isReadOnly)) {',
    replace: 'if (sector + sectors > table.lenSectors) {',
  },
  {
    name: 'a suspend does not flush',
    file: 'dm/table-slots.js',
    find: 'if (options.flushes && live !== null) await this.#flush(live, options.signal);',
    replace: '',
  },

  // ---- tables and limits ----
  {
    name: 'the sector behind a target is still looked up in it',
    file: 'dm/table.js',
    find: 'if (sector < entries[middle].endSector)',
    replace: 'if (sector <= entries[middle].endSector)',
  },
  {
    name: 'limits of stacked devices: the laxer one counts',
    file: 'bio/limits.js',
    find: 'maxIoSectors: Math.min(',
    replace: 'maxIoSectors: Math.max(',
  },
  {
    name: 'a flush reaches the devices of the first target only',
    file: 'dm/table.js',
    find: 'for (const range of entry.target.devices()) devices.add(range.device);',
    replace:
      'for (const range of entry.target.devices()) if (devices.size === 0 || entry === entries[0]) devices.add(range.device);',
  },

  // ---- targets ----
  {
    name: 'linear: off by one sector',
    file: 'targets/linear/linear.target.js',
    find: 'bio.sector += this.#startSector;',
    replace: 'bio.sector += this.#startSector + 1;',
  },
  {
    name: 'striped: the start of a stripe is forgotten',
    file: 'targets/striped/striped.target.js',
    find: 'bio.sector = stripe.startSector + Math.floor(chunk / count) * this.#chunkSectors + inChunk;',
    replace: 'bio.sector = Math.floor(chunk / count) * this.#chunkSectors + inChunk;',
  },
  {
    name: 'striped: a discard begins a chunk late',
    file: 'targets/striped/striped.target.js',
    find: 'if (column > index) return (row + 1) * this.#chunkSectors;',
    replace: 'if (column >= index) return (row + 1) * this.#chunkSectors;',
  },
  {
    name: 'striped: chunks are not kept apart',
    file: 'targets/striped/striped.target.js',
    find: 'boundarySectors: chunkSectors,',
    replace: '',
  },

  // ---- thin ----
  {
    name: 'thin: metadata is committed before its data is durable',
    file: 'targets/thin/metadata.js',
    find: 'await this.#options.beforeCommit?.(); assert(',
    replace: 'assert(',
  },
  {
    name: 'thin: a commit without metadata does not make data durable',
    file: 'targets/thin/metadata.js',
    find: 'if (superblock === undefined) await this.#options.beforeCommit?.();',
    replace: '',
  },
  {
    name: 'thin: the superblock is written before what it refers to',
    file: 'persistent-data/transaction-manager.js',
    find: 'await this.blocks.writeDirty(); await this.blocks.writeAlone(superblock.number, superblock.kind, superblock.data);',
    replace:
      'await this.blocks.writeAlone(superblock.number, superblock.kind, superblock.data); await this.blocks.writeDirty();',
  },
  {
    name: 'thin: a block freed in a transaction is given out in it',
    file: 'persistent-data/reference-counts.js',
    find: 'if (!this.#freed.has(base + bit)) return base + bit;',
    replace: 'return base + bit;',
  },
  {
    name: 'thin: shared blocks are written in place',
    file: 'targets/thin/found-mapping.js',
    find: 'this.isShared = mappedTime(place.view, place.offset) < device.snapshottedTime;',
    replace: 'this.isShared = false;',
  },
  {
    name: 'thin: a cell is let go while its block is being filled',
    file: 'targets/thin/provisioner.js',
    find: 'if (!keepsCell) mappings.release(cell);',
    replace: 'mappings.release(cell);',
  },
  {
    name: 'thin: blocks that others refer to are passed down',
    file: 'targets/thin/data-allocator.js',
    find: 'if ((await metadata.dataCount(block)) > 0) return false;',
    replace: '',
  },
  {
    name: 'thin: what is passed down is given out meanwhile',
    file: 'targets/thin/data-allocator.js',
    find: 'await metadata.incData(block, block + 1);',
    replace: 'await Promise.resolve();',
  },
  {
    name: 'thin: a discard does not wait for I/O in flight',
    file: 'targets/thin/thin-ranges.js',
    find: 'await pool.allIo.drained();',
    replace: '',
  },
  {
    name: 'thin: a snapshot is taken while writes are in flight',
    file: 'targets/thin/thin-pool.target.js',
    find: 'await pool.quiesced(async () => {',
    replace: 'await (async (run) => await run())(async () => {',
  },
  {
    name: 'thin: whoever comes late shares the commit under way',
    file: 'targets/thin/transactions.js',
    find: 'this.#next ??= this.#running.then(async () => await this.#start()); return await this.#next;',
    replace: 'return await this.#running;',
  },
  {
    name: 'thin: a commit leaks blocks that are half given out',
    file: 'targets/thin/allocation-gate.js',
    find: 'while (this.#unsettled > 0)',
    replace: 'while (false)',
  },
  {
    name: 'thin: FUA does not wait for the mapping to be durable',
    file: 'targets/thin/provisioner.js',
    find: '(bio.flags & BioFlag.Fua) !== 0 && pool.metadata.hasChanged) {',
    replace: 'false) {',
  },
  {
    name: 'thin: what a write leaves of a new block is not zeroed',
    file: 'targets/thin/block-filler.js',
    find: 'return copied === size ? Status.Ok : await kcopyd.zero(rest, size - copied, ctx);',
    replace: 'return Status.Ok;',
  },
  {
    name: 'thin: a run takes blocks for adjacent that are not',
    file: 'targets/thin/found-mapping.js',
    find: 'if (mappedDataBlock(view, at) !== this.dataBlock + this.count) return;',
    replace: '',
  },
  {
    name: 'thin: a run is mapped before its data is there',
    file: 'targets/thin/run-writes.js',
    find: 'this.#mapsFirst = isNew && mappings.mayMapFirst(bio);',
    replace: 'this.#mapsFirst = isNew;',
  },
  {
    name: 'thin: a run is not kept from others while its blocks are made',
    file: 'targets/thin/run-writes.js',
    find: 'const cell = device.prison.tryHold(begin, end);',
    replace: 'const cell = device.prison.tryHold(begin + 1e9, end + 1e9);',
  },
  {
    name: 'thin: a flush does not commit',
    file: 'targets/thin/thin-path.js',
    find: 'if (!this.pool.metadata.hasChanged && !this.device.hasLostChanges) {',
    replace: 'if (true) {',
  },

  // ---- crypt ----
  {
    name: 'crypt: a write is encrypted where it lies',
    file: 'targets/crypt/crypt-path.js',
    find: 'cryptor.run(CryptFlag.Encrypt, from, mem + done, len, position + done / SECTOR_BYTES);',
    replace:
      'cryptor.run(CryptFlag.Encrypt, from, from, len, position + done / SECTOR_BYTES); this.#arena.u8.copyWithin(mem + done, from, from + len);',
  },
  {
    name: 'crypt: every segment has the IV of the first',
    file: 'targets/crypt/crypt-path.js',
    find: 'cryptor.run(0, mem, mem, len, position + done / SECTOR_BYTES);',
    replace: 'cryptor.run(0, mem, mem, len, position);',
  },
  {
    name: 'crypt: a read ends before its threads have',
    file: 'targets/crypt/crypt-path.js',
    find: 'this.#pushJobs(this.#takeIo(bio), bio, 0, NONE); return EndIoResult.Incomplete;',
    replace: 'const io = this.#takeIo(bio); this.#pushJobs(io, bio, 0, NONE); io.jobs = 1 << 30;',
  },
  {
    name: 'crypt: the first thread that is done sends the write',
    file: 'targets/crypt/crypt-path.js',
    find: 'if (--io.jobs > 0) return;',
    replace: 'if (--io.jobs > 1) return; if (io.jobs === 0) return;',
  },
  {
    name: 'two writes share the reserve',
    file: 'io/reserved-buffers.js',
    find: 'this.#isReserveFree = false; return this.#reserve;',
    replace: 'return this.#reserve;',
  },
  {
    name: 'crypt: zeroes go down without FUA',
    file: 'targets/crypt/crypt-path.js',
    find: 'clone.flags &= BioFlag.Fua;',
    replace: 'clone.flags = 0;',
  },
  {
    name: 'crypt: a buffer is free before its write has ended',
    file: 'targets/crypt/crypt-path.js',
    find: 'for (const clone of ready) submitBio(clone);',
    replace:
      'for (const clone of ready) { submitBio(clone); const io = clone.ownerWord; this.#arena.u8.fill(0xdb, io.mem, io.mem + io.bytes); }',
  },
  {
    name: 'who waits for a buffer is forgotten',
    file: 'io/reserved-buffers.js',
    find: 'else this.#arena.free(mem, bytes); this.#serve();',
    replace: 'else this.#arena.free(mem, bytes);',
  },
  // ---- block status ----
  {
    name: 'striped: block status of another stripe',
    file: 'targets/striped/striped.target.js',
    find: 'const stripe = this.#stripes[chunk % this.#stripes.length]; const inChunk = at',
    replace: 'const stripe = this.#stripes[0]; const inChunk = at',
  },
  {
    name: 'thin: what is mapped is a hole',
    file: 'targets/thin/mapped-range.js',
    find: 'result.push({ lenSectors: to - at, isHole: false, isZero: false });',
    replace: 'result.push({ lenSectors: to - at, isHole: true, isZero: false });',
  },
  // ---- the NBD server ----
  {
    name: 'nbd: a write is answered before it has ended',
    file: 'frontends/nbd/commands.js',
    find: 'piece.vec.pointAt(dataMem, dataBytes); this.#submit(request, piece, Op.Write, offBytes, dataBytes, flags);',
    replace:
      'const early = new piece.bio.constructor(); const { export: to, ctx } = this.#connection; ' +
      'early.init(Op.Write, to.device, offBytes / SECTOR_BYTES, dataBytes, new piece.vec.constructor([dataMem], [dataBytes], this), ctx, { bioEnd() {} }); ' +
      'early.flags = flags; submitBio(early); this.pieceEnded(piece, Status.Ok);',
  },
  {
    name: 'nbd: a flush is answered at once',
    file: 'frontends/nbd/commands.js',
    find: 'this.#submit(request, this.#piece(request), Op.Flush, 0, 0, 0);',
    replace: 'this.finish(request);',
  },
  {
    name: 'nbd: a write never leaves its gate',
    file: 'frontends/nbd/commands.js',
    find: 'piece.isGated = false; this.#connection.export.gate.leave();',
    replace: 'piece.isGated = false;',
  },
  {
    name: 'nbd: a partial write lets others write meanwhile',
    file: 'frontends/nbd/partial-write.js',
    find: 'if (gate.enter(waiter, true))',
    replace: 'if (gate.enter(waiter, false))',
  },
  {
    name: 'nbd: the data of a read is free before it has been sent',
    file: 'frontends/nbd/commands.js',
    find: 'this.replies.push(request, piece, isLast); request.hasHeader = true;',
    replace:
      'this.replies.push(request, piece, isLast); this.#connection.giveMemory(piece.mem, piece.memBytes); piece.mem = NONE; request.hasHeader = true;',
  },
  {
    name: 'nbd: the data of a read is given back twice',
    file: 'frontends/nbd/commands.js',
    find: 'this.#connection.giveMemory(piece.mem, piece.memBytes); piece.mem = NONE;',
    replace:
      'this.#connection.giveMemory(piece.mem, piece.memBytes); if (request_isRead(piece)) this.#connection.giveMemory(piece.mem, piece.memBytes); piece.mem = NONE; function request_isRead(p) { return p.request.type === Cmd.Read; }',
  },
  {
    name: 'nbd: a write in place does not hold its buffer',
    file: 'frontends/nbd/commands.js',
    find: 'piece.buffer = buffer.get();',
    replace: 'piece.buffer = null;',
  },
  {
    name: 'nbd: a reply has half of another handle',
    file: 'frontends/nbd/replies.js',
    find: 'const { cookie0, cookie1 } = request;',
    replace:
      'const { cookie0 } = request; const cookie1 = list_first(this).cookie1; function list_first(r) { return r.lastRequest ?? (r.lastRequest = request); }',
  },
  {
    name: 'nbd: FUA is dropped',
    file: 'frontends/nbd/commands.js',
    find: 'const { offBytes, dataBytes, dataMem } = piece; const flags = (request.flags & CmdFlag.Fua) !== 0 ? BioFlag.Fua : 0;',
    replace: 'const { offBytes, dataBytes, dataMem } = piece; const flags = 0;',
  },
  {
    name: 'nbd: what comes while requests are looked at is forgotten',
    file: 'frontends/nbd/connection.js',
    find: 'this.#mustPumpAgain = true;',
    replace: '',
  },
  {
    name: 'nbd: pieces of a write end inside blocks',
    file: 'frontends/nbd/connection.js',
    find: 'quarter - (quarter % PIECE_BYTES_MIN)',
    replace: 'quarter',
  },
  {
    name: 'nbd: a trim takes blocks that are partly inside',
    file: 'frontends/nbd/commands.js',
    find: 'const start = Math.ceil(request.offBytes / block) * block;',
    replace: 'const start = Math.floor(request.offBytes / block) * block;',
  },
  {
    name: 'nbd: block status begins a sector too late',
    file: 'frontends/nbd/block-status.js',
    find: 'await tell(first, end - first, max)',
    replace: 'await tell(Math.min(first + 1, end - 1), end - first, max)',
  },
];
