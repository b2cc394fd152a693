/** Landing and compaction on a real S3 server that fails in storms, and whose objects are cut, changed or gone. */
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { loadTable } from '../../lib/table/table.ts';
import { type FaultProxy, type ProxyFault, startFaultProxy } from '../support/s3-fault-proxy.ts';
import { missing } from '../support/services.ts';
import { type S3Server, startVersitygw } from '../support/versitygw.ts';
import { faultRecords } from './fault-points.ts';
import {
  compactAll,
  DATASET,
  expectAccounts,
  HOUR_MS,
  landOnce,
  liveFiles,
  openPipelineOf,
  pipelineYaml,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const STORM: readonly ProxyFault[] = [
  { status: 500, code: 'InternalError' },
  { status: 503 },
  'cutBefore',
  'cutAfter',
  'cutBody',
];
/** Of the requests: now and then as many in a row as a call is tried. */
const FAILING = 0.25;
const ATTEMPTS = 3;
const RUNS_MAX = 20;

describe.skipIf(missing('versitygw'))('on S3', () => {
  let s3: S3Server;
  let buckets = 0;
  beforeAll(async () => {
    s3 = await startVersitygw();
    vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
  });
  afterAll(async () => {
    vi.unstubAllEnvs();
    await s3.stop();
  });

  async function openBehindProxy(): Promise<{ pipeline: TestPipeline; proxy: FaultProxy; bucket: string }> {
    const bucket = `lake-${buckets++}`;
    s3.createBucket(bucket);
    const proxy = await startFaultProxy(s3.endpoint);
    onTestFinished(() => proxy.stop());
    const store = `store: s3://${bucket}/lake?endpoint=${encodeURIComponent(proxy.endpoint)}&attempts=${ATTEMPTS}`;
    const yamlOf = (dir: string): string => pipelineYaml(dir).replace(/^store: .*$/m, store);
    return { pipeline: await openPipelineOf(yamlOf, { partitions: 2, retentionMs: 86_400_000 }), proxy, bucket };
  }

  /** A storm that is the same in each run. */
  function storm(): FaultProxy['decide'] {
    let state = 7;
    const random = (): number => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
    return () => (random() < FAILING ? (STORM[Math.floor(random() * STORM.length)] ?? 'pass') : 'pass');
  }

  test('500s, 503s, cut connections and lost answers: whatever a run says, in the end each record is there once', async () => {
    const { pipeline, proxy } = await openBehindProxy();
    const producer = new TestProducer(pipeline.log);
    const records = faultRecords();
    proxy.decide = storm();
    /** As a job that is started again until it has nothing to say. */
    const persist = async (run: () => Promise<{ readonly problems: readonly string[] }>): Promise<void> => {
      for (let tries = 0; tries < RUNS_MAX; tries++) {
        const problems = await run().then((result) => result.problems, String);
        if (problems.length === 0) return;
      }
      throw new Error(`${RUNS_MAX} runs failed`);
    };
    for (const [from, to] of [
      [0, 25],
      [25, 50],
      [50, records.length],
    ] as const) {
      await producer.append(0, records.slice(from, to));
      await persist(() => landOnce(pipeline));
    }
    await persist(async () => {
      const results = await Promise.all([compactAll(pipeline), compactAll(pipeline)]);
      return results.find(({ problems }) => problems.length === 0) ?? results[0];
    });
    proxy.decide = () => 'pass';
    // One that left the hour to the other, which then failed, has nothing to say either.
    expect((await compactAll(pipeline)).problems).toEqual([]);
    await expectAccounts(pipeline.lake, {
      ...{ landed: 71, quarantined: 1, duplicates: 10, liveRows: 60, smallFiles: 0, liveFiles: 1 },
    });
    expect(proxy.requests.length).toBeGreaterThan(60);
  });

  test('a storm that does not end is named, nothing is lost, and the next run lands and compacts all of it', async () => {
    const { pipeline, proxy } = await openBehindProxy();
    const producer = new TestProducer(pipeline.log);
    await producer.append(0, faultRecords().slice(0, 30));
    await landOnce(pipeline);
    await producer.append(0, faultRecords().slice(30));
    proxy.decide = () => ({ status: 503 });
    const told: string[] = [];
    // The minute after which `--once` gives up is over with the first round that failed.
    const clock = { ...systemClock, monotonicMs: () => performance.now() + (told.length < 2 ? 0 : 60_000) };
    const landing = landOnce(
      { ...pipeline, lake: { ...pipeline.lake, clock } },
      { onStatus: (status) => status.kind === 'problem' && told.push(status.message) },
    );
    await expect(landing).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringMatching(/given up, .*503.*Nothing is lost/s) as string,
    });
    const { problems } = await compactAll(pipeline).catch((error: unknown) => ({ problems: [String(error)] }));
    expect(problems).toEqual([expect.stringContaining('503')]);
    proxy.decide = () => 'pass';
    expect((await landOnce(pipeline)).problems).toEqual([]);
    expect((await compactAll(pipeline)).problems).toEqual([]);
    await expectAccounts(pipeline.lake, { landed: 71, quarantined: 1, duplicates: 10, liveRows: 60, liveFiles: 1 });
  });

  const FLAWS: readonly (readonly [string, (path: string) => void])[] = [
    ['cut', (path) => truncateSync(path, 200)],
    ['changed in one bit', flipInTheMiddle],
    ['gone', (path) => rmSync(path)],
  ];
  test.each(FLAWS)(
    'an object that is %s: a data file is named and left, a manifest list stops its table by name',
    async (_flaw, damage) => {
      const { pipeline, bucket } = await openBehindProxy();
      const { lake } = pipeline;
      const pathOf = (location: string): string => join(s3.folder, bucket, 'lake', lake.store.keyOf(location) ?? '');
      const producer = new TestProducer(pipeline.log);
      for (let landing = 0; landing < 3; landing++) {
        const seqs = Array.from({ length: 40 }, (_, n) => landing * 40 + n);
        const value = (seq: number): object => ({ sensor: `s-${seq}`, ts: HOUR_MS + (seq % 2) * 3_600_000 + seq });
        await producer.append(
          0,
          seqs.map((seq) => recordOf({ seq, value: value(seq) })),
        );
        await landOnce(pipeline);
      }
      const victim = (await liveFiles(lake)).find((location) => location.includes('hour=07')) ?? '';
      damage(pathOf(victim));
      const { summary, problems } = await compactAll(pipeline);
      expect(problems).toEqual([expect.stringContaining(victim)]);
      expect(summary).toMatchObject({ groups: 2, in: 100, out: 100, unreadable: 20 });
      expect(await liveFiles(lake)).toContain(victim);

      const table = await loadTable(lake, DATASET);
      const list = table?.currentSnapshot?.['manifest-list'] ?? '';
      // Nothing in it would show one bit.
      (damage === flipInTheMiddle ? rmSync : damage)(pathOf(list));
      await producer.append(0, [recordOf({ seq: 1000, value: { sensor: 's', ts: HOUR_MS } })]);
      for (const run of [compactAll(pipeline), landOnce(pipeline)]) {
        const again = await run.catch((error: unknown) => ({ problems: [String(error)] }));
        expect(again.problems).toEqual([expect.stringContaining(list)]);
      }
    },
  );
});

function flipInTheMiddle(path: string): void {
  const bytes = readFileSync(path);
  const at = bytes.length >> 1;
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  writeFileSync(path, bytes);
}
