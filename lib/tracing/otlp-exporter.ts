/**
 * Sends spans to an OpenTelemetry collector: OTLP/HTTP, JSON (opentelemetry-proto 1.x, trace/v1/trace.proto in its JSON mapping: ids in hex, 64-bit
 * numbers as text, enums as numbers).
 *
 * Failure: a receiver that is away, busy (429, 502, 503, 504, with Retry-After) or slow is asked again with growing pauses; whoever makes spans
 * never waits for it. One that refuses a request (another status) gets the next spans; those are dropped, counted and said once.
 * Limits: QUEUE_MAX spans wait, the newest are dropped above it; BATCH_MAX in a request; ATTEMPTS_MAX for each; CLOSE_MS at the end.
 */
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '../errors.ts';
import type { OtlpSettings } from './otlp-settings.ts';
import type { Span, SpanSink } from './span.ts';

const QUEUE_MAX = 1024;
const BATCH_MAX = 128;
/** A trace is looked at by people: soon is soon enough, and few requests. */
const LINGER_MS = 2000;
const ATTEMPTS_MAX = 5;
const RETRY_MS_MIN = 500;
const RETRY_MS_MAX = 30_000;
const CLOSE_MS = 1500;
const BUSY = [429, 502, 503, 504];
/** SpanKind and StatusCode of trace.proto. */
const KINDS = { internal: 1, producer: 4, consumer: 5 } as const;
const STATUS_ERROR = 2;
const SCOPE = 'penstock';

export class OtlpExporter implements SpanSink {
  readonly #settings: OtlpSettings;
  readonly #log: (line: string) => void;
  readonly #queue: Span[] = [];
  readonly #end = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #dropped = 0;
  #isTold = false;

  constructor(settings: OtlpSettings, log: (line: string) => void) {
    this.#settings = settings;
    this.#log = log;
  }

  get dropped(): number {
    return this.#dropped;
  }

  add(span: Span): void {
    if (this.#queue.length >= QUEUE_MAX) {
      this.#drop(1, `more than ${QUEUE_MAX} spans wait for the receiver`);
      return;
    }
    this.#queue.push(span);
    if (this.#queue.length >= BATCH_MAX) void this.#send();
    else this.#timer ??= setTimeout(() => void this.#send(), LINGER_MS).unref();
  }

  async close(): Promise<void> {
    const timer = setTimeout(() => this.#end.abort(), CLOSE_MS);
    while (this.#queue.length > 0 && !this.#end.signal.aborted) await this.#send();
    await this.#sending;
    clearTimeout(timer);
    clearTimeout(this.#timer);
    if (this.#queue.length > 0) this.#drop(this.#queue.splice(0).length, 'the program ended');
  }

  /** What waits; one request at a time. */
  #send(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return (this.#sending ??= this.#sendAll().finally(() => (this.#sending = undefined)));
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0 && !this.#end.signal.aborted) {
      const batch = this.#queue.splice(0, BATCH_MAX);
      const problem = await this.#deliver(JSON.stringify(requestOf(batch, this.#settings.resource)));
      if (problem === null) this.#isTold = false;
      else this.#drop(batch.length, problem);
    }
  }

  /** null when it was taken. */
  async #deliver(body: string): Promise<string | null> {
    let problem = '';
    for (let attempt = 0; attempt < ATTEMPTS_MAX && !this.#end.signal.aborted; attempt++) {
      let pauseMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** attempt) * (0.5 + Math.random());
      try {
        const { status, retryAfterMs } = await this.#post(body);
        if (status >= 200 && status < 300) return null;
        problem = `HTTP ${status}`;
        if (!BUSY.includes(status)) return problem;
        pauseMs = Math.min(RETRY_MS_MAX, Math.max(pauseMs, retryAfterMs));
      } catch (error) {
        problem = describeError(error);
      }
      await sleep(pauseMs, undefined, { signal: this.#end.signal, ref: false }).catch(() => undefined);
    }
    return problem;
  }

  async #post(body: string): Promise<{ readonly status: number; readonly retryAfterMs: number }> {
    const { url, headers, timeoutMs } = this.#settings;
    // Not fetch: it takes 12 MB of memory, of the agent's 80.
    const { request } = await (url.protocol === 'https:' ? import('node:https') : import('node:http'));
    const signal = AbortSignal.any([this.#end.signal, AbortSignal.timeout(timeoutMs)]);
    const length = Buffer.byteLength(body);
    const sent = request(url, {
      method: 'POST',
      headers: { ...headers, 'content-type': 'application/json', 'content-length': length },
      signal,
    });
    // Also of what comes behind the answer, when nobody listens any more.
    sent.on('error', () => undefined);
    sent.end(body);
    const [response] = (await once(sent, 'response')) as [IncomingMessage]; // what the event carries
    // The answer may come in pieces for ever: its status is all that is wanted.
    response.destroy();
    const { statusCode = 0, headers: answered } = response;
    return { status: statusCode, retryAfterMs: 1000 * (Number(answered['retry-after']) || 0) };
  }

  #drop(spans: number, problem: string): void {
    this.#dropped += spans;
    if (!this.#isTold) this.#log(`traces are not taken by ${this.#settings.url.host}: ${problem}`);
    this.#isTold = true;
  }
}

/** ExportTraceServiceRequest. */
function requestOf(spans: readonly Span[], resource: Readonly<Record<string, string>>): object {
  return {
    resourceSpans: [
      {
        resource: { attributes: attributesOf(resource) },
        scopeSpans: [{ scope: { name: SCOPE }, spans: spans.map(spanOf) }],
      },
    ],
  };
}

function spanOf({ name, kind, traceId, spanId, parentSpanId, startMs, endMs, attributes, error }: Span): object {
  return {
    traceId,
    spanId,
    ...(parentSpanId !== undefined && { parentSpanId }),
    name,
    kind: KINDS[kind],
    startTimeUnixNano: nanos(startMs),
    // A clock that was set back makes no span of negative length.
    endTimeUnixNano: nanos(Math.max(startMs, endMs)),
    attributes: attributesOf(attributes),
    ...(error !== undefined && { status: { code: STATUS_ERROR, message: error } }),
  };
}

const nanos = (ms: number): string => String(BigInt(Math.round(ms * 1000)) * 1000n);

function attributesOf(attributes: Readonly<Record<string, string | number | boolean>>): object[] {
  return Object.entries(attributes).map(([key, value]) => ({ key, value: valueOf(value) }));
}

function valueOf(value: string | number | boolean): object {
  if (typeof value === 'string') return { stringValue: value };
  if (typeof value === 'boolean') return { boolValue: value };
  return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}
