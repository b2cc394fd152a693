/** What an earlier run left of a topic: which of its batches are stored, which have to be sent again, and what a start leaves out. */
import type { Log, TopicInfo } from '../../lib/log/log.ts';
import type { SeqRange } from '../seq-ranges.ts';
import type { SpoolReader, SpooledReading } from '../spool/spool-reader.ts';
import type { LogCut } from './known-end.ts';
import { partitionOfReading } from './partitioner.ts';
import { findStored } from './read-back.ts';
import type { SendIntent, SendIntents } from './send-intents.ts';

const READ_BYTES = 1 << 20;

/** By incarnation and partition count: the ranges of each partition that earlier runs gave to a lane. */
export type Covered = ReadonlyMap<string, ReadonlyMap<number, readonly (readonly SeqRange[])[]>>;

export interface LeftOver {
  readonly stored: readonly SendIntent[];
  /** With those of their readings that the spool still has. */
  readonly missing: readonly { readonly intent: SendIntent; readonly readings: readonly SpooledReading[] }[];
  /** Not stored, and of partitions that are no more: their readings are read again, and go where they belong now. */
  readonly outdated: readonly SendIntent[];
  readonly covered: Covered;
}

/** Reads back what is in doubt. Throws what `fetch` throws; nothing is changed. */
export async function leftOver(
  log: Log,
  spool: SpoolReader,
  intents: SendIntents,
  info: TopicInfo,
  signal: AbortSignal,
  onCut: (cut: LogCut) => void,
): Promise<LeftOver> {
  const open = intents.unresolved().filter(({ topic }) => topic === info.name);
  const found = new Set<number>();
  for (let partition = 0; partition < info.partitions; partition++) {
    // Of a topic that was made anew nothing that was sent is left.
    const ofPartition = open.filter((intent) => intent.partition === partition && intent.topicId === info.id);
    for (const id of await findStored(log, ofPartition, signal, onCut)) found.add(id);
  }
  const [stored, unknown] = [open.filter(({ id }) => found.has(id)), open.filter(({ id }) => !found.has(id))];
  // Where partitions were only added, the first sending may still arrive late, and only its own identity makes the second one the same.
  const isThereStill = ({ topicId, partition }: SendIntent): boolean =>
    topicId === info.id && partition < info.partitions;
  const outdated = unknown.filter((intent) => intent.partitions !== info.partitions && !isThereStill(intent));
  const missing: LeftOver['missing'][number][] = [];
  for (const intent of unknown) {
    if (!outdated.includes(intent)) missing.push({ intent, readings: await readingsOf(spool, intent) });
  }
  return { stored, missing, outdated, covered: coveredOf(intents, info.name, outdated) };
}

/** The readings of an intent, from the spool: those of its range that go to its partition. */
async function readingsOf(spool: SpoolReader, intent: SendIntent): Promise<SpooledReading[]> {
  const readings: SpooledReading[] = [];
  for (let after = intent.first - 1n; after < intent.last;) {
    const entries = await spool.read(intent.topic, after, READ_BYTES);
    if (entries.length === 0) break;
    for (const entry of entries) {
      after = entry.kind === 'reading' ? entry.seq : entry.toSeq;
      if (entry.kind !== 'reading' || entry.seq > intent.last || entry.incarnation !== intent.incarnation) continue;
      if (partitionOfReading(entry, intent.partitions) === intent.partition) readings.push(entry);
    }
  }
  return readings;
}

function coveredOf(intents: SendIntents, name: string, except: readonly SendIntent[]): Covered {
  const covered = new Map<string, Map<number, (readonly SeqRange[])[]>>();
  for (const { key, ranges } of intents.covered(except)) {
    if (key.topic !== name) continue;
    const counts = covered.get(key.incarnation) ?? new Map<number, (readonly SeqRange[])[]>();
    const partitions = counts.get(key.partitions) ?? new Array<readonly SeqRange[]>(key.partitions).fill([]);
    partitions[key.partition] = ranges;
    covered.set(key.incarnation, counts.set(key.partitions, partitions));
  }
  return covered;
}
