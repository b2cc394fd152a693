/** Runs the cases in the directory given: `node runner.ts DIR`; prints one line of JSON, case -> null or what went wrong. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describeError } from '../../lib/errors.ts';
import { posixCases } from './cases.ts';

const base = process.argv[2] ?? '';
const results: Record<string, string | null> = {};
for (const [index, [name, run]] of Object.entries(posixCases).entries()) {
  const dir = join(base, `case-${index}`);
  mkdirSync(dir);
  try {
    run(dir);
    results[name] = null;
  } catch (error) {
    results[name] = describeError(error);
  }
}
process.stdout.write(JSON.stringify(results));
