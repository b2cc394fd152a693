import type { NewReading } from '../../../agent/spool/frame.ts';
import { openSpool, type Spool, type SpoolOptions } from '../../../agent/spool/spool.ts';
import type { SpoolEntry } from '../../../agent/spool/spool-reader.ts';
import { onTestFinished } from 'vitest';

export const readingOf = (value: string | Uint8Array, topic = 't', priority = 4): NewReading => ({
  topic,
  key: 'k',
  value,
  eventUs: 1_700_000_000_000_001,
  arrivalUs: 1_700_000_000_000_002,
  priority,
});

/** Opens a spool that is closed when the test ends. */
export async function spoolIn(dir: string, options: Partial<SpoolOptions> = {}): Promise<Spool> {
  const spool = await openSpool({ dir, agent: 'a', maxBytes: 1e9, whenFull: 'reject', ...options });
  onTestFinished(() => spool.close());
  return spool;
}

export async function readAll(spool: Spool, topic = 't', maxBytes = 64 * 1024): Promise<SpoolEntry[]> {
  const all: SpoolEntry[] = [];
  for (let after = 0n; ;) {
    const entries = await spool.read(topic, after, maxBytes);
    const last = entries.at(-1);
    if (last === undefined) return all;
    all.push(...entries);
    after = last.kind === 'reading' ? last.seq : last.toSeq;
  }
}

/** Values in order; a gap as [from, to]. Fails when the sequences are not those of `1, 2, 3, ...`. */
export function contentOf(entries: readonly SpoolEntry[], first = 1n): (string | [number, number])[] {
  let expected = first;
  return entries.map((entry) => {
    const from = entry.kind === 'reading' ? entry.seq : entry.fromSeq;
    if (from !== expected) throw new Error(`sequence ${from} where ${expected} was expected`);
    expected = (entry.kind === 'reading' ? entry.seq : entry.toSeq) + 1n;
    return entry.kind === 'reading' ? entry.value.toString() : [Number(entry.fromSeq), Number(entry.toSeq)];
  });
}
