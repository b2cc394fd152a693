/**
 * Which landers there are: one record for each, which it writes again and again for as long as it lives.
 *
 *   {VOLUME}landers / <lander id>     { "host", "pid", "space", "born", "datasets", "startedMs" } as JSON
 *
 * `space`, `pid` and `born` are its process (lib/process-identity.ts); `datasets` are those in whose partitions it takes a share. Who lands a partition stands in the record of its offset (offsets.ts).
 */
import { z } from 'zod';

const landerSchema = z.object({
  host: z.string(),
  pid: z.int(),
  space: z.string(),
  born: z.string().optional(),
  datasets: z.array(z.string()),
  startedMs: z.number(),
});
export type LanderRecord = z.output<typeof landerSchema>;

export const landersBucket = (volume: string): string => `{${volume}}landers`;

/** null: it is none, and protects nobody. */
export function parseLander(value: Buffer): LanderRecord | null {
  try {
    return landerSchema.parse(JSON.parse(value.toString('utf8')));
  } catch {
    return null;
  }
}
