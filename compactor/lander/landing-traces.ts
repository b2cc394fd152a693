/**
 * The lander's part of traces: of each traced record (header `traceparent`, agent/traces.ts) how it was fetched, written and committed.
 *
 *   land        from the answer that brought it to the commit
 *     write     its rows into files, and the files into the store
 *     commit    table, offsets and listings in one minitransaction
 *
 * A round that fails ends its spans with the error; the record is read again, and has another `land` under the same trace.
 * Limits: TRACED_MAX records of a round. Nothing of this is loaded, and no header looked for, where the environment names no receiver.
 */
import type { Clock } from '../../lib/clock.ts';
import { describeError } from '../../lib/errors.ts';
import type { RecordBatchReader } from '../../lib/log/batch-reader.ts';
import type { SpanSink } from '../../lib/tracing/span.ts';
import { newSpanId, parseTraceparent, TRACEPARENT, traceparentOf } from '../../lib/tracing/trace-context.ts';
import type { TraceContext } from '../../lib/tracing/trace-context.ts';
import type { StagePlace } from './stage-portion.ts';

const TRACED_MAX = 32;
const HEADER = Buffer.from(TRACEPARENT);

interface Traced {
  readonly parent: TraceContext;
  readonly landSpanId: string;
  readonly partition: number;
  readonly offset: number;
  readonly fetchedMs: number;
  /** Of the event; undefined: it is in the quarantine. */
  readonly hour: number | undefined;
}

export interface LandingTracesOptions {
  readonly sink: SpanSink;
  readonly dataset: string;
  readonly clock: Clock;
  readonly log: (line: string) => void;
}

/** Of one round. */
export class RoundTraces {
  readonly #options: LandingTracesOptions;
  readonly #place: StagePlace;
  readonly #traced: Traced[] = [];
  #fetchedMs = 0;
  #writeMs: number | undefined;
  #commitMs: number | undefined;

  constructor(options: LandingTracesOptions, place: StagePlace) {
    this.#options = options;
    this.#place = place;
  }

  fetched(): void {
    this.#fetchedMs = this.#options.clock.nowMs();
  }

  /** The record that the reader stands on is staged. */
  staged(reader: RecordBatchReader, partition: number, offset: number, hour: number | undefined): void {
    const header = this.#traced.length < TRACED_MAX ? reader.headerText(HEADER) : null;
    const parent = header === null ? null : parseTraceparent(header);
    if (parent === null) return;
    this.#traced.push({ parent, landSpanId: newSpanId(), partition, offset, fetchedMs: this.#fetchedMs, hour });
  }

  writing(): void {
    this.#writeMs = this.#options.clock.nowMs();
  }

  committing(): void {
    this.#commitMs = this.#options.clock.nowMs();
  }

  /** For the metadata of the hour's file: who compacts it goes on from here. */
  traceparentsOf(hour: number): string[] {
    return this.#traced
      .filter((traced) => traced.hour === hour)
      .map(({ parent: { traceId }, landSpanId }) => traceparentOf({ traceId, spanId: landSpanId }));
  }

  /** The round is over, with a commit or an error. */
  end(error?: unknown): void {
    const { clock, log, dataset } = this.#options;
    const endMs = clock.nowMs();
    for (const traced of this.#traced.splice(0)) {
      const failed = error === undefined ? {} : { error: describeError(error) };
      this.#span(traced, 'land', traced.fetchedMs, endMs, failed);
      if (this.#writeMs !== undefined) {
        const isLast = this.#commitMs === undefined;
        this.#span(traced, 'write', this.#writeMs, this.#commitMs ?? endMs, isLast ? failed : {});
      }
      if (this.#commitMs !== undefined) this.#span(traced, 'commit', this.#commitMs, endMs, failed);
      const what = traced.hour === undefined ? 'in the quarantine' : 'in the table';
      const where = `${this.#place.topic}/${traced.partition} offset ${traced.offset}`;
      const said = error === undefined ? `is ${what}` : `has not landed: ${describeError(error)}`;
      log(`${dataset}: reading ${where} ${said}, trace_id=${traced.parent.traceId}`);
    }
  }

  #span(
    { parent: { traceId, spanId }, landSpanId, partition, offset, hour }: Traced,
    name: 'land' | 'write' | 'commit',
    startMs: number,
    endMs: number,
    failed: { readonly error?: string },
  ): void {
    const isLand = name === 'land';
    this.#options.sink.add({
      ...{ name, kind: isLand ? 'consumer' : 'internal', traceId },
      spanId: isLand ? landSpanId : newSpanId(),
      parentSpanId: isLand ? spanId : landSpanId,
      ...{ startMs, endMs },
      attributes: {
        'penstock.dataset': this.#options.dataset,
        'penstock.quarantined': hour === undefined,
        'messaging.destination.name': this.#place.topic,
        'messaging.destination.partition.id': String(partition),
        'messaging.kafka.offset': offset,
      },
      ...failed,
    });
  }
}
