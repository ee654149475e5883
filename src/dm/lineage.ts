// What a device may have in common with others, so that it can tell what has changed since one of them: a volume and
// a snapshot of it. Neither knows of names.

export interface ChangeExtent {
  readonly lenSectors: number;
  readonly isChanged: boolean;
}

/** As BlockDevice.extents. Throws DmError when one of the two is not there any more. */
export type ChangesSince = (
  sector: number,
  lenSectors: number,
  maxExtents: number,
) => Promise<ChangeExtent[]>;

/** The blocks of one target, as long as its device is there; tables may come and go meanwhile. */
export interface Lineage {
  /** Whether `changesSince` can compare with `other`, which is another's. */
  isComparable(other: Lineage): boolean;
  /** Whether `other` is of the same blocks, in whatever table. */
  isSame(other: Lineage): boolean;
  /**
   * Where the data may be another than in `base`, from `sector` on. As BlockDevice.extents. Throws DmError when
   * `base` is not there any more.
   */
  changesSince(
    base: Lineage,
    sector: number,
    lenSectors: number,
    maxExtents: number,
  ): Promise<ChangeExtent[]>;
}
