/** Short ways to use a MetaEngine in tests. */
import { onTestFinished } from 'vitest';
import type { CommitResult, Key, MetaEngine, Minitransaction, SessionOptions, Stored } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';

/** The hash tag, a bucket of values and one of numbers. */
export const V = '{v}';
export const BUCKET = `${V}b`;
export const NUMBERS = `${V}n`;

export function key(field: string, bucket = BUCKET): Key {
  return { bucket, field };
}

export function put(field: string, value: string | Buffer | null = field, bucket = BUCKET): Minitransaction {
  return { write: [{ key: key(field, bucket), value: typeof value === 'string' ? Buffer.from(value) : value }] };
}

/** Commits, and expects that every compare held. */
export async function apply(engine: MetaEngine, transaction: Minitransaction): Promise<CommitResult & { ok: true }> {
  const result = await engine.commit(transaction);
  if (!result.ok)
    throw new Error(
      `a compare failed: ${JSON.stringify(result.mismatches.map(({ index, kind }) => ({ index, kind })))}`,
    );
  return result;
}

export async function readOne(engine: MetaEngine, at: Key): Promise<Stored | null> {
  return (await engine.read([at]))[0] ?? null;
}

export async function readNumber(engine: MetaEngine, at: Key): Promise<bigint | null> {
  return (await engine.readNumbers([at]))[0] ?? null;
}

/** An engine that is closed when the test ends. */
export async function openFor(url: string, session: Partial<SessionOptions> = {}): Promise<MetaEngine> {
  const engine = await openMeta(url, { kind: 'test', ...session });
  onTestFinished(() => engine.close().catch(() => undefined));
  return engine;
}

export interface Heard {
  readonly messages: string[];
  readonly gaps: string[];
  readonly handlers: { onMessage: (shard: string, message: Buffer) => void; onGap: (shard: string) => void };
}

export function listener(): Heard {
  const messages: string[] = [];
  const gaps: string[] = [];
  return {
    messages,
    gaps,
    handlers: {
      onMessage: (shard, message) => messages.push(`${shard} ${message.toString('latin1')}`),
      onGap: (shard) => gaps.push(shard),
    },
  };
}

export async function scanAll(
  engine: Pick<MetaEngine, 'scan'>,
  bucket: string,
  limit: number,
): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  let cursor: string | null = '';
  while (cursor !== null) {
    const page = await engine.scan(bucket, cursor, limit);
    for (const [field, { value }] of page.entries) found.set(field, value);
    cursor = page.cursor;
  }
  return found;
}

export async function collect(names: AsyncIterable<string>): Promise<string[]> {
  const all = new Set<string>();
  for await (const name of names) all.add(name);
  return [...all].sort();
}
