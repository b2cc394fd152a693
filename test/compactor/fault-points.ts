/** The external writes at which landing and compaction are made to fail, and the records that they work on. */
import type { FaultMoment, FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { faultyStore } from '../support/faulty-store.ts';
import type { TestRecord } from '../support/log-batches.ts';
import { foreignRecord, HOUR_MS, recordOf, type TestPipeline } from './pipeline.ts';

export const faultPoints: readonly (readonly [operation: string, moment: FaultMoment])[] = [
  'commit',
  'put',
  'putFile',
].flatMap((operation) => [[operation, 'before'] as const, [operation, 'after'] as const]);

/** 60 readings, one record that fits nowhere, 10 repeats. */
export function faultRecords(): TestRecord[] {
  const one = (n: number): TestRecord =>
    recordOf({ seq: n, value: { sensor: `s-${n % 4}`, ts: HOUR_MS + n * 1000, rms: n / 2 } });
  const readings = Array.from({ length: 60 }, (_, n) => one(n));
  return [...readings, foreignRecord('?'), ...readings.slice(0, 10)];
}

export function withFaults(pipeline: TestPipeline, plan: FaultPlan): TestPipeline {
  const { engine, store } = pipeline.lake;
  return {
    ...pipeline,
    lake: { ...pipeline.lake, engine: faultyEngine(engine, plan), store: faultyStore(store, plan) },
  };
}
