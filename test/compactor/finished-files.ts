/** A lake in which a few thousand readings are a finished file. */
import type { TestRecord } from '../support/log-batches.ts';
import {
  compactAll,
  HOUR_MS,
  landOnce,
  openTestPipeline,
  recordOf,
  TestProducer,
  type TestPipeline,
} from './pipeline.ts';

const SMALL_TARGET = 'compactor: { targetBytes: 6kB }';

export interface Lake {
  readonly pipeline: TestPipeline;
  /** Lands these and compacts. */
  readonly add: (records: readonly TestRecord[]) => ReturnType<typeof compactAll>;
  readonly land: (records: readonly TestRecord[]) => Promise<void>;
}

export async function openLake(dataset = ''): Promise<Lake> {
  const pipeline = await openTestPipeline(dataset, SMALL_TARGET);
  const producer = new TestProducer(pipeline.log);
  const land = async (records: readonly TestRecord[]): Promise<void> => {
    await producer.append(0, records);
    await landOnce(pipeline);
  };
  return {
    pipeline,
    land,
    add: async (records) => {
      await land(records);
      return compactAll(pipeline);
    },
  };
}

export const reading = (seq: number, agent: string, hourMs = HOUR_MS): TestRecord =>
  recordOf({ agent, seq, value: { sensor: `${agent}-${seq % 40}`, ts: hourMs + seq, rms: Math.sin(seq * seq) } });
export const readings = (from: number, count: number, agent = 'edge-1', hourMs = HOUR_MS): TestRecord[] =>
  Array.from({ length: count }, (_, n) => reading(from + n, agent, hourMs));

export async function verdicts(pipeline: TestPipeline): Promise<string[]> {
  const { choices } = await compactAll(pipeline, { dryRun: true, explain: true });
  return choices.map(({ verdict }) => verdict).sort();
}
