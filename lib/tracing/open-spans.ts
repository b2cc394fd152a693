/** Where a program's spans go, by its environment; loaded by whoever has an endpoint only. */
import type { SpanSink } from './span.ts';

/** null: the environment names no receiver. Throws `config`. */
export async function openSpans(
  service: string,
  log: (line: string) => void,
  env = process.env,
): Promise<SpanSink | null> {
  // Nearly always there is none: then nothing is loaded.
  if (!Object.keys(env).some((name) => /^OTEL_EXPORTER_OTLP_(TRACES_)?ENDPOINT$/.test(name))) return null;
  const { otlpSettings } = await import('./otlp-settings.ts');
  const settings = otlpSettings(service, env);
  if (settings === null) return null;
  const { OtlpExporter } = await import('./otlp-exporter.ts');
  return new OtlpExporter(settings, log);
}
