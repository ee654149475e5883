// Tables as text: the kernel's lines (`<start> <len> <type> <params>`) and dmsetup's concise form
// (`name,uuid,minor,flags,table[,table]...;name,...`).
//
// In a line, a backslash takes the next character as it is, so paths may hold spaces. In the concise
// form a backslash does the same for `,`, `;` and itself; other pairs are left for the line.

import { invalid } from '../base/errors.ts';
import { hideKeys } from './hide-keys.ts';

export interface TableLine {
  readonly startSector: number;
  readonly lenSectors: number;
  readonly type: string;
  readonly args: readonly string[];
}

export interface ConciseDevice {
  readonly name: string;
  readonly uuid: string;
  readonly minor: number | undefined;
  readonly isReadOnly: boolean;
  /** Table text, one line a target. */
  readonly table: string;
}

/** Splits at white space; `\ ` is a space within a word. */
export function splitArgs(text: string): string[] {
  const words: string[] = [];
  let word = '';
  let isInWord = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if (c === '\\' && i + 1 < text.length) {
      word += text[++i] as string;
      isInWord = true;
    } else if (/\s/.test(c)) {
      if (isInWord) words.push(word);
      word = '';
      isInWord = false;
    } else {
      word += c;
      isInWord = true;
    }
  }
  if (isInWord) words.push(word);
  return words;
}

/** The inverse of `splitArgs`. */
export function joinArgs(words: readonly string[]): string {
  return words.map(escapeArg).join(' ');
}

/** One word as it must stand in a line. */
export function escapeArg(word: string): string {
  return word.replaceAll(/[\\\s]/g, (c) => `\\${c}`);
}

/**
 * Lines of one table, in order, from sector 0 without gaps or overlaps. Blank lines and lines that
 * begin with `#` are skipped. Throws DmError.
 */
export function parseTable(text: string): TableLine[] {
  const lines: TableLine[] = [];
  let nextSector = 0;
  for (const [index, raw] of text.split('\n').entries()) {
    const trimmed = raw.trim();
    if (trimmed === '' || trimmed.startsWith('#')) continue;
    const line = parseLine(trimmed, index + 1);
    checkOrder(line, nextSector, index + 1);
    nextSector = line.startSector + line.lenSectors;
    lines.push(line);
  }
  if (lines.length === 0)
    throw invalid('table: no target lines: expected <start> <len> <type> ...');
  return lines;
}

function parseLine(text: string, number: number): TableLine {
  const [start, len, type, ...args] = splitArgs(text);
  if (start === undefined || len === undefined || type === undefined) {
    throw invalid(
      `table line ${number}: '${hideKeys(text)}': expected <start sector> <sectors> <target type> <args>`,
    );
  }
  const startSector = parseSectors(start, `table line ${number}: start sector`);
  const lenSectors = parseSectors(len, `table line ${number}: length`);
  if (lenSectors === 0) {
    throw invalid(`table line ${number}: zero-length target: '${hideKeys(text)}'`);
  }
  if (!Number.isSafeInteger(startSector + lenSectors)) {
    throw invalid(`table line ${number}: ends at a sector above 2^53 - 1: '${hideKeys(text)}'`);
  }
  return { startSector, lenSectors, type, args };
}

function checkOrder(line: TableLine, nextSector: number, number: number): void {
  if (line.startSector === nextSector) return;
  const kind = line.startSector > nextSector ? 'Gap in table' : 'Overlap in table';
  throw invalid(
    `table line ${number}: ${kind}: starts at sector ${line.startSector}, expected ${nextSector}`,
  );
}

/** A count of sectors, decimal. `what` names the field. */
export function parseSectors(text: string, what: string): number {
  if (!/^\d+$/.test(text)) {
    throw invalid(`${what}: '${text}': expected a number of 512-byte sectors`);
  }
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw invalid(`${what}: '${text}': above 2^53 - 1`);
  return value;
}

export function printLine(line: {
  readonly startSector: number;
  readonly lenSectors: number;
  readonly type: string;
  readonly params: string;
}): string {
  return `${line.startSector} ${line.lenSectors} ${line.type} ${line.params}`;
}

/** dmsetup's concise form of one or more devices. Throws DmError. */
export function parseConcise(spec: string): ConciseDevice[] {
  const devices: ConciseDevice[] = [];
  for (const [index, device] of splitConcise(spec, ';').entries()) {
    if (device.trim() === '') continue;
    devices.push(parseConciseDevice(device, index + 1));
  }
  if (devices.length === 0) {
    throw invalid('concise: empty: expected name,uuid,minor,flags,table[,table]...[;...]');
  }
  return devices;
}

function parseConciseDevice(text: string, number: number): ConciseDevice {
  const fields = splitConcise(text, ',');
  const where = `concise device ${number}`;
  if (fields.length < 5) {
    throw invalid(
      `${where}: ${fields.length} fields in '${hideKeys(text)}': expected name,uuid,minor,flags,table[,table]...`,
    );
  }
  const [name, uuid, minor, flags, ...lines] = fields.map(unescapeConcise) as [
    string,
    string,
    string,
    string,
    ...string[],
  ];
  if (name.trim() === '') throw invalid(`${where}: no name`);
  if (minor.trim() !== '' && !/^\d+$/.test(minor.trim())) {
    throw invalid(`${where} (${name}): minor '${minor}': expected a number or nothing`);
  }
  const mode = flags.trim();
  if (mode !== '' && mode !== 'rw' && mode !== 'ro') {
    throw invalid(`${where} (${name}): flags '${flags}': expected rw or ro`);
  }
  return {
    name: name.trim(),
    uuid: uuid.trim(),
    minor: minor.trim() === '' ? undefined : Number(minor),
    isReadOnly: mode === 'ro',
    table: lines.join('\n'),
  };
}

/** Splits at `separator` where no backslash stands before it; escapes stay as they are. */
function splitConcise(text: string, separator: string): string[] {
  const parts: string[] = [];
  let part = '';
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if (c === '\\' && i + 1 < text.length) part += c + (text[++i] as string);
    else if (c === separator) {
      parts.push(part);
      part = '';
    } else part += c;
  }
  parts.push(part);
  return parts;
}

/** Only the separators: `\ ` and `\\` mean the same one level down, in the table line. */
function unescapeConcise(text: string): string {
  return text.replaceAll(/\\([,;])/g, '$1');
}
