/** The records that did not fit: which objects hold them, and the records themselves. */
import { z } from 'zod';
import type { App } from '../context.ts';
import { pageOf, pageQuery, paginate } from '../page.ts';

/** A value is shown up to this; the object has all of it. */
const SHOWN_BYTES_MAX = 4096;

const objectSchema = z.object({
  dataset: z.string(),
  object: z.string(),
  records: z.int(),
  bytes: z.int(),
  reasons: z.record(z.string(), z.int()),
  committedMs: z.number(),
});
const recordSchema = z.object({
  reason: z.string(),
  topic: z.string(),
  partition: z.int(),
  offset: z.string(),
  timestamp: z.string(),
  key: z.string().nullable(),
  value: z.string().nullable().meta({ description: 'up to 4096 bytes, as text; bytes that are no UTF-8 as \\xNN' }),
  valueBytes: z.int().nullable(),
});

export function quarantineRoutes(app: App): void {
  app.get(
    '/v1/quarantine',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'quarantine.list',
        tags: ['quarantine'],
        summary: 'Objects with quarantined records, newest first',
        querystring: z.object({ ...pageQuery, dataset: z.string().max(200).optional() }),
        response: { 200: pageOf(objectSchema) },
      },
    },
    async (request) => {
      const objects = await Array.fromAsync(request.scope.lake.quarantine(request.query.dataset));
      const key = ({ committedMs, object }: { readonly committedMs: number; readonly object: string }): string[] => [
        String(committedMs),
        object,
      ];
      const newest = (a: readonly string[], b: readonly string[]): number =>
        Number(b[0]) - Number(a[0]) || ((a[1] ?? '') < (b[1] ?? '') ? -1 : Number(a[1] !== b[1]));
      return paginate(
        objects.sort((a, b) => newest(key(a), key(b))),
        key,
        newest,
        request.query,
      );
    },
  );

  app.get(
    '/v1/quarantine/:dataset/records',
    {
      config: { access: 'viewer' },
      schema: {
        operationId: 'quarantine.records',
        tags: ['quarantine'],
        summary: 'The records of one quarantine object, in order of partition and offset',
        params: z.object({ dataset: z.string().max(200) }),
        querystring: z.object({
          object: z.string().max(900).meta({ description: '`object` of a quarantine entry' }),
          offset: z.coerce.number().int().min(0).default(0),
          limit: z.coerce.number().int().min(1).max(1000).default(100),
        }),
        response: { 200: z.object({ items: z.array(recordSchema), more: z.boolean() }) },
      },
    },
    async (request) => {
      const { object, offset, limit } = request.query;
      const { lake } = request.scope;
      const { rows, truncated } = await lake.quarantined(request.params.dataset, object, recordsSql(offset), limit);
      return {
        items: rows.map(([reason, topic, partition, at, timestamp, key, value, valueBytes]) =>
          recordSchema.parse({
            reason,
            topic,
            partition,
            offset: at,
            timestamp,
            key,
            value,
            valueBytes: valueBytes === null ? null : Number(valueBytes),
          }),
        ),
        more: truncated,
      };
    },
  );
}

/** Bytes as text: `CAST(blob AS VARCHAR)` escapes what is not ASCII, so UTF-8 is decoded where it is valid. */
function recordsSql(offset: number): string {
  const text = (column: string): string =>
    `coalesce(try(decode(${column}[1:${SHOWN_BYTES_MAX}])), ${column}[1:${SHOWN_BYTES_MAX}]::VARCHAR)`;
  return (
    `SELECT reason, topic, "partition", "offset"::VARCHAR, "timestamp"::VARCHAR, ${text('key')}, ${text('value')}, octet_length("value") ` +
    `FROM object ORDER BY "partition", "offset" OFFSET ${offset}`
  );
}
