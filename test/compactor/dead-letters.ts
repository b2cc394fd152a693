/** The dead letters of a pipeline's dataset, by a Parquet reader that is not the one that wrote them. */
import { expect } from 'vitest';
import { quarantineBucket } from '../../lib/lake/quarantine.ts';
import { DATASET, type LakeRow, readParquet, type TestPipeline } from './pipeline.ts';

export async function deadLetters({ lake }: TestPipeline): Promise<LakeRow[]> {
  const page = await lake.engine.scan(quarantineBucket(lake.volume, DATASET), '', 100);
  const rows: LakeRow[] = [];
  for (const [key, stored] of page.entries) {
    const found = await readParquet(lake, key);
    expect(JSON.parse(stored.value.toString())).toMatchObject({ records: found.length });
    rows.push(...found);
  }
  return rows;
}
