/**
 * pyiceberg on the tables of a pipeline on Kafka, Redis and S3: it reads the rows that landed, before and after compaction, appends its own and changes the
 * schema, and lander and compactor go on with the table.
 */
import { expect, onTestFinished, test, vi } from 'vitest';
import { datasetStats } from '../../compactor/main.ts';
import { openRestServer } from '../../lib/table/rest/rest-server.ts';
import { listedNames } from '../compactor/foreign-catalog-pipeline.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  liveFiles,
  openPipelineOf,
  readRows,
  recordOf,
  TestProducer,
  type TestPipeline,
  TOPIC,
} from '../compactor/pipeline.ts';
import { KafkaBroker } from '../support/kafka.ts';
import { startRedis } from '../support/redis.ts';
import { startVersitygw } from '../support/versitygw.ts';
import { PyicebergSession } from './pyiceberg-session.ts';

const PER_LANDING = 300;
const TABLE = `catalog.load_table(${JSON.stringify(DATASET)})`;
const SCHEMA = [
  '{ name: sensor, type: string }',
  '{ name: ts, type: long }',
  '{ name: rms, type: double }',
  '{ name: count, type: int }',
  '{ name: price, type: "decimal(10, 2)" }',
  '{ name: at, type: timestamptz }',
  '{ name: samples, type: { list: double } }',
  '{ name: place, type: { struct: [{ name: hall, type: string }, { name: x, type: long }] } }',
];

interface Row {
  readonly sensor: string;
  readonly ts: number;
  readonly rms: number;
  readonly count: number;
  /** As Python shows a decimal. */
  readonly price: string;
  readonly at: string;
  readonly samples: readonly (number | null)[];
  readonly place: { readonly hall: string; readonly x: number };
}

/** Over two hours. Never a whole second, which Python shows in a shorter way. */
function rowOf(n: number): Row {
  const ts = HOUR_MS + (n % 2) * 3_600_000 + (n % 999) + 1;
  return {
    ...{ sensor: `s-${n % 7}`, ts, rms: Math.sin(n), count: n, price: `${n}.25` },
    at: `${new Date(ts).toISOString().replace('T', ' ').replace('Z', '')}000+00:00`,
    samples: [n / 4, null],
    place: { hall: `h${n % 3}`, x: n },
  };
}

async function openOnServices(): Promise<{ pipeline: TestPipeline; credentials: Readonly<Record<string, string>> }> {
  const [broker, redis, s3] = await Promise.all([KafkaBroker.start(), startRedis(), startVersitygw()]);
  onTestFinished(async () => {
    await Promise.all([broker.close(), redis.stop(), s3.stop()]);
  });
  s3.createBucket('lake');
  vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
  const yaml = [
    `log: kafka://${broker.plain}`,
    `store: s3://lake/tables?endpoint=${encodeURIComponent(s3.endpoint)}`,
    `meta: ${redis.url()}`,
    `datasets: [{ name: ${DATASET}, topic: ${TOPIC}, eventTime: ts, sort: [sensor, ts], schema: [${SCHEMA.join(', ')}] }]`,
    'topics: { partitions: 2, retention: 7d }',
  ].join('\n');
  const pipeline = await openPipelineOf(() => yaml, { partitions: 2, retentionMs: 86_400_000 });
  return {
    pipeline,
    credentials: { 's3.access-key-id': s3.accessKeyId, 's3.secret-access-key': s3.secretAccessKey },
  };
}

test('pyiceberg reads, appends and changes the schema, and lander and compactor go on with it', async () => {
  const { pipeline, credentials } = await openOnServices();
  const { lake } = pipeline;
  const server = await openRestServer(lake, { host: '127.0.0.1', port: 0, token: null, onProblem: () => undefined });
  onTestFinished(() => server.close());
  const python = new PyicebergSession(server.url, credentials);
  onTestFinished(() => python.close());
  const producer = new TestProducer(pipeline.log);
  let landed = 0;
  const model: (Row & { readonly note?: string | null })[] = [];
  const land = async (): Promise<void> => {
    const rows = Array.from({ length: PER_LANDING }, (_, k) => rowOf(landed + k));
    for (const partition of [0, 1]) {
      const own = rows.filter(({ count }) => count % 2 === partition);
      await producer.append(
        partition,
        own.map((row) => recordOf({ seq: row.count, value: { ...row, at: new Date(row.ts).toISOString() } })),
      );
    }
    expect((await landOnce(pipeline)).summary).toMatchObject({ rows: PER_LANDING, quarantined: 0 });
    landed += PER_LANDING;
    model.push(...rows);
  };
  const expectAgreement = async (...more: readonly string[]): Promise<void> => {
    const columns = ['sensor', 'ts', 'rms', 'count', 'price', 'at', 'samples', 'place', ...more];
    const rows = (await python.run(
      `answer = ${TABLE}.scan(selected_fields=${JSON.stringify(columns).replace('[', '(').replace(']', ',)')}).to_arrow().to_pylist()`,
    )) as Row[]; // the model's, if it agrees
    expect(rows.sort((a, b) => a.count - b.count)).toEqual(model.toSorted((a, b) => a.count - b.count));
    expect(await readRows(lake)).toHaveLength(model.length);
    const names = (await liveFiles(lake)).map((location) => location.slice(location.lastIndexOf('/') + 1));
    expect(await listedNames(lake)).toEqual(names.sort());
  };
  await land();
  await land();
  await expectAgreement();
  // What only one hour has is found through the partitions and the bounds of columns.
  expect(
    await python.run(
      `answer = [${TABLE}.scan("_event_time >= '${new Date(HOUR_MS + 3_600_000).toISOString().replace('Z', '+00:00')}'").count(), ` +
        `${TABLE}.scan("count == 17").to_arrow().num_rows]`,
    ),
  ).toEqual([PER_LANDING, 1]);
  expect((await compactAll(pipeline)).problems).toEqual([]);
  await expectAgreement();

  const foreign = rowOf(100_000);
  await python.run(`
from datetime import datetime
from decimal import Decimal
table = ${TABLE}
row = {"sensor": "${foreign.sensor}", "ts": ${foreign.ts}, "rms": ${foreign.rms}, "count": ${foreign.count}, "price": Decimal("${foreign.price}"),
       "at": datetime.fromisoformat("${foreign.at}"), "_event_time": datetime.fromisoformat("${foreign.at}"),
       "samples": ${JSON.stringify(foreign.samples).replace('null', 'None')}, "place": ${JSON.stringify(foreign.place)}}
table.append(pyarrow.Table.from_pylist([row], schema=table.schema().as_arrow()))
`);
  model.push(foreign);
  await expectAgreement();

  await python.run(`
from pyiceberg.types import StringType
with ${TABLE}.update_schema() as update:
    update.add_column("note", StringType())
`);
  for (const [index, row] of model.entries()) model[index] = { ...row, note: null };
  await expectAgreement('note');
  await land();
  for (const [index, row] of model.entries()) model[index] = { note: null, ...row };
  await expectAgreement('note');
  const { summary, problems } = await compactAll(pipeline);
  expect(problems).toEqual([]);
  expect(summary).toMatchObject({ groups: 2, out: model.length, duplicates: 0, filesAfter: 2 });
  await expectAgreement('note');
  // Rows of others are not among the landed ones.
  expect(model).toHaveLength(landed + 1);
  expect(await datasetStats(lake, DATASET)).toMatchObject({ landed, quarantined: 0, lost: 0, duplicates: 0 });
});
