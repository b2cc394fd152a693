/** Contexts that others wrote, in headers of records and in files: none of them costs more than itself. */
import { expect, test } from 'vitest';
import { CompactionTraces } from '../../compactor/compact/compaction-traces.ts';
import { TRACES_KEY } from '../../compactor/parquet-object.ts';
import { systemClock } from '../../lib/clock.ts';
import { DuckDb, sqlText } from '../../lib/sql/duckdb.ts';
import type { Span } from '../../lib/tracing/span.ts';
import { parseTraceparent } from '../../lib/tracing/trace-context.ts';
import { tempDir } from '../support/temp.ts';

const TRACE = '0af7651916cd43dd8448eb211c80319c';
const CONTEXT = `00-${TRACE}-b7ad6b7169203331-01`;

test('a context of a later version is read, and one of a megabyte is none', () => {
  expect(parseTraceparent(CONTEXT)).toMatchObject({ traceId: TRACE });
  expect(parseTraceparent(`01${CONTEXT.slice(2)}-more`)).toMatchObject({ traceId: TRACE });
  // The ids would be slices of it, and keep it as long as a span waits.
  expect(parseTraceparent(`01${CONTEXT.slice(2)}-${'x'.repeat(1_000_000)}`)).toBeNull();
  for (const text of [`${CONTEXT}-more`, CONTEXT.replace(TRACE, '0'.repeat(32)), CONTEXT.toUpperCase(), '']) {
    expect([text, parseTraceparent(text)]).toEqual([text, null]);
  }
});

test('a file whose traces are no text is compacted all the same', async () => {
  const dir = tempDir('foreign-contexts');
  const sql = await DuckDb.open({ memoryBytes: 200e6, threads: 1, scratchDir: dir, scratchBytes: 1e6 });
  const spans: Span[] = [];
  const sink = { add: (span: Span) => void spans.push(span), dropped: 0, close: () => Promise.resolve() };
  const group = { dataset: 'd', hour: 0, files: [], bytes: 0, rows: 0, compared: [], choices: [] } as const;
  const tracesIn = async (name: string, value: string): Promise<readonly Span[]> => {
    const path = `${dir}/${name}.parquet`;
    const metadata = `KV_METADATA {${sqlText(TRACES_KEY)}: ${value}}`;
    await sql.run(`COPY (SELECT 1 AS x) TO ${sqlText(path)} (FORMAT parquet, ${metadata})`);
    const traces = await CompactionTraces.of(sink, systemClock, group, sql, [path]);
    traces.committed({ filesBefore: 1, filesAfter: 1 });
    return spans.splice(0);
  };
  try {
    expect(await tracesIn('own', sqlText(CONTEXT))).toMatchObject([{ name: 'compact', traceId: TRACE }]);
    expect(await tracesIn('bytes', String.raw`'\xFF\xFE'::BLOB`)).toEqual([]);
    expect(await tracesIn('words', sqlText('not a context'))).toEqual([]);
  } finally {
    sql.close();
  }
});
