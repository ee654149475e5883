// References of the form `scheme:path?option=value&...`, and their options checked against a list.

import { invalid } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';

export class ReferenceOptions {
  readonly path: string;
  readonly #reference: string;
  readonly #options: URLSearchParams;

  /** `shown` is what errors call it. Throws DmError on an option not in `known` or given twice. */
  constructor(reference: string, known: readonly string[], shown = reference) {
    this.#reference = shown;
    const rest = reference.slice(reference.indexOf(':') + 1);
    const question = rest.indexOf('?');
    this.path = decode(reference, question === -1 ? rest : rest.slice(0, question));
    this.#options = new URLSearchParams(question === -1 ? '' : rest.slice(question + 1));
    for (const name of this.#options.keys()) {
      if (!known.includes(name)) {
        throw invalid(`device ${shown}: unknown option '${name}'; there are ${known.join(', ')}`);
      }
      if (this.#options.getAll(name).length > 1) {
        throw invalid(`device ${shown}: option '${name}' is given twice`);
      }
    }
  }

  text(name: string): string | undefined {
    return this.#options.get(name) ?? undefined;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.#options.get(name);
    if (value === null) return fallback;
    if (value === '1' || value === 'true' || value === '') return true;
    if (value === '0' || value === 'false') return false;
    throw invalid(`device ${this.#reference}: option ${name}: '${value}': expected 1 or 0`);
  }

  /** Bytes. */
  size(name: string): number | undefined {
    const value = this.#options.get(name);
    if (value === null) return undefined;
    const bytes = parseSize(value);
    if (bytes !== undefined && bytes > 0) return bytes;
    throw invalid(
      `device ${this.#reference}: option ${name}: '${value}': expected a size such as 512M or 10G`,
    );
  }
}

function decode(reference: string, path: string): string {
  try {
    return decodeURIComponent(path);
  } catch {
    throw invalid(`device ${reference}: '%' must be followed by two hexadecimal digits`);
  }
}
