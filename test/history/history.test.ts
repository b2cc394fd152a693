/**
 * Programs on two and three mounts, with kill -9 of workers, restarts of Redis and of the object store, and links that are cut: what they
 * saw has an explanation, and nothing that was acknowledged is lost. PENSTOCK_HISTORY_SECONDS runs it longer, PENSTOCK_HISTORY_SEED replays.
 */
import { expect, test } from 'vitest';
import { cannotMount, missing } from '../support/services.ts';
import { FAULTS, runHistory, type Fault } from './run-history.ts';

const seconds = Number(process.env['PENSTOCK_HISTORY_SECONDS'] ?? '0');
const seed = Number(process.env['PENSTOCK_HISTORY_SEED'] ?? Date.now() % 1_000_000);
const skip = cannotMount() || missing('redis-server', 'versitygw');

test.skipIf(skip).each([
  { mounts: 2, clientsPerMount: 2 },
  { mounts: 3, clientsPerMount: 1 },
])(
  'histories of $mounts mounts are explained',
  async (world) => {
    const endMs = performance.now() + seconds * 1000;
    const next = (round: number): Fault | undefined =>
      round < FAULTS.length || performance.now() < endMs ? FAULTS[round % FAULTS.length] : undefined;
    const report = await runHistory({ ...world, seed, operationsPerRound: 20, next });
    const { violations, errors, ...counts } = report;
    console.log(`seed ${seed}: ${JSON.stringify({ ...counts, errors: errors.length, violations: violations.length })}`);
    expect([...errors, ...violations].join('\n'), `seed ${seed}`).toBe('');
  },
  150_000 + seconds * 2000,
);
