/** Reads the dead letters of one quarantine object (lander/dead-letters.ts writes them), in order of partition and offset. */
import { randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isCode, PenstockError } from '../../lib/errors.ts';
import { quarantineKey } from '../../lib/lake/quarantine.ts';
import type { Version } from '../../lib/meta/engine.ts';
import { type DuckDb, sqlText } from '../../lib/sql/duckdb.ts';
import type { LakeContext } from '../../lib/table/table.ts';

const bytes = z.instanceof(Uint8Array).nullable();
const letterSchema = z.object({
  reason: z.string(),
  topic: z.string(),
  topic_id: z.string(),
  partition: z.int(),
  offset: z.bigint().transform(Number),
  timestampMs: z.bigint().transform(Number),
  key: bytes,
  value: bytes,
  headers: z
    .string()
    .transform((text): unknown => JSON.parse(text))
    .pipe(z.array(z.tuple([z.string(), z.string().nullable()]))),
});

/** A record as it came, and why it did not fit. Headers have their values in base64. */
export type DeadLetter = z.output<typeof letterSchema>;

export interface LetterObject {
  readonly key: string;
  /** Of the record that refers to it. */
  readonly version: Version;
  /** Portions of the letters. Throws `corrupt` for an object that is none of ours. */
  readonly letters: () => AsyncGenerator<readonly DeadLetter[]>;
  /** Removes the local copy. */
  readonly close: () => Promise<void>;
}

/** Fetches the object; null when nothing refers to it (any more). Throws `corrupt` when it is referred to and not there. */
export async function openLetters(
  lake: LakeContext,
  dataset: string,
  object: string,
  local: { readonly db: DuckDb; readonly scratchDir: string },
): Promise<LetterObject | null> {
  const recordKey = quarantineKey(lake.volume, dataset, object);
  const [record] = await lake.engine.read([recordKey]);
  if (record == null) return null;
  const path = join(local.scratchDir, `letters-${randomUUID()}.parquet`);
  const close = (): Promise<void> => rm(path, { force: true });
  try {
    await lake.store.getFile(object, path);
  } catch (error) {
    await close();
    if (!isCode(error, 'not-found')) throw error;
    // It may have been replayed, and swept, between the two reads.
    const [now] = await lake.engine.read([recordKey]);
    if (now == null) return null;
    throw new PenstockError('corrupt', `${object} does not exist, but the quarantine refers to it`, { cause: error });
  }
  return { key: object, version: record.version, letters: () => readLetters(local.db, path, object), close };
}

async function* readLetters(db: DuckDb, path: string, object: string): AsyncGenerator<readonly DeadLetter[]> {
  const sql =
    'SELECT reason, topic, topic_id, "partition", "offset", epoch_ms("timestamp") AS "timestampMs", "key", "value", headers ' +
    `FROM read_parquet(${sqlText(path)}) ORDER BY topic_id, "partition", "offset"`;
  for await (const rows of db.stream(sql)) {
    const parsed = z.array(letterSchema).safeParse(rows);
    if (!parsed.success) {
      throw new PenstockError('corrupt', `${object} does not hold dead letters as Penstock writes them`, {
        cause: parsed.error,
      });
    }
    yield parsed.data;
  }
}
