// What a check of metadata has found. An error makes the metadata unfit for use; a note does not: space that
// is lost, a hint that is off.

/** Kept of each severity; all are counted. */
const KEPT_MAX = 1000;

export interface Finding {
  readonly severity: 'error' | 'note';
  /** The metadata block it is about, if it is about one. */
  readonly block: number | undefined;
  readonly text: string;
}

export class Findings {
  readonly kept: Finding[] = [];
  errorCount = 0;
  noteCount = 0;

  error(block: number | undefined, text: string): void {
    if (this.errorCount++ < KEPT_MAX) this.kept.push({ severity: 'error', block, text });
  }

  note(block: number | undefined, text: string): void {
    if (this.noteCount++ < KEPT_MAX) this.kept.push({ severity: 'note', block, text });
  }
}
