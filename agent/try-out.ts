/**
 * `penstock agent test`: what a configuration makes of readings, without an agent, a spool or a log. Conditions, windows and the others run
 * as they do in the agent; at the end of the input everything that is held back is shown.
 */
import type { AgentConfig, SourceConfig } from './config.ts';
import { isRejected, parseJson, type ReadingMapping } from './sources/reading-parser.ts';
import type { NewReading } from './spool/frame.ts';
import { TransformChain, type ChainRun } from './transforms/chain.ts';
import { textOf } from './transforms/draft.ts';

export interface TriedOut {
  /** What would be spooled, and what would go to the quarantine, in order. */
  readonly results: readonly Readonly<Record<string, unknown>>[];
  readonly failed: number;
}

/** `lines` are what the source would take in, one JSON value each. */
export async function tryOut(
  config: AgentConfig,
  baseDir: string,
  source: SourceConfig,
  lines: readonly string[],
  nowMs: number,
): Promise<TriedOut> {
  const chain = await TransformChain.open(config.transforms, baseDir);
  const results: Readonly<Record<string, unknown>>[] = [];
  let failed = 0;
  const fail = (details: Readonly<Record<string, unknown>>): void => {
    failed += 1;
    results.push(details);
  };
  const settle = (run: ChainRun | null): void => {
    run?.commit();
    for (const { transform, reading, reason } of run?.failed ?? []) {
      fail({ failed: reason, transform, value: textOf(reading.value) });
    }
    for (const reading of run?.readings ?? []) results.push(shown(reading));
  };
  try {
    for (const [index, line] of lines.entries()) {
      if (line.trim() === '') continue;
      const reading = parseJson(Buffer.from(line), mappingOf(source), nowMs * 1000);
      if (isRejected(reading)) fail({ failed: reading.reason, line: index + 1 });
      else settle(await chain.run([reading]));
    }
    settle(await chain.flush());
  } finally {
    await chain.close();
  }
  return { results, failed };
}

function mappingOf(source: SourceConfig): ReadingMapping {
  const { to, priority } = source;
  const configured = 'sensor' in source && typeof source.sensor === 'string' ? source.sensor : null;
  const eventTime = 'eventTime' in source && typeof source.eventTime === 'string' ? source.eventTime : 'ts';
  // What makes its own readings gives them the field `sensor`.
  const field = ['host', 'modbus', 'simulator'].includes(source.type) ? 'sensor' : configured;
  const key = field === null ? null : { field };
  return { input: 'line', topic: to, priority, key, eventTime };
}

function shown({ topic, key, priority, eventUs, value }: NewReading): Readonly<Record<string, unknown>> {
  return { topic, sensor: key, priority, eventUs, value: parsed(textOf(value)) };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
