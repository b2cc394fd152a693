/**
 * The last part of traces: that rows of a traced record went into a compacted file. The lander leaves the contexts of its spans in the metadata of
 * its files (TRACES_KEY); the compacted file has none, so that its bytes follow from its rows alone.
 */
import type { Clock } from '../../lib/clock.ts';
import { sqlText } from '../../lib/sql/duckdb.ts';
import type { SqlRunner } from '../../lib/sql/parquet-footer.ts';
import type { SpanSink } from '../../lib/tracing/span.ts';
import { newSpanId, parseTraceparent } from '../../lib/tracing/trace-context.ts';
import type { TraceContext } from '../../lib/tracing/trace-context.ts';
import { hourName, TRACES_KEY } from '../parquet-object.ts';
import type { Group } from './plan.ts';

const TRACED_MAX = 128;

export class CompactionTraces {
  readonly #sink: SpanSink;
  readonly #clock: Clock;
  readonly #group: Group;
  readonly #parents: readonly TraceContext[];
  readonly #startMs: number;

  private constructor(sink: SpanSink, clock: Clock, group: Group, parents: readonly TraceContext[]) {
    this.#sink = sink;
    this.#clock = clock;
    this.#group = group;
    this.#parents = parents;
    this.#startMs = clock.nowMs();
  }

  /** Of the traces in these files, which are on this disk. Those of files that cannot be read, or of others with another meaning of the key, are none. */
  static async of(
    sink: SpanSink,
    clock: Clock,
    group: Group,
    sql: SqlRunner,
    paths: readonly string[],
  ): Promise<CompactionTraces> {
    const list = paths.map(sqlText).join(', ');
    const rows =
      paths.length === 0
        ? []
        : await sql
            .query(
              `SELECT decode(value) AS traces FROM parquet_kv_metadata([${list}]) WHERE key = ${sqlText(TRACES_KEY)}::BLOB`,
            )
            .catch(() => []);
    const parents = rows
      .flatMap(({ traces }) => (typeof traces === 'string' ? traces.split(' ') : []))
      .map(parseTraceparent)
      .filter((context) => context !== null);
    return new CompactionTraces(sink, clock, group, parents.slice(0, TRACED_MAX));
  }

  committed(files: { readonly filesBefore: number; readonly filesAfter: number }): void {
    const endMs = this.#clock.nowMs();
    for (const { traceId, spanId } of this.#parents) {
      this.#sink.add({
        ...{ name: 'compact', kind: 'internal', traceId, spanId: newSpanId(), parentSpanId: spanId },
        ...{ startMs: this.#startMs, endMs },
        attributes: {
          'penstock.dataset': this.#group.dataset,
          'penstock.hour': hourName(this.#group.hour),
          'penstock.files_before': files.filesBefore,
          'penstock.files_after': files.filesAfter,
        },
      });
    }
  }
}
