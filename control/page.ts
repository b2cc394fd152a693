/** Lists in pages. A cursor names the last item of a page by its key, so that items which come or go in between shift nothing. */
import { z } from 'zod';
import { PenstockError } from '../lib/errors.ts';

export const pageQuery = {
  cursor: z.string().max(1000).optional().meta({ description: '`nextCursor` of the page before' }),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
};

interface Page<T> {
  items: T[];
  nextCursor: string | null;
}

export function pageOf<T extends z.ZodType>(
  item: T,
): z.ZodObject<{ items: z.ZodArray<T>; nextCursor: z.ZodNullable<z.ZodString> }> {
  return z.object({
    items: z.array(item),
    nextCursor: z.string().nullable().meta({ description: 'null: this is the last page' }),
  });
}

/** `sorted` by `compare`, which orders keys as `keyOf` gives them. Throws `usage` for a cursor that is none of ours. */
export function paginate<T>(
  sorted: readonly T[],
  keyOf: (item: T) => readonly string[],
  compare: (a: readonly string[], b: readonly string[]) => number,
  { cursor, limit }: { readonly cursor?: string | undefined; readonly limit: number },
): Page<T> {
  let from = 0;
  if (cursor !== undefined) {
    const after = decode(cursor);
    // The first item behind the cursor, by binary search: lists may be long.
    for (let to = sorted.length; from < to;) {
      const middle = (from + to) >>> 1;
      const item = sorted[middle];
      if (item !== undefined && compare(keyOf(item), after) <= 0) from = middle + 1;
      else to = middle;
    }
  }
  const items = sorted.slice(from, from + limit);
  const last = items.at(-1);
  const isLast = last === undefined || from + limit >= sorted.length;
  return { items, nextCursor: isLast ? null : encode(keyOf(last)) };
}

/** Part by part, each ascending. */
export function ascending(a: readonly string[], b: readonly string[]): number {
  for (const [index, part] of a.entries()) {
    const other = b[index] ?? '';
    if (part !== other) return part < other ? -1 : 1;
  }
  return 0;
}

const encode = (key: readonly string[]): string => Buffer.from(JSON.stringify(key)).toString('base64url');

function decode(cursor: string): string[] {
  try {
    return z.array(z.string()).parse(JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8')));
  } catch (error) {
    throw new PenstockError('usage', 'cursor: expected nextCursor of an answer', { cause: error });
  }
}
