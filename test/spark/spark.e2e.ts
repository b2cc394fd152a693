/**
 * Apache Spark, the lander and the compactor on one table in turn: after each step Spark's rows, the rows of `/v1/sql` and those of a naive model are the same,
 * and the directories of the volume list the files that Spark reads.
 */
import { rmSync } from 'node:fs';
import { expect, onTestFinished, test, vi } from 'vitest';
import { LakeSql } from '../../control/lake/sql.ts';
import { Tables } from '../../control/lake/tables.ts';
import { openRestServer } from '../../lib/table/rest/rest-server.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { listedNames } from '../compactor/foreign-catalog-pipeline.ts';
import {
  compactAll,
  DATASET,
  HOUR_MS,
  landOnce,
  openPipelineOf,
  openTestPipeline,
  pipelineYaml,
  recordOf,
  type TestPipeline,
  TestProducer,
} from '../compactor/pipeline.ts';
import { makeTempDir } from '../support/temp.ts';
import { startVersitygw } from '../support/versitygw.ts';
import { SparkSession } from './session.ts';

const TABLE = `penstock.${DATASET}`;
const PER_LANDING = 2000;
const SENSORS = 8;

interface Row {
  readonly sensor: string;
  readonly ts: number;
  readonly rms: number;
  readonly note: string | null;
}

/** Over two hours; doubles that no dictionary holds. */
function rowsOf(landing: number): Row[] {
  return Array.from({ length: PER_LANDING }, (_, k) => {
    const n = landing * PER_LANDING + k;
    return { sensor: `s-${n % SENSORS}`, ts: HOUR_MS + (n % 2) * 3_600_000 + n, rms: Math.sin(n) * 100, note: null };
  });
}

const textsOf = (rows: readonly Partial<Record<keyof Row, unknown>>[]): string[] =>
  rows.map(({ sensor, ts, rms, note = null }) => [sensor, ts, rms, note].map(String).join(' ')).sort();

async function ourRows(lake: LakeContext): Promise<Record<string, unknown>[]> {
  const { columns, rows } = await new LakeSql(new Tables()).query(lake, [DATASET], `SELECT * FROM ${DATASET}`, 10_000);
  return rows.map((values) => Object.fromEntries(columns.map(({ name }, at) => [name, values[at]])));
}

/** Names of the data files and the number of delete files, as Spark sees them. */
async function filesOf(spark: SparkSession): Promise<{ readonly data: string[]; readonly deletes: number }> {
  const files = await spark.sql(`SELECT content, file_path FROM ${TABLE}.files`);
  const data = files
    .filter((file) => file['content'] === 0)
    .map((file) => String(file['file_path']).replace(/.*\//, ''));
  return { data: data.sort(), deletes: files.length - data.length };
}

async function openSpark(lake: LakeContext): Promise<SparkSession> {
  const server = await openRestServer(lake, {
    host: '127.0.0.1',
    port: 0,
    token: null,
    onProblem: () => undefined,
  });
  onTestFinished(() => server.close());
  const dir = makeTempDir('spark');
  const spark = new SparkSession(server.url, dir, {
    'spark.sql.shuffle.partitions': '2',
    // Short statements: no time for the second compiler.
    'spark.driver.extraJavaOptions': '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC',
  });
  onTestFinished(async () => {
    await spark.close();
    rmSync(dir, { recursive: true, force: true });
  });
  return spark;
}

/** As a laptop has it, and as a cluster does: clients have credentials of their own, the catalog tells where the server is. */
async function openOn(store: 'a directory' | 'S3'): Promise<TestPipeline> {
  if (store === 'a directory') return openTestPipeline();
  const s3 = await startVersitygw();
  onTestFinished(() => s3.stop());
  s3.createBucket('lake');
  vi.stubEnv('AWS_ACCESS_KEY_ID', s3.accessKeyId);
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', s3.secretAccessKey);
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
  const url = `s3://lake/tables?endpoint=${encodeURIComponent(s3.endpoint)}`;
  const yamlOf = (dir: string): string => pipelineYaml(dir).replace(/^store: .*$/m, `store: ${url}`);
  return openPipelineOf(yamlOf, { partitions: 2, retentionMs: 86_400_000 });
}

const STORES = ['a directory', 'S3'] as const;
test.each(STORES)(
  'in %s: Spark reads, writes, deletes and rewrites what landed, and lander and compactor go on with it',
  async (store) => {
    const pipeline = await openOn(store);
    const { lake } = pipeline;
    const producer = new TestProducer(pipeline.log);
    let landings = 0;
    let model: Row[] = [];
    const land = async (): Promise<void> => {
      const rows = rowsOf(landings);
      const records = rows.map(({ sensor, ts, rms }, k) =>
        recordOf({ seq: landings * PER_LANDING + k, value: { sensor, ts, rms } }),
      );
      await producer.append(0, records);
      expect((await landOnce(pipeline)).summary).toMatchObject({ rows: PER_LANDING, quarantined: 0 });
      model.push(...rows);
      landings++;
    };
    const note = (sensor: string, text: string): void => {
      model = model.map((row) => (row.sensor === sensor ? { ...row, note: text } : row));
    };
    const remove = (sensor: string): void => {
      model = model.filter((row) => row.sensor !== sensor);
    };
    await land();
    await land();
    const spark = await openSpark(lake);
    const expectAgreement = async (): Promise<{ readonly data: string[]; readonly deletes: number }> => {
      const expected = textsOf(model);
      expect(await spark.sql(`SELECT count(*) AS n FROM ${TABLE}`)).toEqual([{ n: model.length }]);
      expect(textsOf(await spark.sql(`SELECT * FROM ${TABLE}`))).toEqual(expected);
      expect(textsOf(await ourRows(lake))).toEqual(expected);
      const files = await filesOf(spark);
      expect(await listedNames(lake)).toEqual(files.data);
      return files;
    };
    expect(await expectAgreement()).toMatchObject({ deletes: 0 });

    // Rows without an agent's identity, which are never taken for repeats.
    const inserted: Row = { sensor: 's-1', ts: HOUR_MS + 5, rms: 0.5, note: null };
    const values: Readonly<Record<string, string>> = {
      sensor: `'${inserted.sensor}'`,
      ts: String(inserted.ts),
      rms: String(inserted.rms),
      _event_time: `timestamp_millis(${inserted.ts})`,
    };
    // Spark leaves no column out.
    const columns = Object.keys((await spark.sql(`SELECT * FROM ${TABLE} LIMIT 1`))[0] ?? {});
    const list = columns.map((name) => values[name] ?? 'NULL').join(', ');
    await spark.sql(`INSERT INTO ${TABLE} SELECT ${list} FROM range(3)`);
    model.push(inserted, inserted, inserted);
    await expectAgreement();

    await spark.sql(`ALTER TABLE ${TABLE} ADD COLUMN note string`);
    await spark.sql(`UPDATE ${TABLE} SET note = 'copied' WHERE sensor = 's-1'`);
    note('s-1', 'copied');
    expect(await expectAgreement()).toMatchObject({ deletes: 0 });

    const modes = ['delete', 'update', 'merge'].map((kind) => `'write.${kind}.mode' = 'merge-on-read'`);
    await spark.sql(`ALTER TABLE ${TABLE} SET TBLPROPERTIES (${modes.join(', ')})`);
    const deletion = `DELETE FROM ${TABLE} WHERE sensor = 's-2'`;
    await expect(spark.sql(deletion)).rejects.toThrow('penstock.row-deletes');
    await expectAgreement();
    await spark.sql(`ALTER TABLE ${TABLE} SET TBLPROPERTIES ('penstock.row-deletes' = 'accept')`);
    await spark.sql(deletion);
    remove('s-2');
    await spark.sql(`UPDATE ${TABLE} SET note = 'updated' WHERE sensor = 's-3'`);
    note('s-3', 'updated');
    await spark.sql(
      `MERGE INTO ${TABLE} t USING (SELECT 's-4' AS sensor) s ON t.sensor = s.sensor WHEN MATCHED THEN UPDATE SET note = 'merged'`,
    );
    note('s-4', 'merged');
    const scattered = await expectAgreement();
    expect(scattered.deletes).toBeGreaterThan(0);

    const all = `options => map('rewrite-all', 'true')`;
    const rewritten = await spark.sql(
      `CALL penstock.system.rewrite_data_files(table => '${DATASET}', strategy => 'sort', sort_order => 'sensor ASC, ts ASC', ${all})`,
    );
    expect(rewritten).toMatchObject([
      { rewritten_data_files_count: scattered.data.length, failed_data_files_count: 0 },
    ]);
    await spark.sql(`CALL penstock.system.rewrite_position_delete_files(table => '${DATASET}', ${all})`);
    const sorted = await expectAgreement();
    expect(sorted.data.length).toBeLessThan(scattered.data.length);
    expect(sorted.deletes).toBe(0);

    for (const procedure of [
      `expire_snapshots('${DATASET}', TIMESTAMP '2100-01-01 00:00:00', 1)`,
      `remove_orphan_files(table => '${DATASET}', dry_run => true)`,
    ]) {
      await expect(spark.sql(`CALL penstock.system.${procedure}`)).rejects.toThrow('GC is disabled');
    }

    // The lander and the compactor go on with a table whose files are Spark's, one of them with deletes again.
    await land();
    await spark.sql(`DELETE FROM ${TABLE} WHERE sensor = 's-5'`);
    remove('s-5');
    expect((await expectAgreement()).deletes).toBeGreaterThan(0);
    const { summary, problems } = await compactAll(pipeline);
    expect(problems).toEqual([]);
    expect(summary).toMatchObject({ groups: 2, out: model.length, duplicates: 0 });
    expect(await expectAgreement()).toMatchObject({ data: { length: 2 }, deletes: 0 });
  },
);
