/** Independent readers of what we write: icebird for the metadata and the rows. */
import { readFile, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { icebergManifests, icebergRead } from 'icebird';
import { expect, it, onTestFinished, vi } from 'vitest';
import { DuckDb } from '../../lib/sql/duckdb.ts';
import { columnStats } from '../../lib/table/column-stats.ts';
import { commitTable } from '../../lib/table/commit.ts';
import type { DataFile } from '../../lib/table/data-file.ts';
import { dataFileKey } from '../../lib/table/keys.ts';
import { createTable } from '../../lib/table/table.ts';
import type { LakeContext } from '../../lib/table/table.ts';
import { tempDir } from '../support/temp.ts';
import { mustLoad, openLake, SCHEMA, TABLE } from './lake.ts';

/** `fetch` of file URLs with ranges, which Node's does not do. */
async function fetchFile(url: string, init?: { method?: string; headers?: Record<string, string> }): Promise<Response> {
  const bytes = await readFile(fileURLToPath(url));
  const range = /^bytes=(\d+)-(\d*)$/.exec(new Headers(init?.headers).get('range') ?? '');
  if (range === null)
    return new Response(init?.method === 'HEAD' ? null : bytes, {
      headers: { 'content-length': String(bytes.length) },
    });
  const end = range[2] === '' ? bytes.length : Number(range[2]) + 1;
  return new Response(bytes.subarray(Number(range[1]), end), { status: 206 });
}

async function writeParquet(lake: LakeContext, duckdb: DuckDb, name: string, rows: string): Promise<DataFile> {
  const path = `${tempDir('parquet')}/${name}`;
  await duckdb.run(
    `COPY (SELECT * FROM ${rows}) TO '${path}' (FORMAT parquet, COMPRESSION zstd, FIELD_IDS {sensor: 1, rms: 2, _event_time: 3})`,
  );
  const [summary] = await duckdb.query(
    `SELECT count(*) AS rows, count(sensor) AS sensors, min(sensor) AS lower, max(sensor) AS upper FROM '${path}'`,
  );
  const key = dataFileKey(TABLE, name);
  await lake.store.putFile(key, path);
  const [rowCount, sensors] = [summary?.['rows'] as bigint, summary?.['sensors'] as bigint];
  const sensor = { bytes: null, valueCount: rowCount, nullCount: rowCount - sensors, hasNan: null };
  return {
    location: lake.store.location(key),
    hour: 491_000,
    recordCount: rowCount,
    bytes: BigInt((await stat(path)).size),
    columnStats: columnStats(SCHEMA, [
      { path: ['sensor'], ...sensor, min: summary?.['lower'] as string, max: summary?.['upper'] as string },
    ]),
    sortOrderId: 1,
  };
}

it('icebird reads the rows of the current snapshot from Parquet files that DuckDB wrote', async () => {
  vi.stubGlobal('fetch', fetchFile);
  onTestFinished(() => void vi.unstubAllGlobals());
  const lake = await openLake();
  await createTable(lake, TABLE, { schema: SCHEMA, sortFields: [{ name: 'sensor' }] });
  const scratchDir = tempDir('duckdb');
  const duckdb = await DuckDb.open({ memoryBytes: 256e6, threads: 1, scratchDir, scratchBytes: 100e6 });
  onTestFinished(() => duckdb.close());
  const time = `TIMESTAMPTZ '2026-01-05 08:00:00+00'`;
  const files = [
    await writeParquet(lake, duckdb, 'old.parquet', `(VALUES ('x', 0.5::DOUBLE, ${time})) t(sensor, rms, _event_time)`),
    await writeParquet(
      lake,
      duckdb,
      'keep.parquet',
      `(VALUES ('k', 1.5::DOUBLE, ${time}), (NULL, NULL, ${time})) t(sensor, rms, _event_time)`,
    ),
  ];
  const replacement = await writeParquet(
    lake,
    duckdb,
    'new.parquet',
    `(VALUES ('n', 2.5::DOUBLE, ${time})) t(sensor, rms, _event_time)`,
  );
  const commit = (change: { add: DataFile[]; remove: string[] }) =>
    commitTable(lake, TABLE, async () => ({ change: { operation: 'overwrite', ...change }, extra: {} }));
  await commit({ add: files, remove: [] });
  await commit({ add: [replacement], remove: [files[0]?.location ?? ''] });

  const { metadataLocation } = await mustLoad(lake);
  const metadata = JSON.parse(await readFile(fileURLToPath(metadataLocation), 'utf8')) as Parameters<
    typeof icebergManifests
  >[0];
  const rows = await icebergRead({ tableUrl: metadata.location, metadata });
  const eventTime = new Date('2026-01-05T08:00:00Z');
  expect(rows.sort((a, b) => String(a['sensor']).localeCompare(String(b['sensor'])))).toEqual([
    { sensor: 'k', rms: 1.5, _event_time: eventTime },
    { sensor: 'n', rms: 2.5, _event_time: eventTime },
    expect.objectContaining({ _event_time: eventTime }),
  ]);
  const live = (await icebergManifests(metadata))
    .flatMap(({ entries }) => entries)
    .filter(({ status }) => status !== 2);
  expect(live.map(({ data_file: file }) => [file.file_path, file.record_count, file.partition])).toEqual(
    expect.arrayContaining([[replacement.location, 1n, { _event_time_hour: 491_000 }]]),
  );
});
