/**
 * Traces of single readings, from the source to the log: one of each topic every `everyMs`, where the environment names a receiver.
 *
 *   reading     from its arrival to the disk: sources, transforms and rules
 *     spool     the wait for the disk
 *     send      from its batch to the log's acknowledgement; the lander goes on from here
 *
 * A reading that is traced has one more record header, `traceparent`; the lander's spans are children of `send`.
 * Failure: what is traced is known to this process only. After a kill a reading that waited in the spool goes on without its trace, and is
 * delivered as any other: the log takes a batch under its old identity whatever its headers are.
 * Limits: OPEN_MAX traces at a time, each for LIFE_MS; topics that are remembered are those of the agent.
 */
import type { Clock } from '../lib/clock.ts';
import type { SpanSink } from '../lib/tracing/span.ts';
import { newSpanId, newTraceId, traceparentOf } from '../lib/tracing/trace-context.ts';
import type { NewReading } from './spool/frame.ts';
import { PackedReadings, type Readings } from './spool/packed-readings.ts';
import { partitionOf } from './uplink/partitioner.ts';
import type { SendIntent } from './uplink/send-intents.ts';

const OPEN_MAX = 256;
/** What waits longer than that waits for a link that is away: its trace ends with that word. */
const LIFE_MS = 3_600_000;

interface OpenTrace {
  readonly traceId: string;
  readonly readingSpanId: string;
  readonly sendSpanId: string;
  readonly topic: string;
  readonly seq: bigint;
  readonly key: Buffer | null;
  readonly durableMs: number;
  batchedMs: number | undefined;
}

export interface ReadingTracesOptions {
  readonly sink: SpanSink;
  readonly everyMs: number;
  readonly agent: string;
  readonly clock: Clock;
  readonly log: (line: string) => void;
}

export class ReadingTraces {
  readonly #options: ReadingTracesOptions;
  /** Monotonic, by topic. */
  readonly #sampledMs = new Map<string, number>();
  /** By topic and sequence number, the oldest first. */
  readonly #open = new Map<string, OpenTrace>();

  constructor(options: ReadingTracesOptions) {
    this.#options = options;
  }

  get dropped(): number {
    return this.#options.sink.dropped;
  }

  /** The same readings, some of them with an ear for their sequence number. */
  choose(readings: Readings): Readings {
    const nowMs = this.#options.clock.monotonicMs();
    // They are of one topic, and become objects only where one of them is wanted.
    if (readings instanceof PackedReadings && !this.#isDue(readings.topic, nowMs)) return readings;
    const each = readings instanceof PackedReadings ? [...readings] : readings;
    let chosen: NewReading[] | undefined;
    let topic: string | undefined;
    for (const [index, reading] of each.entries()) {
      // Readings of one topic mostly come in runs.
      if (reading.topic === topic) continue;
      ({ topic } = reading);
      if (!this.#isDue(topic, nowMs)) continue;
      this.#sampledMs.set(topic, nowMs);
      chosen ??= [...each];
      chosen[index] = this.#traced(reading);
    }
    return chosen ?? readings;
  }

  #isDue(topic: string, nowMs: number): boolean {
    return nowMs - (this.#sampledMs.get(topic) ?? -Infinity) >= this.#options.everyMs;
  }

  #traced(reading: NewReading): NewReading {
    const handedMs = this.#options.clock.nowMs();
    return { ...reading, onStored: (seq) => this.#stored(reading, handedMs, seq) };
  }

  #stored({ topic, key, arrivalUs }: NewReading, handedMs: number, seq: number): void {
    const { sink, clock, agent, log } = this.#options;
    const durableMs = clock.nowMs();
    const [traceId, readingSpanId] = [newTraceId(), newSpanId()];
    const attributes = { 'penstock.agent': agent, 'penstock.seq': seq, 'messaging.destination.name': topic };
    const startMs = arrivalUs / 1000;
    sink.add({
      name: 'reading',
      kind: 'consumer',
      traceId,
      spanId: readingSpanId,
      startMs,
      endMs: durableMs,
      attributes,
    });
    sink.add({
      ...{ name: 'spool', kind: 'internal', traceId, spanId: newSpanId(), parentSpanId: readingSpanId },
      ...{ startMs: handedMs, endMs: durableMs, attributes },
    });
    log(`reading ${topic}/${seq} is in the spool, trace_id=${traceId}`);
    this.#endOld(durableMs);
    this.#open.set(keyOf(topic, BigInt(seq)), {
      ...{ traceId, readingSpanId, sendSpanId: newSpanId(), topic, seq: BigInt(seq), durableMs, batchedMs: undefined },
      key: key === null ? null : Buffer.from(key),
    });
  }

  #endOld(nowMs: number): void {
    for (const [key, trace] of this.#open) {
      if (this.#open.size < OPEN_MAX && nowMs - trace.durableMs < LIFE_MS) return;
      this.#open.delete(key);
      this.#sent(trace, trace.batchedMs ?? trace.durableMs, {}, 'not delivered yet; its trace ends here');
    }
  }

  /** The header of a reading that is put into a batch; undefined: it is not traced. */
  traceparent(topic: string, seq: bigint): string | undefined {
    if (this.#open.size === 0) return undefined;
    const trace = this.#open.get(keyOf(topic, seq));
    if (trace === undefined) return undefined;
    trace.batchedMs ??= this.#options.clock.nowMs();
    return traceparentOf({ traceId: trace.traceId, spanId: trace.sendSpanId });
  }

  /** A batch is in the log. */
  delivered({ topic, partition, partitions, first, last }: SendIntent): void {
    for (const [key, trace] of this.#open) {
      const { seq, batchedMs } = trace;
      if (trace.topic !== topic || seq < first || seq > last || batchedMs === undefined) continue;
      if (partitionOf(trace.key, seq, partitions) !== partition) continue;
      this.#open.delete(key);
      this.#sent(trace, batchedMs, { 'messaging.destination.partition.id': String(partition) });
      this.#options.log(`reading ${topic}/${seq} is in the log, partition ${partition}, trace_id=${trace.traceId}`);
    }
  }

  #sent(
    { traceId, readingSpanId, sendSpanId, topic, seq }: OpenTrace,
    startMs: number,
    more: Readonly<Record<string, string>>,
    error?: string,
  ): void {
    const { sink, clock, agent } = this.#options;
    sink.add({
      ...{ name: 'send', kind: 'producer', traceId, spanId: sendSpanId, parentSpanId: readingSpanId },
      ...{ startMs, endMs: clock.nowMs() },
      attributes: {
        'penstock.agent': agent,
        'penstock.seq': Number(seq),
        'messaging.destination.name': topic,
        ...more,
      },
      ...(error !== undefined && { error }),
    });
  }

  close(): Promise<void> {
    return this.#options.sink.close();
  }
}

const keyOf = (topic: string, seq: bigint): string => `${topic}/${seq}`;
