/** One step of a trace, when it is over. */
export interface Span {
  readonly name: string;
  readonly kind: 'internal' | 'producer' | 'consumer';
  readonly traceId: string;
  readonly spanId: string;
  /** Absent: the first one of the trace. */
  readonly parentSpanId?: string;
  /** Milliseconds since 1970, fractions allowed. */
  readonly startMs: number;
  readonly endMs: number;
  readonly attributes: Readonly<Record<string, string | number | boolean>>;
  /** Why it failed. */
  readonly error?: string;
}

/** Where spans go. Adding one never waits and never throws. */
export interface SpanSink {
  add(span: Span): void;
  /** Spans that were given up: the queue was full, or the receiver took them too late or not at all. */
  readonly dropped: number;
  /** Sends what is left, for a bounded time. */
  close(): Promise<void>;
}
