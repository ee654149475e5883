// Exports as plain data: how one is asked for, what is told of one, and the verbs over them. Nothing here
// is of one front end.

export interface ExportOptions {
  /** What clients ask for; '' is the default export. */
  readonly name: string;
  /** A mapped device's name. */
  readonly device: string;
  readonly description?: string;
  readonly isReadOnly?: boolean;
  /**
   * Nobody else may write: no other export of the device has clients, and clients that come are
   * told that it is read-only, until the clients of this export have gone.
   */
  readonly isExclusive?: boolean;
  /**
   * Refused when somebody else has sectors of the device, through whatever other device, or may
   * write them if the export is read-only; and others are refused as long as the export is there.
   */
  readonly isAlone?: boolean;
}

export interface ExportStatus extends Required<Omit<ExportOptions, 'isExclusive' | 'isAlone'>> {
  readonly sizeBytes: number;
  /** Of the device; clients may ask for parts. */
  readonly blockBytes: number;
  readonly connections: number;
}

/** An export as a client may be told of it. */
export interface ExportInfo {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly isReadOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  /** Fast-only zeroing is answered (perhaps with ENOTSUP) at once. */
  readonly canFastZero: boolean;
  /** A flush on one connection covers what the others were told is done. */
  readonly canMultiConn: boolean;
  readonly isRotational: boolean;
  /** Block sizes, bytes: smallest and best. */
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** Devices since which can be told what has changed. */
  readonly bases: readonly string[];
}

/** Where a front end's handshake looks exports up. Free of side effects. */
export interface ExportLookup {
  /** Undefined: no such export. '' is the default one. */
  lookup(name: string): Promise<ExportInfo | undefined>;
  listNames(): Promise<readonly { readonly name: string; readonly description: string }[]>;
}

/** The verbs that change and show exports. Every refusal is a DmError. */
export interface ExportControl extends ExportLookup {
  createExport(options: ExportOptions): Promise<ExportStatus>;
  /** With `force`, connections to the export are closed; otherwise they make it busy. */
  removeExport(name: string, options?: { readonly force?: boolean }): Promise<void>;
  listExports(): Promise<ExportStatus[]>;
}
