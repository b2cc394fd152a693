/**
 * OpenTelemetry's standard environment variables, as far as they are about exporting traces (OTLP exporter specification 1.x):
 * OTEL_EXPORTER_OTLP_ENDPOINT, _HEADERS, _TIMEOUT, _PROTOCOL, each also as OTEL_EXPORTER_OTLP_TRACES_..., which goes before;
 * OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER.
 */
import { hostname } from 'node:os';
import { PenstockError } from '../errors.ts';

export interface OtlpSettings {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  readonly resource: Readonly<Record<string, string>>;
}

type Environment = Readonly<Record<string, string | undefined>>;

const TIMEOUT_MS = 10_000;
const PROTOCOL = 'http/json';

/** null: nothing is to be exported. Throws `config` for what cannot be used. */
export function otlpSettings(service: string, env: Environment): OtlpSettings | null {
  const own = (name: string): string => env[`OTEL_EXPORTER_OTLP_TRACES_${name}`] ?? '';
  const common = (name: string): string => env[`OTEL_EXPORTER_OTLP_${name}`] ?? '';
  const endpoint = own('ENDPOINT') || common('ENDPOINT');
  const exporter = env['OTEL_TRACES_EXPORTER'] ?? '';
  if (endpoint === '' || env['OTEL_SDK_DISABLED']?.toLowerCase() === 'true' || exporter === 'none') return null;
  const protocol = own('PROTOCOL') || common('PROTOCOL') || PROTOCOL;
  if (protocol !== PROTOCOL) {
    throw new PenstockError('config', `OTEL_EXPORTER_OTLP_PROTOCOL=${protocol}: expected ${PROTOCOL}, the only one`);
  }
  const timeoutMs = Number(own('TIMEOUT') || common('TIMEOUT') || TIMEOUT_MS);
  if (!(timeoutMs > 0)) throw new PenstockError('config', 'OTEL_EXPORTER_OTLP_TIMEOUT: expected milliseconds above 0');
  return {
    url: urlOf(endpoint, own('ENDPOINT') === ''),
    headers: {
      ...pairs('OTEL_EXPORTER_OTLP_HEADERS', common('HEADERS')),
      ...pairs('OTEL_EXPORTER_OTLP_TRACES_HEADERS', own('HEADERS')),
    },
    timeoutMs,
    resource: {
      'host.name': hostname(),
      ...pairs('OTEL_RESOURCE_ATTRIBUTES', env['OTEL_RESOURCE_ATTRIBUTES'] ?? ''),
      'service.name': env['OTEL_SERVICE_NAME'] || service,
    },
  };
}

/** The endpoint of all signals is a base, that of traces is taken as it is. */
function urlOf(endpoint: string, isBase: boolean): URL {
  const url = URL.parse(isBase ? `${endpoint.replace(/\/$/, '')}/v1/traces` : endpoint);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new PenstockError('config', 'OTEL_EXPORTER_OTLP_ENDPOINT: expected a URL, as http://127.0.0.1:4318');
  }
  return url;
}

/** `key=value,key=value`, percent-encoded (W3C Baggage). What it says may be secret: errors do not repeat it. */
function pairs(name: string, text: string): Record<string, string> {
  const parts = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '');
  return Object.fromEntries(
    parts.map((part) => {
      const at = part.indexOf('=');
      try {
        if (at > 0) return [part.slice(0, at).trim(), decodeURIComponent(part.slice(at + 1).trim())];
      } catch {
        // Not percent-encoded: said below.
      }
      throw new PenstockError('config', `${name}: expected key=value,key=value, percent-encoded`);
    }),
  );
}
