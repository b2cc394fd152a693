/**
 * What has arrived in the log and is not in the table yet: how many records, and how long the oldest has been waiting.
 *
 * The time of the oldest one is its `arrival` at the agent where it says so, else the time the log gave it. It is read once for each
 * offset: a lander that stands still costs no fetch.
 */
import { readOffsets } from '../../lib/lake/offsets.ts';
import { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import type { Log } from '../../lib/log/log.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';

const ARRIVAL = Buffer.from('arrival');

export interface Unlanded {
  /** Records in the log since its topic was made, read or not. */
  readonly appended: number;
  readonly records: number;
  /** Wall clock; null: everything has landed. */
  readonly oldestMs: number | null;
}

interface Known {
  readonly offset: number;
  readonly topicId: string;
  readonly atMs: number;
}

export class UnlandedReader {
  readonly #known = new Map<string, Known>();

  async read(
    engine: MetaEngine,
    log: Log,
    volume: string,
    dataset: { readonly name: string; readonly topic: string },
  ): Promise<Unlanded> {
    const topic = await log.topic(dataset.topic);
    if (topic === null) return { appended: 0, records: 0, oldestMs: null };
    const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition);
    const stored = await readOffsets(engine, volume, dataset.name, partitions);
    let [appended, records] = [0, 0];
    let oldestMs: number | null = null;
    for (const { partition, landed } of stored) {
      const { earliest, end } = await log.offsets(topic.name, partition);
      const landedNext = landed?.topicId === topic.id ? landed.next : 0;
      const next = Math.max(landedNext, Number(earliest));
      appended += Number(end);
      if (next >= Number(end)) continue;
      records += Number(end) - next;
      const atMs = await this.#timeOf(log, topic, partition, next);
      if (atMs !== null && (oldestMs === null || atMs < oldestMs)) oldestMs = atMs;
    }
    return { appended, records, oldestMs };
  }

  async #timeOf(
    log: Log,
    topic: { readonly name: string; readonly id: string },
    partition: number,
    offset: number,
  ): Promise<number | null> {
    const place = `${topic.name}/${partition}`;
    const known = this.#known.get(place);
    if (known?.offset === offset && known.topicId === topic.id) return known.atMs;
    const { batches } = await log.fetch({
      topic: topic.name,
      partition,
      offset: BigInt(offset),
      maxBytes: 1,
      maxWaitMs: 0,
    });
    const atMs = timeInBatches(batches, place, offset);
    if (atMs !== null) this.#known.set(place, { offset, topicId: topic.id, atMs });
    return atMs;
  }
}

function timeInBatches(batches: readonly Buffer[], place: string, offset: number): number | null {
  const reader = new RecordBatchReader();
  for (const batch of batches) {
    const { baseOffset } = reader.open(batch, place);
    while (reader.next()) {
      if (Number(baseOffset) + reader.offsetDelta < offset) continue;
      const arrivalUs = Number(reader.headerText(ARRIVAL) ?? NaN);
      return Number.isFinite(arrivalUs) ? arrivalUs / 1000 : reader.timestampMs;
    }
  }
  return null;
}
