import { expect, test } from 'vitest';
import { runLander } from '../../compactor/lander/lander.ts';
import { datasetStats } from '../../compactor/main.ts';
import { readCosts, type CostRecord } from '../../lib/lake/cost-records.ts';
import { DATASET, HOUR_MS, openTestPipeline, recordOf, TestProducer } from './pipeline.ts';

test('a lander that goes on records its cost while it runs, and every record it took once', async () => {
  const { config, lake, log } = await openTestPipeline();
  const producer = new TestProducer(log);
  const costs = async (): Promise<CostRecord[]> =>
    (await Array.fromAsync(readCosts(lake.engine, lake.volume, DATASET))).map(([, record]) => record);
  const rows = async (): Promise<number> => (await costs()).reduce((sum, record) => sum + record.rows, 0);
  const stop = new AbortController();
  const running = runLander({
    config: { ...config, lander: { ...config.lander, commitEvery: 20 } },
    lake,
    log,
    once: false,
    signal: stop.signal,
    costEveryMs: 50,
  });
  for (const from of [0, 100]) {
    const reading = (_: unknown, n: number) => recordOf({ seq: from + n, value: { ts: HOUR_MS, n } });
    await producer.append(0, Array.from({ length: 100 }, reading));
    await expect.poll(rows).toBe(from + 100);
  }
  await producer.append(0, [recordOf({ seq: 200, value: { ts: HOUR_MS, n: 200 } })]);
  stop.abort();
  const { summary } = await running;
  expect(await rows()).toBe(summary.records);
  const records = await costs();
  expect(records.length).toBeGreaterThanOrEqual(2);
  const sum = (key: 'commits' | 'files' | 'bytes'): number =>
    records.reduce((total, { landed }) => total + (landed?.[key] ?? 0), 0);
  const { landedFiles, landedBytes } = await datasetStats(lake, DATASET);
  expect([sum('files'), sum('bytes')]).toEqual([landedFiles, landedBytes]);
  expect(sum('commits')).toBe(landedFiles);
  for (const record of records) {
    expect(record).toMatchObject({ kind: 'land' });
    expect(record.puts).toBeGreaterThan(0);
    expect(record.bytesWritten).toBeGreaterThan(0);
  }
});
