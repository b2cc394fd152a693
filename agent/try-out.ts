/**
 * `penstock agent test`: what a configuration makes of readings, without an agent, a spool or a log. Conditions, windows and the others run
 * as they do in the agent; at the end of the input everything that is held back is shown.
 */
import type { AgentConfig, FileSourceConfig, SourceConfig } from './config.ts';
import { systemClock } from '../lib/clock.ts';
import type { Rejected } from './quarantine.ts';
import { assemblerOf } from './sources/file/assembler.ts';
import { FileLines } from './sources/file/file-lines.ts';
import { Marks } from './sources/file/file-marks.ts';
import { BEGINNING } from './sources/file/tailed-file.ts';
import { isRejected, parseJson, type ReadingMapping } from './sources/reading-parser.ts';
import type { SourceOutput } from './sources/source.ts';
import type { NewReading } from './spool/frame.ts';
import { TransformChain, type ChainRun } from './transforms/chain.ts';
import { textOf } from './transforms/draft.ts';

export interface TriedOut {
  /** What would be spooled, and what would go to the quarantine, in order. */
  readonly results: readonly Readonly<Record<string, unknown>>[];
  readonly failed: number;
}

/** Lines that a source would take in: of a file, as it is configured; of others, one JSON value each. */
interface SampleInput {
  readonly lines: readonly string[];
  /** What the names of pod and container are taken from. */
  readonly path: string;
}

interface Taken {
  readonly readings: readonly NewReading[];
  readonly rejected: readonly { readonly reason: string }[];
}

export async function tryOut(
  config: AgentConfig,
  baseDir: string,
  source: SourceConfig,
  { lines, path }: SampleInput,
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
    const taken =
      source.type === 'file' ? takenFromFile(source, path, lines, nowMs) : takenFromOther(source, lines, nowMs);
    let line = 0;
    for await (const { readings, rejected } of taken) {
      line += 1;
      for (const { reason } of rejected) fail({ failed: reason, line: Math.min(line, lines.length) });
      if (readings.length > 0) settle(await chain.run(readings));
    }
    settle(await chain.flush());
  } finally {
    await chain.close();
  }
  return { results, failed };
}

/** What each line gives; what is there at the end comes behind the last one. */
async function* takenFromFile(
  config: FileSourceConfig,
  path: string,
  lines: readonly string[],
  nowMs: number,
): AsyncGenerator<Taken, void> {
  let readings: NewReading[] = [];
  let rejected: Rejected[] = [];
  const output = collecting(
    nowMs,
    (taken) => readings.push(...taken),
    (refused) => rejected.push(...refused),
  );
  const joiner = (await assemblerOf(config))({}, () => undefined);
  const file = new FileLines({ key: '', config, output, joiner }, { ...BEGINNING, path }, Marks.ofBeginning());
  for (const line of [...lines, null]) {
    if (line === null) await file.finish();
    else await file.push(Buffer.from(`${line}\n`));
    await file.settled();
    yield { readings, rejected };
    readings = [];
    rejected = [];
  }
}

function* takenFromOther(source: SourceConfig, lines: readonly string[], nowMs: number): Generator<Taken, void> {
  for (const line of lines) {
    const reading = line.trim() === '' ? null : parseJson(Buffer.from(line), mappingOf(source), nowMs * 1000);
    if (reading === null) yield { readings: [], rejected: [] };
    else yield isRejected(reading) ? { readings: [], rejected: [reading] } : { readings: [reading], rejected: [] };
  }
}

/** An agent's side that keeps nothing. */
function collecting(
  nowMs: number,
  take: (readings: Iterable<NewReading>) => void,
  refuse: (items: readonly Rejected[]) => void,
): SourceOutput {
  const deliver = (readings: Iterable<NewReading>): Promise<void> => {
    take(readings);
    return Promise.resolve();
  };
  return {
    clock: { ...systemClock, nowMs: () => nowMs },
    deliver,
    offer: deliver,
    keep: (readings, rejected) => {
      refuse(rejected);
      return deliver(readings);
    },
    quarantine: (items) => {
      refuse(items);
      return Promise.resolve();
    },
    checkpoint: () => undefined,
    checkpointKeys: () => [],
    receipts: () => new Map(),
    count: () => undefined,
    report: () => undefined,
    remark: () => undefined,
  };
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
