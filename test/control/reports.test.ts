/** What agents said, as it is kept for those who ask in the same moment. */
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Tenants } from '../../control/auth/tenants.ts';
import { readReports, Reports } from '../../control/agents/reports.ts';
import { openMeta } from '../../lib/registry.ts';
import { tempDir } from '../support/temp.ts';

async function opened() {
  const engine = await openMeta(`sqlite:${join(tempDir('reports'), 'meta.db')}`, { kind: 'test' });
  onTestFinished(() => engine.close());
  const now = { ms: 1000 };
  const clock = { nowMs: () => now.ms, monotonicMs: () => now.ms };
  const make = (): Reports => new Reports({ engine, volume: 'v' }, clock, new Tenants([]));
  return { engine, now, make };
}

const said = (id: string, readings: number) => ({ id, address: '127.0.0.1', status: { readings } });

test('who asks in the same moment shares one reading, which sees every heartbeat that came here', async () => {
  const { engine, now, make } = await opened();
  const reports = make();
  await reports.save(said('b', 1));
  const scan = vi.spyOn(engine, 'scan');
  await Promise.all(Array.from({ length: 10 }, () => reports.all()));
  await reports.save(said('b', 2));
  expect((await reports.all()).get('b')?.status).toEqual({ readings: 2 });
  expect(scan).toHaveBeenCalledTimes(1);
  await reports.save(said('a', 1));
  expect([...(await reports.all()).keys()].sort()).toEqual(['a', 'b']);
  // A new agent is no reason to read all others again.
  expect(scan).toHaveBeenCalledTimes(1);
  // What another control plane was told.
  await make().save(said('b', 3));
  now.ms += 2000;
  expect((await reports.all()).get('b')?.status).toEqual({ readings: 3 });
  expect(await readReports(engine, 'v')).toEqual(await reports.all());
});

test('a report that did not change is not parsed again', async () => {
  const { now, make } = await opened();
  const [reports, other] = [make(), make()];
  await other.save(said('a', 1));
  await other.save(said('b', 1));
  const before = await reports.all();
  await other.save(said('b', 2));
  now.ms += 2000;
  const after = await reports.all();
  expect(after.get('a')).toBe(before.get('a'));
  expect(after.get('b')?.status).toEqual({ readings: 2 });
});

test('a heartbeat that comes while reports are being read is in them', async () => {
  const { engine, make } = await opened();
  const reports = make();
  await reports.save(said('a', 1));
  const { promise: until, resolve: go } = Promise.withResolvers<undefined>();
  const scan = engine.scan.bind(engine);
  vi.spyOn(engine, 'scan').mockImplementationOnce(async (...asked) => {
    const page = await scan(...asked);
    await until;
    return page;
  });
  const read = reports.all();
  const saved = reports.save(said('a', 2));
  await expect.poll(async () => (await readReports(engine, 'v')).get('a')?.status).toEqual({ readings: 2 });
  go(undefined);
  await saved;
  expect((await read).get('a')?.status).toEqual({ readings: 2 });
});

test('what another server was told since does not stay hidden behind an older heartbeat', async () => {
  const { engine, now, make } = await opened();
  const reports = make();
  const { promise: until, resolve: go } = Promise.withResolvers<undefined>();
  const commit = engine.commit.bind(engine);
  const committed = Promise.withResolvers<undefined>();
  vi.spyOn(engine, 'commit').mockImplementationOnce(async (transaction) => {
    const result = await commit(transaction);
    committed.resolve(undefined);
    await until;
    return result;
  });
  const saved = reports.save(said('a', 1));
  await committed.promise;
  await make().save(said('a', 2));
  expect((await reports.all()).get('a')?.status).toEqual({ readings: 2 });
  go(undefined);
  await saved;
  now.ms += 2000;
  expect((await reports.all()).get('a')?.status).toEqual({ readings: 2 });
});

test('a reading that failed is tried again by the next who asks', async () => {
  const { engine, make } = await opened();
  const reports = make();
  await reports.save(said('a', 1));
  vi.spyOn(engine, 'scan').mockRejectedValueOnce(new Error('away'));
  await expect(reports.all()).rejects.toThrow('away');
  expect((await reports.all()).size).toBe(1);
});
