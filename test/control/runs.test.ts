import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Runs } from '../../control/lake/runs.ts';
import { costBucket } from '../../lib/lake/cost-records.ts';
import { openMeta } from '../../lib/registry.ts';
import { tempDir } from '../support/temp.ts';

test('those who ask for runs at once share one reading, and a run that came since is in the next', async () => {
  const engine = await openMeta(`sqlite:${join(tempDir('runs'), 'meta.db')}`, { kind: 'test' });
  onTestFinished(() => engine.close());
  const write = async (id: string): Promise<void> => {
    const used = { seconds: 1, cpuSeconds: 1, rows: 1, bytesRead: 1, bytesWritten: 1, gets: 1, puts: 1 };
    const value = Buffer.from(JSON.stringify({ kind: 'land', startedMs: 1, ...used }));
    await engine.commit({ write: [{ key: { bucket: costBucket('v', 'd'), field: id }, value }] });
  };
  await write('1');
  let nowMs = 1;
  const runs = new Runs({ nowMs: () => nowMs, monotonicMs: () => nowMs });
  const ask = async (): Promise<string[]> => (await runs.list(engine, 'v', ['d'])).map(({ id }) => id);
  const scan = vi.spyOn(engine, 'scan');
  scan.mockRejectedValueOnce(new Error('away'));
  await expect(ask()).rejects.toThrow('away');
  scan.mockClear();
  expect(await Promise.all(Array.from({ length: 10 }, ask))).toEqual(Array.from({ length: 10 }, () => ['1']));
  expect(scan).toHaveBeenCalledTimes(1);
  await write('2');
  nowMs += 1000;
  expect(await ask()).toEqual(['2', '1']);
});
