/** One history of programs on mounts of a mode, as a test. PENSTOCK_HISTORY_SECONDS runs it longer, PENSTOCK_HISTORY_SEED replays. */
import { expect, test } from 'vitest';
import { cannotPassThrough } from '../support/passthrough.ts';
import { cannotMount, missing } from '../support/services.ts';
import { FAULTS, runHistory, type Fault, type HistoryOptions } from './run-history.ts';

const seconds = Number(process.env['PENSTOCK_HISTORY_SECONDS'] ?? '0');
const seed = Number(process.env['PENSTOCK_HISTORY_SEED'] ?? Date.now() % 1_000_000);
const skip = cannotMount() || missing('redis-server', 'versitygw');

export function testHistory(
  name: string,
  world: Pick<HistoryOptions, 'mounts' | 'clientsPerMount'>,
  mode: HistoryOptions['mode'] = {},
): void {
  const passesThrough = mode.passthrough !== undefined;
  test.skipIf(skip || (passesThrough && cannotPassThrough()))(
    `histories of ${name} are explained`,
    async () => {
      const endMs = performance.now() + seconds * 1000;
      const next = (round: number): Fault | undefined =>
        round < FAULTS.length || performance.now() < endMs ? FAULTS[round % FAULTS.length] : undefined;
      const report = await runHistory({ ...world, mode, seed, operationsPerRound: 20, next });
      const { violations, errors, ...counts } = report;
      const found = { errors: errors.length, violations: violations.length };
      console.log(`${name}, seed ${seed}: ${JSON.stringify({ ...counts, ...found })}`);
      expect([...errors, ...violations].join('\n'), `seed ${seed}`).toBe('');
      if (passesThrough) expect(counts.passthroughOpens).toBeGreaterThan(0);
    },
    600_000 + seconds * 2000,
  );
}
