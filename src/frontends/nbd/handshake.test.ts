// The handshake as a state machine: bytes in, steps out, no sockets.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { Info, NBD_MAGIC, NBD_OPTION_MAGIC, Opt, Rep, TransmissionFlag } from '../../format/nbd.ts';
import {
  MadeUpCatalog,
  type OptionReply,
  be16,
  be32,
  be64,
  goOption,
  infoData,
  lengthAndText,
  madeUpExport,
  metaData,
  parseReplies,
  rawHeader,
  rawOption,
} from '../../testing/nbd-raw.ts';
import type { Step } from './handshake-step.ts';
import { Handshake, OPTIONS_MAX, OPTION_BYTES_MAX } from './handshake.ts';
import type { TlsMode } from './tls.ts';

const DISK = madeUpExport('disk', {
  description: 'a disk',
  sizeBytes: 5 * 2 ** 40 + 512,
  isRotational: true,
});
const CATALOG = [madeUpExport(''), DISK, madeUpExport('ro', { isReadOnly: true })];
const FLAGS = be32(3);

interface Rig {
  readonly handshake: Handshake;
  readonly catalog: MadeUpCatalog;
  readonly failures: unknown[];
}

function rig(tls: TlsMode = 'off'): Rig {
  const catalog = new MadeUpCatalog(CATALOG);
  const failures: unknown[] = [];
  const handshake = new Handshake(catalog, {
    tls,
    peer: 'test:1',
    onLookupFailure: (error) => failures.push(error),
  });
  return { handshake, catalog, failures };
}

interface Outcome {
  /** Replies sent before the end, in order. */
  readonly replies: OptionReply[];
  /** The step that the run stopped at. */
  readonly last: Step;
}

/** Feeds bytes in pieces of `pieceBytes` until an end, or until more input is wanted. */
async function drive(
  handshake: Handshake,
  bytes: Buffer,
  pieceBytes = bytes.length,
): Promise<Outcome> {
  const sent: Uint8Array[] = [];
  let at = 0;
  for (;;) {
    const last = await handshake.next();
    if (last.kind === 'reply') sent.push(last.send);
    else if (last.kind === 'input' && at < bytes.length) {
      handshake.feed(bytes.subarray(at, at + pieceBytes));
      at += pieceBytes;
    } else {
      return { replies: parseReplies(Buffer.concat(sent)), last };
    }
  }
}

/** The replies to one option after the client flags, a text each: `ACK`, `ERR_UNSUP`, ... */
async function answers(...options: Buffer[]): Promise<string[]> {
  const { replies } = await drive(rig().handshake, Buffer.concat([FLAGS, ...options]));
  return replies.map((r) => replyName(r.type));
}

function replyName(type: number): string {
  const found = Object.entries(Rep).find(([, value]) => value === type);
  return found?.[0] ?? `type ${type}`;
}

const STRUCTURED = rawOption(Opt.StructuredReply);
const SET_DISK = rawOption(Opt.SetMetaContext, metaData('disk', ['base:allocation']));

describe('nbd handshake: greeting and client flags', () => {
  it('greets as fixed newstyle without zeroes', () => {
    const greeting = Buffer.from(rig().handshake.greeting());
    assert.deepEqual(
      greeting,
      Buffer.concat([be64(NBD_MAGIC), be64(NBD_OPTION_MAGIC), Buffer.from([0, 3])]),
    );
    assert.equal(greeting.toString('latin1', 0, 16), 'NBDMAGICIHAVEOPT');
  });

  for (const flags of [4, 0x80000000, 0xffffffff]) {
    it(`closes on client flags 0x${flags.toString(16)}`, async () => {
      const { last } = await drive(rig().handshake, be32(flags));
      assert.equal(last.kind, 'fatal');
    });
  }

  it('takes nothing but EXPORT_NAME from a client without fixed newstyle', async () => {
    const list = await drive(rig().handshake, Buffer.concat([be32(0), rawOption(Opt.List)]));
    assert.equal(list.last.kind, 'fatal');
    const name = rawOption(Opt.ExportName, Buffer.from('disk'));
    const named = await drive(rig().handshake, Buffer.concat([be32(0), name]));
    assert.equal(named.last.kind, 'negotiated');
  });
});

describe('nbd handshake: EXPORT_NAME', () => {
  for (const [flags, lenBytes] of [
    [1, 134],
    [3, 10],
  ] as const) {
    it(`answers ${lenBytes} bytes to client flags ${flags}`, async () => {
      const option = rawOption(Opt.ExportName, Buffer.from('disk'));
      const { last } = await drive(rig().handshake, Buffer.concat([be32(flags), option]));
      assert.ok(last.kind === 'negotiated');
      const send = Buffer.from(last.send);
      assert.equal(send.length, lenBytes);
      assert.equal(send.readBigUInt64BE(0), BigInt(DISK.sizeBytes));
      assert.equal(send.readUInt16BE(8) & TransmissionFlag.SendDf, 0);
      assert.ok(send.subarray(10).every((b) => b === 0));
    });
  }

  for (const [what, name] of [
    ['an unknown export', Buffer.from('nope')],
    ['a name that is not UTF-8', Buffer.from([0xff, 0xfe])],
    ['a name with a NUL', Buffer.from('di\0sk')],
    ['a name of 4097 bytes', Buffer.alloc(4097, 'x')],
  ] as const) {
    it(`closes on ${what}`, async () => {
      const option = rawOption(Opt.ExportName, name);
      const { last, replies } = await drive(rig().handshake, Buffer.concat([FLAGS, option]));
      assert.equal(last.kind, 'fatal');
      assert.equal(replies.length, 0);
    });
  }
});

describe('nbd handshake: INFO and GO', () => {
  it('tells the export first, and what was asked for', async () => {
    const asked = [Info.Name, Info.Description, Info.BlockSize, 77, Info.Name];
    const option = rawOption(Opt.Info, infoData('disk', asked));
    const { replies, last } = await drive(rig().handshake, Buffer.concat([FLAGS, option]));
    assert.equal(last.kind, 'input');
    const flags =
      TransmissionFlag.HasFlags |
      TransmissionFlag.SendFlush |
      TransmissionFlag.SendFua |
      TransmissionFlag.Rotational |
      TransmissionFlag.SendTrim |
      TransmissionFlag.SendWriteZeroes |
      TransmissionFlag.CanMultiConn |
      TransmissionFlag.SendCache |
      TransmissionFlag.SendFastZero;
    assert.deepEqual(
      replies.map((r) => r.data),
      [
        Buffer.concat([be16(Info.Export), be64(BigInt(DISK.sizeBytes)), be16(flags)]),
        Buffer.concat([be16(Info.Name), Buffer.from('disk')]),
        Buffer.concat([be16(Info.Description), Buffer.from('a disk')]),
        Buffer.concat([be16(Info.BlockSize), be32(1), be32(4096), be32(64 << 20)]),
        Buffer.alloc(0),
      ],
    );
    assert.equal(replies.at(-1)?.type, Rep.Ack);
  });

  it('tells of the export alone when nothing was asked for', async () => {
    assert.deepEqual(await answers(rawOption(Opt.Info, infoData('disk'))), ['Info', 'Ack']);
  });

  it('offers nothing that writes on a read-only export', async () => {
    const option = rawOption(Opt.Info, infoData('ro'));
    const { replies } = await drive(rig().handshake, Buffer.concat([FLAGS, STRUCTURED, option]));
    const flags = replies[1]?.data.readUInt16BE(10) ?? 0;
    assert.notEqual(flags & TransmissionFlag.ReadOnly, 0);
    assert.notEqual(flags & TransmissionFlag.SendDf, 0);
    const writing =
      TransmissionFlag.SendTrim | TransmissionFlag.SendWriteZeroes | TransmissionFlag.SendFastZero;
    assert.equal(flags & writing, 0);
  });

  it('begins transmission on GO with the bytes that came behind it', async () => {
    const bytes = Buffer.concat([FLAGS, goOption('disk'), Buffer.from('a request')]);
    const { last } = await drive(rig().handshake, bytes);
    assert.ok(last.kind === 'negotiated');
    assert.deepEqual(
      parseReplies(Buffer.from(last.send)).map((r) => replyName(r.type)),
      ['Info', 'Ack'],
    );
    assert.equal(Buffer.from(last.rest).toString(), 'a request');
    assert.deepEqual(last.negotiated, {
      frontEnd: 'nbd',
      exportName: 'disk',
      isReadOnly: false,
      hasStructuredReplies: false,
      contexts: [],
      peer: 'test:1',
    });
  });

  it('goes on after a GO for an export that does not exist', async () => {
    const { last, replies } = await drive(
      rig().handshake,
      Buffer.concat([FLAGS, goOption('nope'), goOption('')]),
    );
    assert.equal(replies[0]?.type, Rep.ErrUnknown);
    assert.match(replies[0].data.toString(), /'nope': no such export/);
    assert.equal(last.kind, 'negotiated');
  });

  for (const [what, data] of [
    ['no data', Buffer.alloc(0)],
    ['a name length beyond the data', Buffer.concat([be32(100), Buffer.from('disk'), be16(0)])],
    ['a name length of 4 GiB', Buffer.concat([be32(0xffffffff), be16(0)])],
    ['a count beyond the data', Buffer.concat([lengthAndText('disk'), be16(2), be16(0)])],
    ['data behind the requests', Buffer.concat([infoData('disk'), be16(0)])],
    ['no count', lengthAndText('disk')],
    ['a name that is not UTF-8', infoData(Buffer.from([0xc3, 0x28]))],
    ['a name with a NUL', infoData('a\0b')],
    ['a name of 4097 bytes', infoData('x'.repeat(4097))],
  ] as const) {
    it(`refuses ${what} and goes on`, async () => {
      const got = await answers(rawOption(Opt.Info, data), rawOption(Opt.Go, data), STRUCTURED);
      assert.deepEqual(got, ['ErrInvalid', 'ErrInvalid', 'Ack']);
    });
  }

  it('looks up names of 4096 bytes', async () => {
    const { replies } = await drive(
      rig().handshake,
      Buffer.concat([FLAGS, rawOption(Opt.Info, infoData('ä'.repeat(2048)))]),
    );
    assert.equal(replies[0]?.type, Rep.ErrUnknown);
    assert.ok((replies[0]?.data.length ?? 0) <= 4096, 'an error text of at most 4096 bytes');
  });
});

describe('nbd handshake: other options', () => {
  it('lists exports with their descriptions', async () => {
    const { replies } = await drive(rig().handshake, Buffer.concat([FLAGS, rawOption(Opt.List)]));
    assert.deepEqual(
      replies.map((r) => r.data),
      [
        lengthAndText(''),
        Buffer.concat([lengthAndText('disk'), Buffer.from('a disk')]),
        lengthAndText('ro'),
        Buffer.alloc(0),
      ],
    );
  });

  it('acknowledges ABORT, with data or without', async () => {
    for (const data of [Buffer.alloc(0), Buffer.from('bye')]) {
      const bytes = Buffer.concat([FLAGS, rawOption(Opt.Abort, data)]);
      const { last } = await drive(rig().handshake, bytes);
      assert.ok(last.kind === 'abort');
      assert.deepEqual(parseReplies(Buffer.from(last.send))[0]?.type, Rep.Ack);
    }
  });

  for (const code of [Opt.List, Opt.StructuredReply, Opt.StartTls]) {
    it(`refuses data behind option ${code}`, async () => {
      const got = await answers(rawOption(code, Buffer.from('x')), STRUCTURED);
      assert.deepEqual(got, ['ErrInvalid', 'Ack']);
    });
  }

  for (const code of [0, 4, Opt.ExtendedHeaders, 12, 0xffffffff]) {
    it(`answers ERR_UNSUP to option ${code}`, async () => {
      const got = await answers(rawOption(code, Buffer.alloc(300)), STRUCTURED);
      assert.deepEqual(got, ['ErrUnsup', 'Ack']);
    });
  }

  for (const [code, expected] of [
    [99, 'ErrUnsup'],
    [Opt.List, 'ErrInvalid'],
    [Opt.Go, 'ErrTooBig'],
    [Opt.SetMetaContext, 'ErrTooBig'],
  ] as const) {
    it(`drops a payload of 16 MiB behind option ${code}: ${expected}`, async () => {
      const { handshake } = rig();
      const lenBytes = 16 << 20;
      await drive(handshake, Buffer.concat([FLAGS, rawHeader(code, lenBytes)]));
      const piece = Buffer.alloc(1 << 20);
      for (let i = 1; i < 16; i++) {
        const { last, replies } = await drive(handshake, piece);
        assert.equal(last.kind, 'input');
        assert.equal(replies.length, 0);
      }
      const { replies } = await drive(handshake, Buffer.concat([piece, STRUCTURED]));
      assert.deepEqual(
        replies.map((r) => replyName(r.type)),
        [expected, 'Ack'],
      );
    });
  }

  it('parses the longest payload it keeps and refuses one byte more', async () => {
    const filler = OPTION_BYTES_MAX - infoData('').length;
    const most = rawOption(Opt.Info, Buffer.concat([infoData(''), Buffer.alloc(filler)]));
    const more = rawOption(Opt.Info, Buffer.concat([infoData(''), Buffer.alloc(filler + 1)]));
    assert.deepEqual(await answers(most, more), ['ErrInvalid', 'ErrTooBig']);
  });

  it('closes on a wrong option magic', async () => {
    const bytes = Buffer.concat([FLAGS, be64(NBD_OPTION_MAGIC + 1n), be32(3), be32(0)]);
    const { last } = await drive(rig().handshake, bytes);
    assert.ok(last.kind === 'fatal');
    assert.match(last.why, /magic/);
  });

  it(`closes after ${OPTIONS_MAX} options`, async () => {
    const many = Buffer.concat([FLAGS, ...Array.from({ length: 10_000 }, () => STRUCTURED)]);
    const { last, replies } = await drive(rig().handshake, many);
    assert.equal(last.kind, 'fatal');
    assert.equal(replies.length, OPTIONS_MAX);
  });
});

async function contextId(...options: Buffer[]): Promise<number> {
  const { last } = await drive(rig().handshake, Buffer.concat([FLAGS, ...options]));
  assert.ok(last.kind === 'negotiated');
  return last.negotiated.contexts[0]?.id ?? -1;
}

function list(queries: readonly (string | Buffer)[]): Buffer {
  return rawOption(Opt.ListMetaContext, metaData('disk', queries));
}

function set(queries: readonly (string | Buffer)[], name = 'disk'): Buffer {
  return rawOption(Opt.SetMetaContext, metaData(name, queries));
}

describe('nbd handshake: metadata contexts', () => {
  for (const [queries, listed, selected] of [
    [[], true, false],
    [['base:'], true, false],
    [['base:allocation'], true, true],
    [['base:allocation', 'base:allocation'], true, true],
    [['x-other:thing', 'base:allocation'], true, true],
    [['base:nothing', 'qemu:allocation-depth', 'x-a:'], false, false],
  ] as const) {
    it(`queries ${JSON.stringify(queries)}`, async () => {
      const [, , ...lists] = await answers(STRUCTURED, STRUCTURED, list(queries));
      assert.deepEqual(lists, listed ? ['MetaContext', 'Ack'] : ['Ack']);
      const [, ...sets] = await answers(STRUCTURED, set(queries));
      assert.deepEqual(sets, selected ? ['MetaContext', 'Ack'] : ['Ack']);
      const id = await contextId(STRUCTURED, set(queries), goOption('disk'));
      assert.equal(id, selected ? 1 : -1);
    });
  }

  it('gives the id that the client was told', async () => {
    const { replies } = await drive(rig().handshake, Buffer.concat([FLAGS, STRUCTURED, SET_DISK]));
    assert.deepEqual(replies[1]?.data, Buffer.concat([be32(1), Buffer.from('base:allocation')]));
  });

  it('lists without structured replies but selects only with them', async () => {
    assert.deepEqual(await answers(list([])), ['MetaContext', 'Ack']);
    assert.deepEqual(await answers(SET_DISK, STRUCTURED), ['ErrInvalid', 'Ack']);
  });

  it('forgets the selection when the export at GO is another one', async () => {
    assert.equal(await contextId(STRUCTURED, SET_DISK, goOption('ro')), -1);
    assert.equal(await contextId(STRUCTURED, SET_DISK, goOption('disk')), 1);
  });

  it('keeps the selection for EXPORT_NAME', async () => {
    const option = rawOption(Opt.ExportName, Buffer.from('disk'));
    assert.equal(await contextId(STRUCTURED, SET_DISK, option), 1);
  });

  for (const [what, second] of [
    ['selects nothing', set([])],
    ['is for another export', set(['base:allocation'], 'ro')],
    ['is for an unknown export', set(['base:allocation'], 'nope')],
    ['is malformed', rawOption(Opt.SetMetaContext, be32(9))],
    ['is too big', rawOption(Opt.SetMetaContext, Buffer.alloc(OPTION_BYTES_MAX + 1))],
  ] as const) {
    it(`replaces the selection by a second one that ${what}`, async () => {
      assert.equal(await contextId(STRUCTURED, SET_DISK, second, goOption('disk')), -1);
    });
  }

  for (const [what, data] of [
    [
      '4 billion queries that are not there',
      Buffer.concat([lengthAndText('disk'), be32(2 ** 32 - 1)]),
    ],
    [
      'a query longer than the option',
      Buffer.concat([lengthAndText('disk'), be32(1), be32(0xfffffff0), Buffer.from('base:')]),
    ],
    ['bytes behind the queries', Buffer.concat([metaData('disk', []), Buffer.from('!')])],
    ['a query without a colon', metaData('disk', ['base'])],
    ['a query without a namespace', metaData('disk', [':allocation'])],
    ['a query that is not UTF-8', metaData('disk', [Buffer.from([0x3a, 0x80])])],
    ['a query of 4097 bytes', metaData('disk', [`x:${'y'.repeat(4095)}`])],
    ['no data', Buffer.alloc(0)],
  ] as const) {
    it(`refuses ${what}`, async () => {
      const got = await answers(
        STRUCTURED,
        rawOption(Opt.ListMetaContext, data),
        rawOption(Opt.SetMetaContext, data),
        STRUCTURED,
      );
      assert.deepEqual(got, ['Ack', 'ErrInvalid', 'ErrInvalid', 'Ack']);
    });
  }
});

describe('nbd handshake: TLS', () => {
  it('refuses STARTTLS by policy where there is no TLS', async () => {
    assert.deepEqual(await answers(rawOption(Opt.StartTls)), ['ErrPolicy']);
  });

  it('answers nothing but STARTTLS and ABORT before TLS where it is required', async () => {
    const { handshake, catalog } = rig('required');
    const options = [
      rawOption(Opt.List),
      rawOption(Opt.Info, infoData('disk')),
      rawOption(Opt.Info, infoData('nope')),
      goOption('disk'),
      STRUCTURED,
      SET_DISK,
      rawOption(99),
      rawOption(99, Buffer.alloc(100_000)),
      rawOption(Opt.Go, be32(77)),
    ];
    const { replies } = await drive(handshake, Buffer.concat([FLAGS, ...options]));
    assert.equal(replies.length, options.length);
    assert.ok(replies.every((r) => r.type === Rep.ErrTlsReqd));
    const texts = new Set(replies.map((r) => r.data.toString()));
    assert.equal(texts.size, 1, 'the refusal tells nothing of what exists');
    assert.equal(catalog.lookups, 0);
    const aborted = await drive(handshake, rawOption(Opt.Abort));
    assert.equal(aborted.last.kind, 'abort');
  });

  it('closes on EXPORT_NAME before TLS where it is required', async () => {
    const option = rawOption(Opt.ExportName, Buffer.from('disk'));
    const { last } = await drive(rig('required').handshake, Buffer.concat([FLAGS, option]));
    assert.equal(last.kind, 'fatal');
  });

  it('forgets at STARTTLS what was agreed on before', async () => {
    const { handshake } = rig('offered');
    const before = Buffer.concat([FLAGS, STRUCTURED, SET_DISK, rawOption(Opt.StartTls)]);
    assert.equal((await drive(handshake, before)).last.kind, 'starttls');
    const { last, replies } = await drive(handshake, Buffer.concat([SET_DISK, goOption('disk')]));
    assert.equal(replies[0]?.type, Rep.ErrInvalid, 'SET_META_CONTEXT needs new structured replies');
    assert.ok(last.kind === 'negotiated');
    assert.equal(last.negotiated.hasStructuredReplies, false);
    assert.deepEqual(last.negotiated.contexts, []);
  });

  it('closes without an answer on plain text behind STARTTLS', async () => {
    const bytes = Buffer.concat([FLAGS, rawOption(Opt.StartTls), goOption('disk')]);
    const { last, replies } = await drive(rig('required').handshake, bytes);
    assert.ok(last.kind === 'fatal');
    assert.match(last.why, /behind STARTTLS/);
    assert.equal(replies.length, 0);
  });

  it('refuses a second STARTTLS and goes on', async () => {
    const { handshake } = rig('required');
    await drive(handshake, Buffer.concat([FLAGS, rawOption(Opt.StartTls)]));
    const { last, replies } = await drive(
      handshake,
      Buffer.concat([rawOption(Opt.StartTls), goOption('disk')]),
    );
    assert.equal(replies[0]?.type, Rep.ErrInvalid);
    assert.equal(last.kind, 'negotiated');
  });
});

describe('nbd handshake: lookups and shutdown', () => {
  it('answers ERR_PLATFORM when the catalog fails, and tells the server why', async () => {
    const { handshake, catalog, failures } = rig();
    catalog.gate = Promise.reject(new Error('secret detail'));
    const options = [rawOption(Opt.Info, infoData('disk')), rawOption(Opt.List), STRUCTURED];
    const { replies } = await drive(handshake, Buffer.concat([FLAGS, ...options]));
    assert.deepEqual(
      replies.map((r) => replyName(r.type)),
      ['ErrPlatform', 'ErrPlatform', 'Ack'],
    );
    assert.ok(!replies[0]?.data.toString().includes('secret'));
    assert.equal(failures.length, 2);
  });

  it('refuses all but ABORT once it is shutting down, a lookup under way included', async () => {
    const { handshake, catalog } = rig();
    const gate = catalog.shut();
    const bytes = Buffer.concat([FLAGS, goOption('disk'), STRUCTURED, rawOption(Opt.Abort)]);
    const running = drive(handshake, bytes);
    while (catalog.lookups === 0) await Promise.resolve();
    handshake.shutDown();
    gate.open();
    const { replies, last } = await running;
    assert.deepEqual(
      replies.map((r) => replyName(r.type)),
      ['ErrShutdown', 'ErrShutdown'],
    );
    assert.equal(last.kind, 'abort');
  });
});

describe('nbd handshake: any bytes', () => {
  const option = fc
    .tuple(
      fc.constantFrom(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99),
      fc.oneof(
        fc.uint8Array({ maxLength: 40 }),
        fc.constantFrom(infoData('disk', [3]), metaData('disk', ['base:allocation']), infoData('')),
      ),
    )
    .map(([code, data]) => rawOption(code, Buffer.from(data)));
  const script = fc
    .tuple(fc.constantFrom(0, 1, 3), fc.array(option, { maxLength: 12 }))
    .map(([flags, options]) => Buffer.concat([be32(flags), ...options]));
  const modes = fc.constantFrom<TlsMode>('off', 'offered', 'required');
  const parameters = { numRuns: 400 };

  it('gives the same steps however the bytes are cut', async () => {
    await fc.assert(
      fc.asyncProperty(script, fc.integer({ min: 1, max: 30 }), async (bytes, cut) => {
        const whole = await drive(rig().handshake, bytes);
        const pieces = await drive(rig().handshake, bytes, cut);
        assert.deepEqual(pieces.replies, whole.replies);
        assert.equal(pieces.last.kind, whole.last.kind);
      }),
      parameters,
    );
  });

  it('answers each option in order, or ends', async () => {
    await fc.assert(
      fc.asyncProperty(script, modes, async (bytes, tls) => {
        const { replies, last } = await drive(rig(tls).handshake, bytes);
        const finals = replies.filter((r) => r.type === Rep.Ack || r.type >= 0x80000000);
        const codes: number[] = [];
        for (let at = 4; at < bytes.length; at += 16 + bytes.readUInt32BE(at + 12)) {
          codes.push(bytes.readUInt32BE(at + 8));
        }
        assert.deepEqual(
          finals.map((r) => r.option),
          codes.slice(0, finals.length),
        );
        if (last.kind === 'input') assert.equal(finals.length, codes.length);
        if (tls === 'required') assert.notEqual(last.kind, 'negotiated');
      }),
      parameters,
    );
  });

  it('survives garbage', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), modes, async (bytes, tls) => {
        const { last } = await drive(rig(tls).handshake, Buffer.from(bytes));
        assert.ok(last.kind === 'input' || last.kind === 'fatal');
      }),
      parameters,
    );
  });
});
