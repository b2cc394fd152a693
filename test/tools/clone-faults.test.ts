/** Clones that fail, are killed, or are taken for abandoned: nobody sees a part of one. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { cloneTree } from '../../fs-gateway/tools/clone.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta } from '../../lib/registry.ts';
import { FaultPlan } from '../support/fault.ts';
import { faultyEngine } from '../support/faulty-engine.ts';
import { caller, testVolume } from '../support/fs-volume.ts';
import { contentAt, makeDirectory, namesIn, writeFile } from './volume-files.ts';
import { gcLater, expectSound } from './volume-bench.ts';
import { bench, expectTree, keys, LARGE, makeTree, OPTIONS, reader } from './clone-tree.ts';

test('whatever fails, and at whichever commit, nobody sees a part of a clone, and gc removes what is left of it', async () => {
  const counted = new FaultPlan();
  for (let run = 0, runs = 1; run < runs; run++) {
    const all = await bench(await testVolume(OPTIONS));
    const { open, engine, options } = all;
    const top = await makeDirectory(open, 'top');
    const deep = await makeDirectory(open, 'deep', top);
    const file = await writeFile(open, 'f', LARGE, deep);
    await open.operations.setxattr(caller(), file, 'user.a', Buffer.from('b'), 0, false);
    await writeFile(open, 'g', Buffer.from('g'), top);
    const worker = await openMeta(all.volume.metaUrl, { kind: 'tool' });
    const moment = run % 2 === 0 ? 'before' : 'after';
    const call = Math.floor((run - 1) / 2);
    const plan = run === 0 ? counted : new FaultPlan({ call, moment, operation: 'commit' });
    const done = await cloneTree({ ...options, engine: faultyEngine(worker, plan) }, '/top', '/copy').then(
      () => true,
      () => false,
    );
    await worker.close();
    if (run === 0) runs = 1 + 2 * plan.calls;
    const other = await reader(all);
    const names = await namesIn(other, 1n);
    if (done) expect(names).toEqual(['copy', 'top']);
    if (names.includes('copy')) expect((await contentAt(other, '/copy/deep/f')).equals(LARGE)).toBe(true);
    await Promise.all([open.close(), other.close()]);
    for (let pass = 0; pass < 2; pass++) await gcLater(all);
    await expectSound(all.volume);
    expect(await engine.count(keys.buildings)).toBe(0);
    expect((await contentAt(await reader(all), '/top/deep/f')).equals(LARGE)).toBe(true);
  }
  expect(counted.calls).toBeGreaterThan(4);
});

/** Calls `hook` before the commit that makes a clone visible. */
function beforeLink(engine: MetaEngine, hook: () => Promise<void>): MetaEngine {
  return {
    ...faultyEngine(engine, new FaultPlan()),
    async commit(transaction) {
      const links = transaction.write?.some(({ key, value }) => key.bucket === keys.buildings && value === null);
      if (links === true) await hook();
      return engine.commit(transaction);
    },
  };
}

test('gc leaves a clone that is finished while it looks for abandoned ones', async () => {
  const all = await bench(await testVolume(OPTIONS));
  await makeTree(all);
  const worker = await openMeta(all.volume.metaUrl, { kind: 'tool' });
  onTestFinished(() => worker.close());
  const [arrived, go] = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
  const engine = beforeLink(worker, async () => {
    arrived.resolve(undefined);
    await go.promise;
  });
  const cloning = cloneTree({ ...all.options, engine }, '/top', '/copy').finally(() => worker.close());
  await arrived.promise;
  let seen = false;
  const looking: MetaEngine = {
    ...faultyEngine(all.engine, new FaultPlan()),
    scan(bucket, cursor, limit) {
      seen ||= bucket === keys.buildings;
      return all.engine.scan(bucket, cursor, limit);
    },
    async sessions() {
      // gc has seen that the clone is being made, and asks who lives.
      if (seen) {
        go.resolve(undefined);
        await cloning;
      }
      return all.engine.sessions();
    },
  };
  expect(await gcLater({ ...all, engine: looking })).toMatchObject({ abandonedTrees: 0 });
  expect(seen).toBe(true);
  await expectTree(await reader(all), '/copy');
  await expectSound(all.volume);
});

test.each(['is over', 'seems to be over, because the clock of the engine was set back meanwhile'])(
  'a clone that was stopped until gc took it for abandoned links nothing: its session %s',
  async (how) => {
    const all = await bench(await testVolume(OPTIONS));
    await makeTree(all);
    const worker = await openMeta(all.volume.metaUrl, { kind: 'tool' });
    onTestFinished(() => worker.close());
    let collected = 0;
    const collecting: MetaEngine = {
      ...faultyEngine(all.engine, new FaultPlan()),
      sessions: async () =>
        (await all.engine.sessions()).map((one) => (one.id === worker.sessionId ? { ...one, live: false } : one)),
    };
    const engine = beforeLink(worker, async () => {
      if (collected > 0) return;
      if (how === 'is over') await all.engine.endSession(worker.sessionId);
      collected += (await gcLater({ ...all, engine: collecting })).abandonedTrees;
    });
    await expect(cloneTree({ ...all.options, engine }, '/top', '/copy')).rejects.toMatchObject({ code: 'fenced' });
    expect(collected).toBe(1);
    expect(await namesIn(await reader(all), 1n)).toEqual(['top']);
    expect(await all.engine.count(keys.buildings)).toBe(0);
    await expectSound(all.volume);
  },
);

test('a clone that is killed with kill -9 is never seen in part', async () => {
  const all = await bench(await testVolume(OPTIONS));
  const { open, volume, engine } = all;
  const top = await makeDirectory(open, 'top');
  for (let n = 0; n < 600; n++) await writeFile(open, `f${n}`, Buffer.from(`content ${n}`), top);
  const script = `
    import { openMeta } from '${join(import.meta.dirname, '../../lib/registry.ts')}';
    import { cloneTree } from '${join(import.meta.dirname, '../../fs-gateway/tools/clone.ts')}';
    import { systemClock } from '${join(import.meta.dirname, '../../lib/clock.ts')}';
    const engine = await openMeta(process.argv[1], { kind: 'tool', leaseMs: 1000 });
    const commit = engine.commit.bind(engine);
    let commits = 0;
    engine.commit = async (change) => {
      const result = await commit(change);
      if (++commits === 2) process.kill(process.pid, 'SIGKILL');
      return result;
    };
    await cloneTree({ engine, volume: 'lake', clock: systemClock }, '/top', '/copy');`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script, volume.metaUrl], {
    stdio: 'ignore',
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  expect(await once(child, 'exit')).toEqual([null, 'SIGKILL']);
  // In the middle of it.
  expect(await engine.count(keys.buildings)).toBe(1);
  expect(await namesIn(await reader(all), 1n)).toEqual(['top']);
  await expectSound(all.volume);
  // Its session has to be over before gc takes its work for abandoned.
  await expect.poll(async () => (await gcLater(all)).abandonedTrees).toBe(1);
  expect(await engine.count(keys.buildings)).toBe(0);
  await open.close();
  await gcLater(all);
  const [inodes] = await engine.readNumbers([keys.counter('inodes')]);
  expect(inodes).toBe(602n);
  await expectSound(all.volume);
});
