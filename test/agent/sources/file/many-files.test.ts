import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fileSource } from '../../../../agent/sources/file/file-source.ts';
import { systemClock, type Clock } from '../../../../lib/clock.ts';
import { HANG_MS } from '../../../support/hang.ts';
import { tempDir } from '../../../support/temp.ts';
import { spoolIn } from '../../spool/support.ts';
import { fileConfig, runSource } from '../support.ts';

function manyFiles(count: number): { dir: string; logs: string } {
  const dir = tempDir();
  const logs = join(dir, 'logs');
  mkdirSync(logs);
  for (let n = 0; n < count; n += 1) writeFileSync(join(logs, `${n}.ndjson`), '');
  return { dir, logs };
}

test('a look at many files ends with the signal', async () => {
  const { dir, logs } = manyFiles(300);
  const spool = await spoolIn(join(dir, 'spool'));
  let looks = 0;
  const stopped = Promise.withResolvers<undefined>();
  // Each file that is met asks what time it is.
  const clock: Clock = {
    nowMs: () => systemClock.nowMs(),
    monotonicMs: () => {
      looks += 1;
      if (looks === 20) void running.stop().then(() => stopped.resolve(undefined));
      return systemClock.monotonicMs();
    },
  };
  const running = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir, clock);
  await stopped.promise;
  expect(looks).toBeLessThan(100);
});

test('of more files than are read at once, the status says how many wait, in one problem', async () => {
  const { dir, logs } = manyFiles(850);
  const spool = await spoolIn(join(dir, 'spool'));
  const { output } = runSource(await fileSource(fileConfig(`${logs}/*.ndjson`), '/'), spool, dir);
  await expect
    .poll(() => output.counters.problem, { timeout: HANG_MS })
    .toMatch(/^850 files match .*, more than are read at once \(800; .*\): .*\.ndjson and 49 others wait$/);
});
