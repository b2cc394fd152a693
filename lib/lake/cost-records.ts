/**
 * What runs cost: one record per run and dataset in the engine, written by the lander and the compactor.
 *
 *   {VOLUME}cost:<dataset> / <start, ISO time>-<random>     CostRecord as JSON
 *
 * Fields begin with the time, so their order is the order of the starts.
 */
import { z } from 'zod';
import type { MetaEngine } from '../meta/engine.ts';
import { scanJson } from './scan.ts';

const costSchema = z.object({
  kind: z.enum(['land', 'compact', 'erase']),
  startedMs: z.number(),
  seconds: z.number(),
  cpuSeconds: z.number(),
  rows: z.int(),
  bytesRead: z.int(),
  bytesWritten: z.int(),
  gets: z.int(),
  puts: z.int(),
  /** Resident memory over time, child processes included. Older records have none. */
  gbSeconds: z.number().default(0),
  /** Of `seconds`, those that are this dataset's: datasets share a lander. */
  nodeSeconds: z.number().optional(),
  /** The type of the node, as PENSTOCK_NODE_TYPE said. */
  node: z.string().optional(),
  isSpot: z.boolean().optional(),
  /** Of landings: the data files that were committed. Older records have none. */
  landed: z.object({ commits: z.int(), files: z.int(), bytes: z.int() }).optional(),
});
export type CostRecord = z.output<typeof costSchema>;
export type NewCostRecord = z.input<typeof costSchema>;

export const costBucket = (volume: string, dataset: string): string => `{${volume}}cost:${dataset}`;

/** In no promised order. A record is never changed: of what is in `known`, by field, that is given. */
export function readCosts(
  engine: MetaEngine,
  volume: string,
  dataset: string,
  known: ReadonlyMap<string, CostRecord> = new Map(),
): AsyncGenerator<readonly [field: string, record: CostRecord]> {
  return scanJson(engine, costBucket(volume, dataset), costSchema, (field) => known.get(field));
}
