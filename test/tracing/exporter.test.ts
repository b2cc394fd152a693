import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { openSpans } from '../../lib/tracing/open-spans.ts';
import type { Span, SpanSink } from '../../lib/tracing/span.ts';
import { newSpanId, newTraceId, parseTraceparent, traceparentOf } from '../../lib/tracing/trace-context.ts';
import { startOtlpReceiver } from '../support/otlp-receiver.ts';

const span = (name = 'a'): Span => ({
  ...{ name, kind: 'internal', traceId: newTraceId(), spanId: newSpanId(), startMs: 1_700_000_000_000.25, endMs: 0 },
  attributes: { text: 'ä"\n', count: 7, share: 0.5, is: true },
});

async function opened(env: Record<string, string>, lines: string[] = []): Promise<SpanSink> {
  const sink = await openSpans('penstock-test', (line) => lines.push(line), env);
  if (sink === null) throw new Error('nothing is exported');
  return sink;
}

test('a context travels as W3C Trace Context says; what is none, or not sampled, is none', () => {
  const context = { traceId: newTraceId(), spanId: newSpanId() };
  expect(parseTraceparent(traceparentOf(context))).toEqual(context);
  const { traceId, spanId } = context;
  expect(parseTraceparent(`cc-${traceId}-${spanId}-03-what-comes-later`)).toEqual(context);
  for (const bad of [
    '',
    'garbage',
    `00-${traceId}-${spanId}-00`,
    `00-${traceId}-${spanId}-01-more`,
    `ff-${traceId}-${spanId}-01`,
    `00-${'0'.repeat(32)}-${spanId}-01`,
    `00-${traceId}-${'0'.repeat(16)}-01`,
    `00-${traceId.toUpperCase()}A-${spanId}-01`,
  ]) {
    expect(parseTraceparent(bad), bad).toBeNull();
  }
});

test('spans arrive as OTLP, with the headers and the resource that the environment names, also past a busy receiver', async () => {
  const receiver = await startOtlpReceiver();
  receiver.refuse(429);
  const sink = await opened({
    OTEL_EXPORTER_OTLP_ENDPOINT: `${receiver.url}/`,
    OTEL_EXPORTER_OTLP_HEADERS: 'authorization=Bearer%20x, tenant=a',
    OTEL_EXPORTER_OTLP_TRACES_HEADERS: 'tenant=b',
    OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment=plant%2C7',
  });
  sink.add(span());
  await sink.close();
  expect(receiver.problems).toEqual([]);
  expect(receiver.requests).toHaveLength(2);
  expect(receiver.requests[1]).toMatchObject({
    path: '/v1/traces',
    headers: { authorization: 'Bearer x', tenant: 'b', 'content-type': 'application/json' },
  });
  // A clock that was set back makes no span of negative length.
  const nanos = '1700000000000250000';
  expect(receiver.spans).toMatchObject([
    {
      service: 'penstock-test',
      startTimeUnixNano: nanos,
      endTimeUnixNano: nanos,
      values: { text: 'ä"\n', count: '7' },
    },
  ]);
  expect(sink.dropped).toBe(0);
});

test('a receiver that refuses, or hangs, costs spans and nothing else: they are counted, and said once', async () => {
  const receiver = await startOtlpReceiver();
  receiver.refuse(401);
  const lines: string[] = [];
  const refused = await opened({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${receiver.url}/own/path` }, lines);
  refused.add(span());
  await refused.close();
  expect([refused.dropped, receiver.requests[0]?.path]).toEqual([1, '/own/path']);
  expect(lines).toEqual([expect.stringContaining('HTTP 401')]);

  const silent = createServer(() => undefined);
  await new Promise<void>((done) => silent.listen(0, '127.0.0.1', done));
  onTestFinished(() => {
    silent.closeAllConnections();
    silent.close();
  });
  const { port } = silent.address() as AddressInfo; // a TCP server's address is never a string
  const hung = await opened({ OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}` }, lines);
  for (let n = 0; n < 3000; n++) hung.add(span());
  await hung.close();
  expect(hung.dropped).toBe(3000);
  expect(lines).toHaveLength(2);
});

test('nothing is exported without an endpoint, and what cannot be used is an error that shows no secret', async () => {
  const at = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318' };
  const open = (env: Record<string, string>): Promise<SpanSink | null> => openSpans('a', () => undefined, env);
  expect(await open({})).toBeNull();
  expect(await open({ OTEL_EXPORTER_OTLP_ENDPOINT: '' })).toBeNull();
  expect(await open({ ...at, OTEL_SDK_DISABLED: 'true' })).toBeNull();
  expect(await open({ ...at, OTEL_TRACES_EXPORTER: 'none' })).toBeNull();
  await expect(open({ ...at, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })).rejects.toThrow('expected http/json');
  await expect(open({ OTEL_EXPORTER_OTLP_ENDPOINT: 'collector:4318' })).rejects.toThrow('expected a URL');
  await expect(open({ ...at, OTEL_EXPORTER_OTLP_TIMEOUT: 'soon' })).rejects.toThrow('milliseconds');
  const secret = open({ ...at, OTEL_EXPORTER_OTLP_HEADERS: 'hunter2' });
  await expect(secret).rejects.toThrow('key=value');
  await expect(secret).rejects.not.toThrow('hunter2');
});
