/** What is said, and refused, where the engine gives no instant: here for a session of an older Penstock. */
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { failureOf, startCsiDriver } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { run } from '../support/mount-guard.ts';
import { missing } from '../support/services.ts';
import { tempDir } from '../support/temp.ts';
import { createRequest, csiSecrets, volumeOf } from '../csi/csi-volume.ts';

const PENSTOCK = join(import.meta.dirname, '../../bin/penstock');
/** An id that no session of this test gets. */
const OLD = '1';

describe.skipIf(missing('redis-server', 'versitygw'))('beside a session of an older Penstock', () => {
  let services: Services;
  beforeAll(async () => {
    services = await startServices();
  });
  afterAll(() => services.stop());

  /** Returns what ends it. */
  async function olderSession(database: number): Promise<() => Promise<unknown>> {
    const { admin } = services.redis;
    await admin.select(database);
    await admin.hset('penstock:sessions', OLD, '{"kind":"old","host":"h","pid":1,"detail":{},"startedMs":1}');
    await admin.hset(`penstock:session:${OLD}`, 'x', '9999999999999', 'r', '1');
    return () => admin.hdel(`penstock:session:${OLD}`, 'x');
  }

  test('a snapshot and a dump that are not of one instant say so on stderr and end with 3', async () => {
    const { metaUrl, base } = await services.volume();
    const end = await olderSession(Number(new URL(metaUrl).pathname.slice(1)));
    for (const args of [
      ['snapshot', 'create', metaUrl, 'torn'],
      ['dump', metaUrl, join(base, 'dump')],
    ]) {
      const { status, stdout, stderr } = await run(PENSTOCK, ['fs', ...args, '--json']);
      expect({ args, status }).toEqual({ args, status: 3 });
      expect(JSON.parse(stdout)).toMatchObject({ consistent: false });
      expect(stderr).toContain('penstock: consistent is false: ');
    }
    await end();
    const { status, stderr } = await run(PENSTOCK, ['fs', 'snapshot', 'create', metaUrl, 'whole']);
    expect(status).toBe(0);
    expect(stderr).not.toContain('consistent');
  });

  test('CSI makes no snapshot and no clone that is not of one instant, but copies of a snapshot, and what was asked for when it can', async () => {
    const base = tempDir('csi');
    const secrets = csiSecrets(services, 14);
    const driver = await startCsiDriver({ base, args: ['--controller'] });
    onTestFinished(() => driver.kill());
    const source = volumeOf(await driver.call('Controller', 'CreateVolume', createRequest('source', secrets, 1e9)));
    const shot = (name: string): object => ({ name, sourceVolumeId: source.volumeId, secrets });
    const copy = (name: string, from: object): object => ({
      ...createRequest(name, secrets, 1e9),
      volumeContentSource: from,
    });
    const ofVolume = { volume: { volumeId: source.volumeId } };
    const { snapshot } = await driver.call('Controller', 'CreateSnapshot', shot('before'));
    const ofSnapshot = { snapshot: { snapshotId: (snapshot as { snapshotId: string }).snapshotId } }; // of CreateSnapshotResponse
    const end = await olderSession(14);
    for (const [method, request] of [
      ['CreateSnapshot', shot('later')],
      ['CreateVolume', copy('clone', ofVolume)],
    ] as const) {
      const failed = await failureOf(driver.call('Controller', method, request));
      expect({ method, code: failed.code }).toEqual({ method, code: Status.UNAVAILABLE });
      expect(failed.details).toContain(`session ${OLD} is of an older Penstock`);
    }
    await driver.call('Controller', 'CreateVolume', copy('restored', ofSnapshot));
    await end();
    const made = await driver.call('Controller', 'CreateSnapshot', shot('later'));
    expect(made).toMatchObject({ snapshot: { readyToUse: true } });
    await driver.call('Controller', 'CreateVolume', copy('clone', ofVolume));
  });
});
