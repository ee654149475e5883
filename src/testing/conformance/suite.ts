// The suite: all checks over a subject, each with a seed that repeats it, and the smallest load that still
// fails.

import { BugError } from '../../base/assert.ts';
import { errorText } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { shrink } from '../shrink.ts';
import { StallError } from '../sim/scheduler.ts';
import { type Check, Stage } from './check.ts';
import { DATA_CHECKS } from './data-checks.ts';
import { DURABILITY_CHECKS } from './durability-checks.ts';
import { FAULT_CHECKS } from './fault-checks.ts';
import { describeOp, type Geometry, geometryOf, type LoadOp } from './load.ts';
import { CheckFailure, type Subject } from './rig.ts';

export const CHECKS: readonly Check[] = [...DATA_CHECKS, ...DURABILITY_CHECKS, ...FAULT_CHECKS];

export interface Outcome {
  readonly check: string;
  readonly subject: string;
  readonly seed: number;
  readonly result: 'passed' | 'failed' | 'not applicable';
  /** What was found and expected. */
  readonly failure?: string;
  /** The smallest load found that fails. */
  readonly load?: readonly string[];
}

export interface RunOptions {
  readonly seed: number;
  /** Names of checks; all if not given. */
  readonly only?: readonly string[];
  /** Length of the loads, 1 is usual. */
  readonly scale?: number;
  /** Runs used to make a failing load smaller; 0 leaves it as it is. 100 if not given. */
  readonly shrinkRuns?: number;
  readonly onOutcome?: (outcome: Outcome) => void;
}

/** Runs the checks that apply to `subject`, one after the other. */
export async function runSuite(subject: Subject, options: RunOptions): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const check of CHECKS) {
    if (options.only !== undefined && !options.only.includes(check.name)) continue;
    const outcome = await runCheck(check, subject, options);
    outcomes.push(outcome);
    options.onOutcome?.(outcome);
  }
  return outcomes;
}

export async function runCheck(
  check: Check,
  subject: Subject,
  options: RunOptions,
): Promise<Outcome> {
  const { seed } = options;
  const about = { check: check.name, subject: subject.name, seed };
  if (!applies(check, subject)) return { ...about, result: 'not applicable' };
  let ops: readonly LoadOp[];
  try {
    const geometry = await measure(subject, seed);
    ops = check.draw(new Prng(seed), geometry, options.scale ?? 1);
  } catch (error) {
    return { ...about, result: 'failed', failure: describe(error) };
  }
  const failure = await failureOf(check, subject, seed, ops);
  if (failure === undefined) return { ...about, result: 'passed' };
  const runs = options.shrinkRuns ?? 100;
  const small = await shrink(
    ops,
    async (fewer) => (await failureOf(check, subject, seed, fewer)) !== undefined,
    runs,
  );
  const last = small === ops ? failure : await failureOf(check, subject, seed, small);
  return {
    ...about,
    result: 'failed',
    failure: last ?? failure,
    load: small.map(describeOp),
  };
}

function applies(check: Check, subject: Subject): boolean {
  const offers = {
    simulation: subject.isSimulated,
    'power cut': subject.canCutPower,
    steady: subject.isSteady,
  };
  return (check.needs ?? []).every((need) => offers[need]);
}

async function measure(subject: Subject, seed: number): Promise<Geometry> {
  const rig = await subject.open(seed, {});
  const geometry = geometryOf(rig.device);
  await rig.abandon();
  return geometry;
}

async function failureOf(
  check: Check,
  subject: Subject,
  seed: number,
  ops: readonly LoadOp[],
): Promise<string | undefined> {
  try {
    await check.run(new Stage(subject, seed), ops);
    return undefined;
  } catch (error) {
    return describe(error);
  }
}

function describe(error: unknown): string {
  if (error instanceof CheckFailure || error instanceof StallError) return error.message;
  if (error instanceof BugError) return `stopped by an assertion: ${error.message}`;
  const stack = error instanceof Error ? error.stack : undefined;
  return stack ?? errorText(error);
}
