/** Schemathesis on the API's own document: what it allows, what it forbids, and what nobody would send. */
import { execFile } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { HANG_MS } from '../support/hang.ts';
import { missing, requireService } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { landedPipeline, startControl } from './control.ts';

const FIRST = 'first-administrator-token-0123456789';

describe.skipIf(missing('schemathesis'))('schemathesis', () => {
  test('finds no server error, no answer that the document does not describe, and nothing that is open without a token', async () => {
    const { pipeline } = await landedPipeline({ compacted: false });
    const control = await startControl(pipeline.config, pipeline.dir, FIRST);
    const { status, output } = await run(control.url);
    expect(status, output).toBe(0);
    // It did ask.
    expect(Number(/(\d+) generated/.exec(output)?.[1])).toBeGreaterThan(500);
  });
});

function run(url: string): Promise<{ readonly status: number; readonly output: string }> {
  const options = [
    ...['--header', `Authorization: Bearer ${FIRST}`],
    // What is valid for a schema may still be refused: a cursor that is none, SQL that is none, a configuration that the agent's own schema judges.
    ...['--exclude-checks', 'positive_data_acceptance'],
    ...['--phases', 'coverage,fuzzing', '--max-examples', '3', '--generation-deterministic'],
    // It waits for a change as long as it is told to.
    ...['--exclude-operation-id', 'agents.config,sql.query'],
    ...['--no-shrink', '--continue-on-failure', '--no-color'],
  ];
  return new Promise((resolve) => {
    const child = execFile(
      'python3',
      ['-m', 'schemathesis.cli', 'run', new URL('/openapi.json', url).href, ...options],
      {
        cwd: tempDir('schemathesis'),
        env: { ...process.env, PYTHONPATH: requireService('schemathesis') },
        timeout: 2 * HANG_MS,
        killSignal: 'SIGKILL',
        maxBuffer: 64 << 20,
      },
      (_error, stdout, stderr) => resolve({ status: child.exitCode ?? -1, output: stdout + stderr }),
    );
  });
}
