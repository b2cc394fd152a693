/**
 * Which objects hold the records of a dataset that did not fit; written in the minitransaction that lands their neighbours.
 *
 *   {VOLUME}quarantine:<dataset> / <object key>     QuarantineRecord as JSON
 */
import { z } from 'zod';
import type { Key, MetaEngine, Write } from '../meta/engine.ts';
import { deadLettersInTable } from '../table/keys.ts';
import type { LakeContext } from '../table/table.ts';
import { scanJson } from './scan.ts';

const recordSchema = z.object({
  records: z.int(),
  bytes: z.int(),
  /** How many records for each kind of reason. */
  reasons: z.record(z.string(), z.int()),
  committedMs: z.number(),
});
export type QuarantineRecord = z.output<typeof recordSchema>;

/** Where new ones of these objects go. */
export function deadLetterFolder({ catalog }: Pick<LakeContext, 'catalog'>, dataset: string): string {
  return catalog === undefined ? `quarantine/${dataset}/` : deadLettersInTable(dataset);
}

export const quarantineBucket = (volume: string, dataset: string): string => `{${volume}}quarantine:${dataset}`;

export const quarantineKey = (volume: string, dataset: string, object: string): Key => ({
  bucket: quarantineBucket(volume, dataset),
  field: object,
});

export function quarantineWrite(
  volume: string,
  dataset: string,
  { key, records, bytes, reasons }: Omit<QuarantineRecord, 'committedMs'> & { readonly key: string },
  committedMs: number,
): Write {
  return {
    key: quarantineKey(volume, dataset, key),
    value: Buffer.from(JSON.stringify({ records, bytes, reasons, committedMs })),
  };
}

/** Every quarantine object of a dataset with its record; damaged records are left out. */
export function readQuarantine(
  engine: MetaEngine,
  volume: string,
  dataset: string,
): AsyncGenerator<readonly [key: string, record: QuarantineRecord]> {
  return scanJson(engine, quarantineBucket(volume, dataset), recordSchema);
}
