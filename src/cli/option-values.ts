// Values of options, checked where commander can name the option.

import { InvalidArgumentError } from 'commander';
import { MIB, parseSize } from '../base/units.ts';
import { WrongCall } from './errors.ts';

/** Gathers a repeatable option. */
export function repeated(value: string, all: string[]): string[] {
  return [...all, value];
}

export function bufferSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined || bytes < 8 * MIB || bytes > 2047 * MIB) {
    throw new InvalidArgumentError('expected a size of 8M to 2047M, such as 256M');
  }
  return bytes;
}

export function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined) throw new InvalidArgumentError('expected a size, such as 16M');
  return bytes;
}

export function positive(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('expected a number of 1 or more');
  }
  return value;
}

export function notNegative(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0) {
    throw new InvalidArgumentError('expected a number of 0 or more');
  }
  return value;
}

/** An argument that commander does not check. Throws WrongCall. */
export function numberArgument(what: string, text: string): number {
  try {
    return notNegative(text);
  } catch {
    throw new WrongCall(`${what} '${text}': expected a number of 0 or more`);
  }
}
