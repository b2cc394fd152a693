/** What the tests of the volume tools share: a volume with its ports open, on either pair of services. */
import { afterAll, beforeAll, describe, expect, onTestFinished } from 'vitest';
import type { OpenVolume } from '../../fs-gateway/open-volume.ts';
import { holdsNumbers } from '../../fs-gateway/tools/dump-buckets.ts';
import { collectGarbage } from '../../fs-gateway/tools/gc.ts';
import type { GcReport } from '../../fs-gateway/tools/gc.ts';
import { fsckVolume } from '../../fs-gateway/tools/main.ts';
import { systemClock } from '../../lib/clock.ts';
import type { Clock } from '../../lib/clock.ts';
import type { MetaEngine } from '../../lib/meta/engine.ts';
import { openMeta, openStore } from '../../lib/registry.ts';
import type { ObjectStore } from '../../lib/store/store.ts';
import { scanBucket } from '../../lib/volume/references.ts';
import { openTestVolume, startServices, testVolume } from '../support/fs-volume.ts';
import type { Services, TestVolume } from '../support/fs-volume.ts';
import { missing } from '../support/services.ts';

export type NewVolume = (options?: Readonly<Record<string, string>>) => Promise<TestVolume>;

/** Describes the suite on SQLite with a directory, and on Redis with S3 where they can be started. */
export function onBothServices(suite: (newVolume: NewVolume) => void): void {
  describe('on SQLite and a directory', () => suite(testVolume));

  describe.skipIf(missing('redis-server', 'versitygw'))('on Redis and S3', () => {
    let services: Services;
    beforeAll(async () => {
      services = await startServices();
    });
    afterAll(() => services.stop());
    suite((options) => services.volume(options));
  });
}

export interface VolumeBench {
  readonly volume: TestVolume;
  readonly open: OpenVolume;
  readonly engine: MetaEngine;
  readonly store: ObjectStore;
}

/** Closed with the test. */
export async function openBench(volume: TestVolume): Promise<VolumeBench> {
  const open = await openTestVolume(volume);
  const engine = await openEngine(volume);
  const store = await openStore(open.format.store);
  onTestFinished(() => store.close());
  return { volume, open, engine, store };
}

export async function openEngine(volume: TestVolume): Promise<MetaEngine> {
  const engine = await openMeta(volume.metaUrl, { kind: 'test' });
  onTestFinished(() => engine.close());
  return engine;
}

/** All records of the volume `lake` are gone; its objects are not. */
export async function loseMetadata(engine: MetaEngine): Promise<void> {
  const tag = '{lake}';
  for await (const bucket of engine.buckets(tag)) {
    if (holdsNumbers(bucket.slice(tag.length))) {
      for (const [field] of await engine.numbers(bucket))
        await engine.commit({ patch: [{ number: { bucket, field }, remove: true }] });
      continue;
    }
    for await (const [field] of scanBucket(engine, bucket))
      await engine.commit({ write: [{ key: { bucket, field }, value: null }] });
  }
}

export function later(ms: number): Clock {
  return { ...systemClock, nowMs: () => Date.now() + ms };
}

/** A minute from now: what was let go by a mount that is closed is garbage. */
export async function gcLater({ engine, store }: VolumeBench): Promise<GcReport> {
  return collectGarbage({ uploadMs: 0, engine, store, volume: 'lake', clock: later(60_000) });
}

export async function countBlocks({ store, open }: VolumeBench): Promise<number> {
  let count = 0;
  for await (const { key } of store.list(`${open.format.id}/blocks/`)) count += key.length > 0 ? 1 : 0;
  return count;
}

export async function expectSound(volume: TestVolume): Promise<void> {
  expect((await fsckVolume(volume)).findings).toEqual([]);
}
