/**
 * Agents as they report themselves.
 *
 *   {VOLUME}agents / <agent id>     Report as JSON
 *
 * Limits: AGENTS_MAX agents; a status of STATUS_BYTES_MAX. An agent that has not reported for LATE_MS is late.
 */
import { z } from 'zod';
import type { Clock } from '../../lib/clock.ts';
import { PenstockError } from '../../lib/errors.ts';
import { scanJson } from '../../lib/lake/scan.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';

const AGENTS_MAX = 20_000;
const STATUS_BYTES_MAX = 32_768;
/** Six heartbeats of ten seconds. */
export const LATE_MS = 60_000;

export const reportSchema = z.object({
  seenMs: z.number(),
  firstSeenMs: z.number(),
  address: z.string(),
  status: z.record(z.string(), z.unknown()),
});
export type Report = z.output<typeof reportSchema>;

const agentsBucket = (volume: string): string => `{${volume}}agents`;

export async function saveHeartbeat(
  engine: MetaEngine,
  volume: string,
  clock: Clock,
  report: { readonly id: string; readonly address: string; readonly status: Report['status'] },
): Promise<void> {
  const bytes = Buffer.byteLength(JSON.stringify(report.status));
  if (bytes > STATUS_BYTES_MAX)
    throw new PenstockError('too-large', `a status of ${bytes} bytes: at most ${STATUS_BYTES_MAX}`);
  const key = { bucket: agentsBucket(volume), field: report.id };
  const [stored] = await engine.read([key]);
  const known = stored == null ? undefined : reportSchema.safeParse(JSON.parse(stored.value.toString('utf8'))).data;
  if (stored == null && (await engine.count(key.bucket)) >= AGENTS_MAX) {
    throw new PenstockError('full', `there are ${AGENTS_MAX} agents`);
  }
  const seenMs = clock.nowMs();
  const record = { seenMs, firstSeenMs: known?.firstSeenMs ?? seenMs, address: report.address, status: report.status };
  await engine.commit({ write: [{ key, value: Buffer.from(JSON.stringify(record)) }] });
}

/** What every agent that ever reported said last, by id. */
export async function readReports(engine: MetaEngine, volume: string): Promise<ReadonlyMap<string, Report>> {
  const reports: (readonly [string, Report])[] = [];
  for await (const entry of scanJson(engine, agentsBucket(volume), reportSchema)) reports.push(entry);
  return new Map(reports.sort(([a], [b]) => (a < b ? -1 : 1)));
}
