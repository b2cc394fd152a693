/** Topics that are deleted, and made anew, under a lander that runs: on a real broker and in files. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import type { LandStatus } from '../../compactor/lander/lander.ts';
import { datasetStats } from '../../compactor/main.ts';
import { openPipelineLog } from '../../lib/lake/ports.ts';
import type { FetchRequest, Log } from '../../lib/log/log.ts';
import { FaultPlan } from '../support/fault.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { faultyLog } from '../support/log-faulty.ts';
import { until } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import {
  DATASET,
  foreignRecord,
  HOUR_MS,
  landOnce,
  openPipelineOf,
  pipelineYaml,
  readRows,
  TestProducer,
  type TestPipeline,
  TOPIC,
} from './pipeline.ts';

const OPTIONS = { partitions: 1, retentionMs: 86_400_000 };

function openPipeline(log: (dir: string) => string): Promise<TestPipeline> {
  const yamlOf = (dir: string): string =>
    pipelineYaml(dir, ', dedup: none', 'lander: { commitEvery: 1h }', 1).replace(/^log: .*$/m, `log: ${log(dir)}`);
  return openPipelineOf(yamlOf, OPTIONS);
}

/** `bytes`: of each value, about. */
const values = (life: string, count: number, first = 0, bytes = 0) =>
  Array.from({ length: count }, (_, n) => foreignRecord({ ts: HOUR_MS, life, n: first + n, rest: 'x'.repeat(bytes) }));

/** How often each record of the topic's lives has landed. */
async function landed({ lake }: TestPipeline): Promise<Readonly<Record<string, number>>> {
  const counts: Record<string, number> = {};
  for (const { life, n } of await readRows(lake, DATASET, ['life', 'n'])) {
    const name = `${Buffer.from(life as Uint8Array).toString()} ${String(n)}`; // what the reader makes of text
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

const once = (life: string, count: number): Readonly<Record<string, number>> =>
  Object.fromEntries(Array.from({ length: count }, (_, n) => [`${life} ${n}`, 1]));

/** Lands until it is ended; `before` is called with each fetch, before the log is asked. */
function startLander(pipeline: TestPipeline, before: (request: FetchRequest) => Promise<void>) {
  const stop = new AbortController();
  const told: (LandStatus & { kind: 'problem' })[] = [];
  const log: Log = {
    ...faultyLog(pipeline.log, new FaultPlan()),
    fetch: async (request) => {
      await before(request);
      return pipeline.log.fetch(request);
    },
  };
  const run = landOnce(
    { ...pipeline, log },
    { once: false, signal: stop.signal, onStatus: (status) => status.kind === 'problem' && told.push(status) },
  );
  onTestFinished(async () => {
    stop.abort();
    await run;
  });
  const end = async () => {
    stop.abort();
    return (await run).problems;
  };
  return { told, end };
}

function describeLives(name: string, logOf: (dir: string) => string): void {
  test(`${name}: what was read of the first life lands as its own, and the second from its beginning, each record once`, async () => {
    const pipeline = await openPipeline(logOf);
    await new TestProducer(pipeline.log).append(0, values('first', 100));
    let isAnew = false;
    const { told, end } = startLander(pipeline, async ({ offset }) => {
      if (offset !== 100n || isAnew) return;
      isAnew = true;
      // Another client, between two looks of the lander. More than what was read: the lander's next offset is there again.
      const other = await openPipelineLog(pipeline.config, pipeline.dir);
      await other.deleteTopic(TOPIC);
      await other.ensureTopic(TOPIC, OPTIONS);
      await new TestProducer(other).append(0, values('second', 150));
      await other.close();
    });
    await until('the first life', async () => (await datasetStats(pipeline.lake, DATASET)).landed >= 100);
    await until('a word of it', () => told.some(({ message }) => message.includes('made anew')));
    expect(await end()).toEqual([]);
    await landOnce(pipeline);
    expect(await landed(pipeline)).toEqual({ ...once('first', 100), ...once('second', 150) });
    expect(await datasetStats(pipeline.lake, DATASET)).toMatchObject({ landed: 250, lost: 0 });
  });

  test(`${name}: what was not read before the deletion is named and counted, and the lander waits for somebody to make the topic`, async () => {
    const pipeline = await openPipeline(logOf);
    const producer = new TestProducer(pipeline.log);
    // Three batches of some 900 kB: a fetch brings two of them.
    for (let batch = 0; batch < 3; batch++) await producer.append(0, values('first', 9, 9 * batch, 100_000));
    let isDeleted = false;
    const { told, end } = startLander(pipeline, async ({ offset }) => {
      if (offset === 0n || isDeleted) return;
      isDeleted = true;
      const other = await openPipelineLog(pipeline.config, pipeline.dir);
      await other.deleteTopic(TOPIC);
      await other.close();
    });
    await until('a word of it', () => told.some(({ message }) => message.includes('was deleted')));
    expect(await datasetStats(pipeline.lake, DATASET)).toMatchObject({ landed: 18, lost: 9 });
    expect(await pipeline.log.topic(TOPIC)).toBeNull();
    await pipeline.log.ensureTopic(TOPIC, OPTIONS);
    await new TestProducer(pipeline.log).append(0, values('second', 5));
    await until('a word of the second life', () => told.some(({ message }) => message.includes('made anew')));
    expect(await end()).toEqual([`${TOPIC}/0: offsets 18 to 26 were deleted with their topic before they landed`]);
    await landOnce(pipeline);
    expect(await landed(pipeline)).toEqual({ ...once('first', 18), ...once('second', 5) });
  });
}

describeLives('in files', (dir) => `file:${join(dir, 'log')}`);

describe.skipIf(missing('kafka'))('on a broker', () => {
  let broker: KafkaBroker;
  beforeAll(async () => {
    broker = await KafkaBroker.start();
  });
  afterAll(() => broker.close());
  describeLives('kafka', () => `kafka://${broker.plain}`);
});
