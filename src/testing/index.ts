// lamina/testing: a crash lab and a conformance suite for storage code, yours included. See
// docs/testing.md for how to use it.

export { BioDriver, IoFailure } from './bio-driver.ts';
export { type Check, Stage } from './conformance/check.ts';
export { type Geometry, Load, type LoadOp } from './conformance/load.ts';
export {
  CheckFailure,
  type PowerCut,
  type PoweredOff,
  type Rig,
  type Subject,
} from './conformance/rig.ts';
export {
  BackendSubject,
  type RealOptions,
  TableSubject,
} from './conformance/real-subject.ts';
export { type ServerOptions, ServerSubject } from './conformance/server-subject.ts';
export { type DiskSpec, type StackSpec, StackSubject } from './conformance/stack-subject.ts';
export { drawStack, type DrawStackOptions, NO_DISKS, RECIPES } from './conformance/stacks.ts';
export {
  CHECKS,
  type Outcome,
  runCheck,
  type RunOptions,
  runSuite,
} from './conformance/suite.ts';
export { type LabServer, serveLab } from './lab-server.ts';
export { shrink } from './shrink.ts';
export { type NbdStormOptions, runNbdStorm } from './sim/nbd-storm.ts';
export { type DiskFaults, SimDisk, type SimDiskOptions } from './sim/disk.ts';
export { builtInTargets, type Lab, type LabOptions, makeLab } from './sim/lab.ts';
export { SimSocket } from './sim/socket.ts';
export {
  sweepCrashes,
  type SweepCounts,
  type SweepOp,
  type SweepOptions,
  type SweepSubject,
} from './crash-sweep.ts';
export { Scheduler, StallError } from './sim/scheduler.ts';
export { checkDataCounts } from './thin-counts.ts';
export { MetadataDisk } from './metadata-disk.ts';
export { runThinStorm, type ThinStormOptions } from './thin-storm.ts';
export { VersionModel } from './version-model.ts';
export { Prng } from '../base/prng.ts';
export { fuzzInsitu, fuzzVolumes } from './insitu-fuzz.ts';
export { runInsituStorm } from './insitu-storm.ts';
export { drawInsituSweep, insituSubject } from './insitu-sweep.ts';
export { INSITU_TROUBLE } from './insitu-trouble.ts';
export { runDeadlockSchedules } from './snapshot-deadlock.ts';
export { runSnapshotStorm, type SnapshotStormOptions } from './snapshot-storm.ts';
