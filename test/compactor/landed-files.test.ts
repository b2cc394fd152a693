import { expect, test } from 'vitest';
import { landedFiles } from '../../lib/lake/landed-files.ts';

test('no more is saved by larger files than landing and compacting them took', () => {
  const run = { dataset: 'unit', startedMs: 0, seconds: 60, gbSeconds: 1, bytesRead: 0, bytesWritten: 0, rows: 23_060 };
  // A lander beside an idle store, whose commits take less than those that were measured.
  const landed = { commits: 271, files: 271, bytes: 872_891 };
  const [{ estimate } = { estimate: null }] = landedFiles(
    [
      { ...run, kind: 'land', cpuSeconds: 2.1, gets: 108, puts: 108, landed },
      { ...run, kind: 'compact', cpuSeconds: 5, gets: 879, puts: 211 },
    ],
    { fromMs: 0, nowMs: 3_600_000, lander: { commitEvery: 1000, fileBytes: 32e6 }, prices: undefined },
  );
  expect(estimate).toMatchObject({ commitEveryMs: 3_600_000, savedCpuSeconds: 7.1, savedRequests: 1306 });
});
