/**
 * A receiver of traces as a collector has one: OTLP/HTTP with JSON. What does not follow opentelemetry-proto's JSON mapping (ids in lower-case hex, 64-bit
 * numbers as decimal text, enums as numbers, no unknown fields) is answered 400, and kept as a problem.
 */
import { createServer } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { onTestFinished } from 'vitest';
import { z } from 'zod';

const attribute = z.strictObject({
  key: z.string().min(1),
  value: z.union([
    z.strictObject({ stringValue: z.string() }),
    z.strictObject({ boolValue: z.boolean() }),
    z.strictObject({ intValue: z.string().regex(/^-?\d+$/) }),
    z.strictObject({ doubleValue: z.number() }),
  ]),
});
const nanos = z.string().regex(/^\d{19}$/);
const spanId = z.string().regex(/^(?!0+$)[0-9a-f]{16}$/);
const span = z
  .strictObject({
    traceId: z.string().regex(/^(?!0+$)[0-9a-f]{32}$/),
    spanId,
    parentSpanId: spanId.optional(),
    name: z.string().min(1),
    kind: z.int().min(1).max(5),
    startTimeUnixNano: nanos,
    endTimeUnixNano: nanos,
    attributes: z.array(attribute),
    status: z.strictObject({ code: z.literal([0, 1, 2]), message: z.string() }).optional(),
  })
  .refine(({ startTimeUnixNano: start, endTimeUnixNano: end }) => BigInt(end) >= BigInt(start), 'ends before it begins')
  .refine(({ attributes }) => new Set(attributes.map(({ key }) => key)).size === attributes.length, 'a key twice');
const exportRequest = z.strictObject({
  resourceSpans: z.array(
    z.strictObject({
      resource: z.strictObject({ attributes: z.array(attribute) }),
      scopeSpans: z.array(z.strictObject({ scope: z.strictObject({ name: z.string() }), spans: z.array(span).min(1) })),
    }),
  ),
});

export interface ReceivedSpan extends z.output<typeof span> {
  /** `service.name`. */
  readonly service: string;
  readonly values: Readonly<Record<string, unknown>>;
}

export interface OtlpReceiver {
  readonly url: string;
  readonly spans: readonly ReceivedSpan[];
  readonly problems: readonly string[];
  readonly requests: readonly { readonly path: string; readonly headers: IncomingHttpHeaders }[];
  /** What the next requests are answered, before 200 again. */
  refuse(...statuses: number[]): void;
}

export async function startOtlpReceiver(): Promise<OtlpReceiver> {
  const spans: ReceivedSpan[] = [];
  const problems: string[] = [];
  const requests: { path: string; headers: IncomingHttpHeaders }[] = [];
  const refusals: number[] = [];
  const server = createServer((request, response) => {
    void text(request).then((body) => {
      requests.push({ path: request.url ?? '', headers: request.headers });
      const status = refusals.shift();
      if (status !== undefined) {
        response.writeHead(status, { 'retry-after': '0' }).end();
        return;
      }
      const parsed = exportRequest.safeParse(JSON.parse(body));
      if (!parsed.success) {
        problems.push(z.prettifyError(parsed.error));
        response.writeHead(400).end();
        return;
      }
      for (const { resource, scopeSpans } of parsed.data.resourceSpans) {
        const service = String(valuesOf(resource.attributes)['service.name']);
        for (const each of scopeSpans.flatMap((scope) => scope.spans)) {
          spans.push({ ...each, service, values: valuesOf(each.attributes) });
        }
      }
      response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
    });
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  return {
    url: `http://127.0.0.1:${port}`,
    spans,
    problems,
    requests,
    refuse: (...statuses) => refusals.push(...statuses),
  };
}

function valuesOf(attributes: readonly z.output<typeof attribute>[]): Record<string, unknown> {
  return Object.fromEntries(attributes.map(({ key, value }) => [key, Object.values(value)[0]]));
}
