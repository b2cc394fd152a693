/** Tables in another program's catalog: no record is lost or doubled by a kill -9 of the lander or the compactor at any external write. */
import { describe, expect, test } from 'vitest';
import { startIcebergRest } from '../support/iceberg-rest.ts';
import { missing } from '../support/services.ts';
import { expectWhole, openForeignPipeline, PER_LANDING, records } from './foreign-catalog-pipeline.ts';
import { runKilledAt } from './kill-points.ts';
import { compactAll, landOnce, TestProducer } from './pipeline.ts';
import { LONG_MS } from '../support/hang.ts';

describe.skipIf(missing('iceberg-rest'))('in Iceberg’s reference catalog', () => {
  test.each(['land', 'compact'] as const)(
    '%s killed -9 at every external write: the next run ends whole',
    { timeout: LONG_MS },
    async (role) => {
      const pipeline = await openForeignPipeline(await startIcebergRest());
      const { lake } = pipeline;
      const producer = new TestProducer(pipeline.log);
      let landings = 0;
      for (const operation of ['put', 'catalogCommit', 'commit']) {
        for (let call = 0; ; call++) {
          await producer.append(0, records(landings++ * PER_LANDING));
          if (role === 'compact') await landOnce(pipeline);
          const moment = call % 2 === 0 ? 'after' : 'before';
          const killed = await runKilledAt(pipeline.dir, role, { operation, call, moment });
          if (role === 'land') expect((await landOnce(pipeline)).problems).toEqual([]);
          expect((await compactAll(pipeline)).problems).toEqual([]);
          await expectWhole(lake, landings, true);
          if (!killed) break;
          expect(call).toBeLessThan(20);
        }
      }
    },
  );
});
