/**
 * The audit log: who asked for what change, and what came of it.
 *
 *   {VOLUME}audit:<YYYY-MM-DD, UTC>[@<tenant of who asked>] / <id>     AuditRecord as JSON
 *
 * Invariants: the record is in the engine before the change is tried, and is completed afterwards: a change that nobody recorded does
 * not happen, and one whose outcome stands as null was cut off (its effect is for the thing itself to tell). Values of keys that name a
 * secret are never in a record.
 * Limits: kept for KEEP_DAYS; RECORDS_PER_DAY_MAX of each tenant and of the platform, beyond which its changes are refused until midnight; a body of DETAIL_CHARS_MAX is kept.
 */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { scanJson } from '../../lib/lake/scan.ts';
import { COMMIT_RECORDS_MAX, type MetaEngine } from '../../lib/meta/engine.ts';
import { withoutCredentials } from '../../lib/urls.ts';

export const KEEP_DAYS = 90;
const RECORDS_PER_DAY_MAX = 100_000;
const DETAIL_CHARS_MAX = 2000;
const DAY_MS = 86_400_000;
const SECRET = /secret|password|token|credential|accesskey/i;

export const auditSchema = z.object({
  /** Sorts by time. */
  id: z.string(),
  atMs: z.number(),
  who: z.string(),
  role: z.string(),
  /** Of who asked; null: of the platform. */
  tenant: z.string().nullable().default(null),
  address: z.string(),
  /** As in /openapi.json: `tokens.create`. */
  operation: z.string(),
  target: z.string(),
  /** The request's body as JSON text, cut to 2,000 characters; '' without one. */
  detail: z.string(),
  /** The HTTP status, of what goes on without its request that which it ended with; null: it did not come to its end. */
  status: z.int().nullable(),
});
export type AuditRecord = z.output<typeof auditSchema>;

const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
const prefixOf = (volume: string): string => `{${volume}}audit:`;

const bucketOf = (volume: string, { atMs, tenant }: Pick<AuditRecord, 'atMs' | 'tenant'>): string =>
  `${prefixOf(volume)}${dayOf(atMs)}${tenant === null ? '' : `@${tenant}`}`;

export class AuditLog {
  readonly #clock: Clock;
  #expiredOn: string | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Throws `full`, and what the engine throws: then the change must not be made. */
  async begin(
    engine: MetaEngine,
    volume: string,
    act: Omit<AuditRecord, 'id' | 'atMs' | 'detail' | 'status'> & { readonly body: unknown },
  ): Promise<AuditRecord> {
    const atMs = this.#clock.nowMs();
    const bucket = bucketOf(volume, { atMs, tenant: act.tenant });
    if ((await engine.count(bucket)) >= RECORDS_PER_DAY_MAX) {
      throw new PenstockError('full', `the audit log has ${RECORDS_PER_DAY_MAX} records of this day: no more changes`);
    }
    const { body, ...rest } = act;
    const id = `${String(atMs).padStart(14, '0')}-${randomUUID()}`;
    const record = { id, atMs, ...rest, detail: detailOf(body), status: null };
    await this.#write(engine, bucket, record);
    await this.#expire(engine, volume, atMs);
    return record;
  }

  async complete(engine: MetaEngine, volume: string, record: AuditRecord, status: number): Promise<void> {
    await this.#write(engine, bucketOf(volume, record), { ...record, status });
  }

  /** The records of the days from `sinceMs` on, newest first. */
  async list(engine: MetaEngine, volume: string, sinceMs: number): Promise<AuditRecord[]> {
    const records: AuditRecord[] = [];
    for await (const bucket of engine.buckets(prefixOf(volume))) {
      if (bucket.slice(prefixOf(volume).length) < dayOf(Math.max(0, sinceMs))) continue;
      for await (const [, record] of scanJson(engine, bucket, auditSchema)) {
        if (record.atMs >= sinceMs) records.push(record);
      }
    }
    // A bucket may be named twice.
    const byId = new Map(records.map((record) => [record.id, record]));
    return [...byId.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
  }

  async #write(engine: MetaEngine, bucket: string, record: AuditRecord): Promise<void> {
    await engine.commit({ write: [{ key: { bucket, field: record.id }, value: Buffer.from(JSON.stringify(record)) }] });
  }

  /** Once a day, by the server that happens to be asked. */
  async #expire(engine: MetaEngine, volume: string, nowMs: number): Promise<void> {
    const today = dayOf(nowMs);
    if (this.#expiredOn === today) return;
    this.#expiredOn = today;
    const oldest = prefixOf(volume) + dayOf(nowMs - KEEP_DAYS * DAY_MS);
    for await (const bucket of engine.buckets(prefixOf(volume))) {
      if (bucket >= oldest) continue;
      for (let count = -1; count !== 0;) {
        const page = await engine.scan(bucket, '', COMMIT_RECORDS_MAX);
        const write = page.entries
          .slice(0, COMMIT_RECORDS_MAX)
          .map(([field]) => ({ key: { bucket, field }, value: null }));
        count = write.length;
        if (count > 0) await engine.commit({ write });
      }
    }
  }
}

function detailOf(body: unknown): string {
  if (body === undefined || body === null) return '';
  const text = JSON.stringify(body, (key, value: unknown) =>
    SECRET.test(key) ? '(not recorded)' : typeof value === 'string' ? withoutCredentials(value) : value,
  );
  return text.length > DETAIL_CHARS_MAX ? `${text.slice(0, DETAIL_CHARS_MAX)}…` : text;
}
