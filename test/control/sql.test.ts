import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { LakeSql } from '../../control/lake/sql.ts';
import { Tables } from '../../control/lake/tables.ts';
import { commitDeletes, equals, positions, rowsWithoutDeleted } from '../compactor/foreign-writer.ts';
import { DATASET, liveFiles } from '../compactor/pipeline.ts';
import { type Answer, landedPipeline, startControl } from './control.ts';

test('one SELECT over the live files, with types, cut off at the limit', async () => {
  const { pipeline, rows } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const query = (sql: string, limit?: number): Promise<Answer> =>
    control.request('POST', '/v1/sql', { body: { sql, ...(limit === undefined ? {} : { rows: limit }) } });
  const counted = await query(`SELECT count(*) AS n, max(rms) AS top FROM ${DATASET}`);
  expect(counted.json).toMatchObject({
    columns: [
      { name: 'n', type: 'BIGINT' },
      { name: 'top', type: 'DOUBLE' },
    ],
    rows: [[String(rows), 11.9]],
    truncated: false,
    datasets: [DATASET],
  });
  const cut = await query(`FROM "plant"."vibration" SELECT sensor ORDER BY ts LIMIT 50`, 7);
  expect(cut.json['rows']).toHaveLength(7);
  expect(cut.json['truncated']).toBe(true);
});

test('nothing outside the named datasets can be read, nothing written, no setting changed', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const secret = join(pipeline.dir, 'secret.csv');
  writeFileSync(secret, 'password\nhunter2\n');
  const other = join(pipeline.dir, 'written.csv');
  const attempts = [
    `SELECT * FROM read_csv('${secret}')`,
    `SELECT * FROM '${secret}'`,
    `SELECT * FROM read_text('/etc/passwd')`,
    `SELECT * FROM read_blob('/proc/self/environ')`,
    `SELECT * FROM glob('${pipeline.dir}/*')`,
    `SELECT * FROM sniff_csv('${secret}')`,
    `SELECT * FROM parquet_metadata('${pipeline.dir}/objects/**/*.parquet')`,
    `SELECT * FROM query('COPY (SELECT 1) TO ''${other}''')`,
    `SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')`,
    `COPY (SELECT 1) TO '${other}'`,
    `COPY (SELECT * FROM ${DATASET}) TO '${other}'`,
    `EXPLAIN ANALYZE COPY (SELECT 1) TO '${other}'`,
    `ATTACH '${other}'`,
    `CREATE TABLE t AS SELECT 1`,
    `INSTALL httpfs`,
    `LOAD httpfs`,
    `SET enable_external_access = true`,
    `RESET enable_external_access`,
    `PRAGMA enable_profiling`,
    `SELECT 1; SELECT * FROM read_text('/etc/passwd')`,
    `SET allowed_paths = ['${secret}']; SELECT * FROM read_csv('${secret}')`,
    `EXPORT DATABASE '${pipeline.dir}/export'`,
    `CALL pragma_version()`,
    `selec 1`,
    `-- nothing`,
  ];
  // As many at a time as may wait.
  for (let at = 0; at < attempts.length; at += 8) {
    await Promise.all(
      attempts.slice(at, at + 8).map(async (sql) => {
        const answer = await control.request('POST', '/v1/sql', { body: { sql } });
        expect([sql, answer.status, answer.text.includes('hunter2')]).toEqual([sql, 400, false]);
      }),
    );
  }
  expect(existsSync(other)).toBe(false);
});

test('a query that takes too long is ended, and the next one works', async () => {
  const { pipeline } = await landedPipeline({ compacted: false });
  const sql = new LakeSql(new Tables(), 1, 1000);
  const endless = sql.query(
    pipeline.lake,
    [DATASET],
    'SELECT count(*) FROM range(100000000000) a WHERE sqrt(range) = -1',
    10,
  );
  await expect(endless).rejects.toMatchObject({ code: 'timeout' });
  const next = await new LakeSql(new Tables()).query(pipeline.lake, [DATASET], 'SELECT 1 AS one', 10);
  expect(next.rows).toEqual([[1]]);
});

test('an answer that is too large in bytes is refused', async () => {
  const { pipeline } = await landedPipeline({ compacted: false });
  const control = await startControl(pipeline.config, pipeline.dir);
  const answer = await control.request('POST', '/v1/sql', {
    body: { sql: "SELECT repeat('x', 1000000) FROM range(40)" },
  });
  expect(answer.status).toBe(413);
});

test('rows that another writer deleted are in no answer', async () => {
  const { pipeline } = await landedPipeline();
  const control = await startControl(pipeline.config, pipeline.dir);
  const [location = ''] = await liveFiles(pipeline.lake);
  const hour = Date.parse(`${/dt=([^/]+)/.exec(location)?.[1]}T${/hour=(\d+)/.exec(location)?.[1]}:00Z`) / 3_600_000;
  await commitDeletes(
    pipeline.lake,
    positions(hour, [
      [location, 0],
      [location, 5],
    ]),
    await equals(pipeline.lake, null, ['rms'], [[11.9]]),
  );
  const expected = await rowsWithoutDeleted(pipeline.lake);
  const { json } = await control.request('POST', '/v1/sql', {
    body: { sql: `SELECT count(*) AS n, max(rms) AS top FROM ${DATASET}` },
  });
  expect(json['rows']).toEqual([[String(expected.length), Math.max(...expected.map(({ rms }) => Number(rms)))]]);
  await commitDeletes(pipeline.lake, positions(hour, [[location, 7]], { format: 'PUFFIN' }));
  const refused = await control.request('POST', '/v1/sql', { body: { sql: `SELECT count(*) FROM ${DATASET}` } });
  expect(refused.status).toBeGreaterThanOrEqual(400);
  expect(refused.text).toContain('deletion vectors');
});
