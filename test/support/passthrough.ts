/** Whether this machine's kernel and temporary directory can do passthrough: a visible skip where not. */
import { tmpdir } from 'node:os';
import { passthroughProblem } from '../../fs-gateway/fuse/passthrough-support.ts';

export function cannotPassThrough(): boolean {
  const problem = passthroughProblem(tmpdir());
  if (problem !== undefined) process.stderr.write(`skipped: no passthrough here: ${problem}\n`);
  return problem !== undefined;
}
