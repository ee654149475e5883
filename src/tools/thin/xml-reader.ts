// Reads the XML of thin_dump: a superblock that holds devices that hold mappings. A reader of exactly this
// and no more: elements with quoted attributes, comments, an XML declaration. What it does not know is an
// error with its line, because a mapping that is passed over is data that is lost.
//
// Text comes in pieces, events go out in order; nothing is kept.

import { invalid } from '../../base/errors.ts';
import type { MappingRun } from './pool-reader.ts';

export interface XmlSuperblock {
  readonly uuid: string;
  readonly time: number;
  readonly transactionId: number;
  readonly flags: number;
  readonly version: number;
  readonly dataBlockSectors: number;
  readonly dataBlocks: number;
}

export interface XmlDevice {
  readonly id: number;
  readonly mappedBlocks: number;
  readonly transactionId: number;
  readonly creationTime: number;
  readonly snapshottedTime: number;
}

export type XmlEvent =
  | ({ readonly kind: 'superblock' } & XmlSuperblock)
  | ({ readonly kind: 'device' } & XmlDevice)
  | ({ readonly kind: 'run' } & Readonly<MappingRun>)
  | { readonly kind: 'end of device' }
  | { readonly kind: 'end' };

/** The longest element there may be; a longer one is not of this dialect. */
const ELEMENT_CHARS_MAX = 65536;
const VERSION_UNTOLD = 1;
const CLOSES: Readonly<Record<string, string>> = { device: 'superblock', superblock: '' };
const ENTITIES: Readonly<Record<string, string>> = {
  amp: '&',
  lt: '<',
  gt: '>',
  quot: '"',
  apos: "'",
};

/** Throws DmError with the line for anything that is not such XML. */
export async function* readPoolXml(
  pieces: AsyncIterable<string> | Iterable<string>,
): AsyncGenerator<XmlEvent> {
  const reader = new XmlReader();
  for await (const piece of pieces) yield* reader.take(piece);
  reader.end();
}

class XmlReader {
  #text = '';
  #line = 1;
  /** The element that is open: none, `superblock` or `device`. */
  #inside = '';
  #isDone = false;

  *take(piece: string): Generator<XmlEvent> {
    const text = this.#text + piece;
    let at = 0;
    for (;;) {
      const open = text.indexOf('<', at);
      const between = text.slice(at, open < 0 ? undefined : open);
      if (open >= 0 || between.trim() !== '') this.#passText(between);
      else {
        this.#countLines(between);
        at = text.length;
      }
      if (open < 0) {
        this.#text = '';
        return;
      }
      const isComment = text.startsWith('<!--', open);
      const closing = isComment ? '-->' : '>';
      const close = endOfElement(text, open, isComment);
      if (close < 0) {
        this.#text = text.slice(open);
        if (this.#text.length > ELEMENT_CHARS_MAX) {
          throw this.#wrong(`an element of more than ${ELEMENT_CHARS_MAX} characters`);
        }
        return;
      }
      const element = text.slice(open, close + closing.length);
      at = close + closing.length;
      if (!isComment && !element.startsWith('<?')) yield* this.#element(element);
      this.#countLines(element);
    }
  }

  end(): void {
    if (this.#text !== '') throw this.#wrong('ends inside an element');
    if (!this.#isDone) throw this.#wrong(`ends before </${this.#inside || 'superblock'}>`);
  }

  #passText(text: string): void {
    this.#countLines(text);
    const found = text.trim();
    if (found !== '') throw this.#wrong(`expected an element, found '${found.slice(0, 40)}'`);
  }

  #countLines(text: string): void {
    for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) this.#line++;
  }

  #element(text: string): readonly XmlEvent[] {
    const close = /^<\/([\w:-]+)\s*>$/.exec(text);
    if (close !== null) return [this.#close(close[1] ?? '')];
    const open = /^<([\w:-]+)((?:\s+[\w:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(\/?)>$/.exec(text);
    if (open === null) throw this.#wrong(`not an element: ${text.slice(0, 60)}`);
    const [, name = '', attributes = '', slash] = open;
    const event = this.#open(name, new Attributes(name, attributes, (t) => this.#wrong(t)));
    const isLeaf = event.kind === 'run';
    if (!isLeaf) this.#inside = name;
    // `<device .../>` is a device without mappings.
    if (slash === '/') return isLeaf ? [event] : [event, this.#close(name)];
    if (isLeaf) throw this.#wrong(`<${name}> must end with '/>'`);
    return [event];
  }

  #close(name: string): XmlEvent {
    if (name !== this.#inside) {
      const expected = this.#inside === '' ? 'nothing to end' : `</${this.#inside}>`;
      throw this.#wrong(`found </${name}>, expected ${expected}`);
    }
    this.#inside = CLOSES[name] ?? '';
    if (name === 'device') return { kind: 'end of device' };
    this.#isDone = true;
    return { kind: 'end' };
  }

  #open(name: string, at: Attributes): XmlEvent {
    const home = HOMES[name];
    if (home === undefined) throw this.#wrong(`unknown element <${name}>`);
    if (this.#isDone || home !== this.#inside) {
      throw this.#wrong(`<${name}> in the wrong place: expected ${home || 'once, outermost'}`);
    }
    const event = eventOf(name, at);
    at.refuseOthers();
    return event;
  }

  #wrong(text: string): Error {
    return invalid(`XML line ${this.#line}: ${text}`);
  }
}

/** Where which element is: in a device, in the superblock, or outermost. */
const HOMES: Readonly<Record<string, string>> = {
  superblock: '',
  device: 'superblock',
  single_mapping: 'device',
  range_mapping: 'device',
};

function eventOf(name: string, at: Attributes): XmlEvent {
  if (name === 'single_mapping') {
    return {
      kind: 'run',
      originBegin: at.number('origin_block'),
      dataBegin: at.number('data_block'),
      length: 1,
      time: at.number('time'),
    };
  }
  if (name === 'range_mapping') {
    return {
      kind: 'run',
      originBegin: at.number('origin_begin'),
      dataBegin: at.number('data_begin'),
      length: at.number('length'),
      time: at.number('time'),
    };
  }
  if (name === 'device') {
    return {
      kind: 'device',
      id: at.number('dev_id'),
      mappedBlocks: at.number('mapped_blocks'),
      transactionId: at.number('transaction'),
      creationTime: at.number('creation_time'),
      snapshottedTime: at.number('snap_time'),
    };
  }
  const superblock: XmlEvent = {
    kind: 'superblock',
    uuid: at.text('uuid', ''),
    time: at.number('time'),
    transactionId: at.number('transaction'),
    flags: at.number('flags', 0),
    version: at.number('version', VERSION_UNTOLD),
    dataBlockSectors: at.number('data_block_size'),
    dataBlocks: at.number('nr_data_blocks'),
  };
  // A metadata snapshot is not in the XML, only where it was.
  at.text('metadata_snap', '');
  return superblock;
}

/** The '>' that ends an element is not within quotes. */
function endOfElement(text: string, open: number, isComment: boolean): number {
  if (isComment) return text.indexOf('-->', open);
  let quote = '';
  for (let i = open; i < text.length; i++) {
    const c = text[i] as string;
    if (quote !== '') {
      if (c === quote) quote = '';
    } else if (c === '"' || c === "'") quote = c;
    else if (c === '>') return i;
  }
  return -1;
}

class Attributes {
  readonly #element: string;
  readonly #values = new Map<string, string>();
  readonly #wrong: (text: string) => Error;

  constructor(element: string, text: string, wrong: (text: string) => Error) {
    this.#element = element;
    this.#wrong = wrong;
    for (const match of text.matchAll(/([\w:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g)) {
      const [, name = '', double, single] = match;
      if (this.#values.has(name)) throw wrong(`<${element}> has ${name} twice`);
      this.#values.set(name, this.#decode(double ?? single ?? ''));
    }
  }

  text(name: string, otherwise: string): string {
    const value = this.#values.get(name);
    this.#values.delete(name);
    return value ?? otherwise;
  }

  number(name: string, otherwise?: number): number {
    const value = this.#values.get(name);
    this.#values.delete(name);
    if (value === undefined && otherwise !== undefined) return otherwise;
    if (value === undefined) throw this.#wrong(`<${this.#element}> lacks ${name}`);
    const number = Number(value);
    if (/^\d+$/.test(value) && Number.isSafeInteger(number)) return number;
    throw this.#wrong(`<${this.#element}> ${name}="${value}": need a number below 2^53`);
  }

  refuseOthers(): void {
    for (const name of this.#values.keys()) {
      throw this.#wrong(`<${this.#element}> has an unknown attribute ${name}`);
    }
  }

  #decode(text: string): string {
    return text.replaceAll(/&([^;&]*);?/g, (whole: string, name: string) => {
      const value = whole.endsWith(';') ? ENTITIES[name] : undefined;
      if (value === undefined) throw this.#wrong(`unknown entity ${whole}`);
      return value;
    });
  }
}
