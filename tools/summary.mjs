// A reporter for node --test: what was skipped and why, and which files took longest. See tools/run-tests.

import { relative } from 'node:path';

const SLOWEST = 10;

export default async function* summary(events) {
  const skipped = new Map();
  const seconds = new Map();
  let failed = 0;
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const file = data.file === undefined ? '?' : relative(process.cwd(), data.file);
    if (type === 'test:fail' && data.nesting === 0) failed++;
    if (data.skip !== undefined) {
      const reason = typeof data.skip === 'string' && data.skip !== '' ? data.skip : 'no reason';
      const known = skipped.get(`${file}: ${reason}`) ?? [];
      skipped.set(`${file}: ${reason}`, [...known, data.name]);
    }
    if (data.nesting === 0) {
      seconds.set(file, (seconds.get(file) ?? 0) + (data.details.duration_ms ?? 0) / 1000);
    }
  }
  const slowest = [...seconds].sort((a, b) => b[1] - a[1]).slice(0, SLOWEST);
  yield `\nSlowest files:\n`;
  for (const [file, s] of slowest) yield `${s.toFixed(1).padStart(7)} s  ${file}\n`;
  yield skipped.size === 0 ? 'Nothing was skipped.\n' : 'Skipped:\n';
  for (const [where, names] of skipped) {
    const what = names.length === 1 ? `"${names[0]}"` : `${names.length} tests`;
    yield `  ${where} (${what})\n`;
  }
  if (failed > 0) yield `${failed} tests failed: see "failing tests" above.\n`;
}
