/** Records of a bucket that are JSON, each once, with their fields. */
import type { z } from 'zod';
import type { MetaEngine, Version } from '../meta/engine.ts';

const PAGE = 500;

/**
 * In no promised order. What is not of the schema is left out: the readers here show and sum up, they decide nothing. What `known` gives (of a reading before) is
 * taken as it is and not parsed again, which is most of the work.
 */
export async function* scanJson<T>(
  engine: MetaEngine,
  bucket: string,
  schema: z.ZodType<T>,
  known: (field: string, version: Version) => T | undefined = () => undefined,
): AsyncGenerator<readonly [field: string, record: T]> {
  // A scan may give an entry twice.
  const seen = new Set<string>();
  for (let cursor: string | null = ''; cursor !== null;) {
    const page = await engine.scan(bucket, cursor, PAGE);
    for (const [field, stored] of page.entries) {
      if (seen.has(field)) continue;
      seen.add(field);
      const before = known(field, stored.version);
      if (before !== undefined) {
        yield [field, before];
        continue;
      }
      const parsed = schema.safeParse(parseJson(stored.value));
      if (parsed.success) yield [field, parsed.data];
    }
    cursor = page.cursor;
  }
}

/** undefined: it is none. */
export function parseJson(value: Buffer): unknown {
  try {
    return JSON.parse(value.toString('utf8'));
  } catch {
    return undefined;
  }
}
