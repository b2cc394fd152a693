/** The controller on Redis and S3: repeats, two at once, half-done calls, bad input, services that are down. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { status as Status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { Records } from '../../fs-gateway/csi/records.ts';
import { formatVolume, mountVolume, umountVolume } from '../../fs-gateway/main.ts';
import { gcAllVolumes } from '../../fs-gateway/tools/main.ts';
import { openMeta } from '../../lib/registry.ts';
import { readFormat } from '../../lib/volume/format.ts';
import { QUOTA_MAX } from '../../lib/volume/quota.ts';
import { failureOf, startCsiDriver } from '../support/csi.ts';
import type { CsiDriver } from '../support/csi.ts';
import { startServices } from '../support/fs-volume.ts';
import type { Services } from '../support/fs-volume.ts';
import { guardMount, killIfAlive, mountDirs, shell } from '../support/mount-guard.ts';
import { cannotMount, missing } from '../support/services.ts';
import { makeTempDir } from '../support/temp.ts';
import { createRequest, csiSecrets, secretsFolder, volumeOf, WRITER } from './csi-volume.ts';

let services: Services;
let base: string;
let driver: CsiDriver;
let second: CsiDriver;
let secrets: Readonly<Record<string, string>>;

describe.skipIf(cannotMount() || missing('redis-server', 'versitygw'))('the CSI controller', () => {
  beforeAll(async () => {
    services = await startServices();
    base = makeTempDir('csi-controller');
    secrets = csiSecrets(services, 1);
    const args = ['--controller', '--secrets', secretsFolder(base, secrets)];
    [driver, second] = await Promise.all([
      startCsiDriver({ base, args, name: 'one' }),
      startCsiDriver({ base, args, name: 'two' }),
    ]);
  });
  afterAll(async () => {
    await Promise.all([driver.kill(), second.kill()]);
    await services.stop();
  });

  const keysOf = (volume: string): Promise<string[]> =>
    services.redis.admin.select(1).then(() => services.redis.admin.keys(`{${volume}}*`));
  const objectsOf = (volumeId: string): string[] => {
    const folder = join(services.s3.folder, 'volumes', 'csi-1', volumeId);
    if (!existsSync(folder)) return [];
    const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
    return entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  };
  const idOf = async (volume: string): Promise<string> => {
    const engine = await openMeta(secrets['meta'] ?? '', { kind: 'test' });
    const format = await readFormat(engine, volume).finally(() => engine.close());
    return format?.id ?? '';
  };

  it('makes one volume, whichever controller is asked how often, and removes it whole', async () => {
    const request = createRequest('pvc-race', secrets, 5e9);
    const answers = await Promise.allSettled(
      [driver, second, driver, second].map((one) => one.call('Controller', 'CreateVolume', request)),
    );
    // A controller answers ABORTED to a second call for a volume that it is at work on.
    const made = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [volumeOf(answer.value)] : []));
    expect(made.length).toBeGreaterThan(0);
    for (const answer of answers)
      if (answer.status === 'rejected') expect(answer.reason).toMatchObject({ code: Status.ABORTED });
    const { volumeId } = volumeOf(await second.call('Controller', 'CreateVolume', request));
    expect(volumeId).toMatch(/^penstock:pvc-race\/pvc-race\.[0-9a-f]{8}$/);
    expect(new Set(made.map((volume) => volume.volumeId))).toEqual(new Set([volumeId]));
    expect(made[0]?.capacityBytes).toBe(5e9);

    const { base: dirs, mountpoint } = mountDirs();
    guardMount(mountpoint);
    const mounted = await mountVolume({
      metaUrl: secrets['meta'] ?? '',
      name: 'pvc-race',
      mountpoint,
      cacheDir: join(dirs, 'cache'),
      background: true,
      credentials: { accessKeyId: services.s3.accessKeyId, secretAccessKey: services.s3.secretAccessKey },
    });
    onTestFinished(() => killIfAlive(-mounted.supervisorPid));
    await shell('head -c 300000 /dev/urandom > "$1/f"; sync "$1/f"', mountpoint);
    const id = await idOf('pvc-race');
    expect(objectsOf(id).length).toBeGreaterThan(0);
    const remove = { volumeId, secrets };
    const refused = await failureOf(driver.call('Controller', 'DeleteVolume', remove));
    expect(refused).toMatchObject({ code: Status.FAILED_PRECONDITION });
    expect(refused.details).toContain(mountpoint);
    expect(await shell('wc -c < "$1/f"', mountpoint)).toBe('300000\n');
    // The volumes of the driver are cleaned with the lake's: nobody else would.
    await formatVolume({ metaUrl: secrets['meta'] ?? '', storeUrl: secrets['store'] ?? '' });
    const swept = await gcAllVolumes({ metaUrl: secrets['meta'] ?? '' });
    expect(swept).toMatchObject([
      { volume: 'lake', outcome: { problem: null } },
      { volume: 'pvc-race', outcome: { problem: null } },
    ]);
    await umountVolume(mountpoint);

    await Promise.allSettled([driver, second].map((one) => one.call('Controller', 'DeleteVolume', remove)));
    await driver.call('Controller', 'DeleteVolume', remove);
    expect(await keysOf('pvc-race')).toEqual([]);
    expect(objectsOf(id)).toEqual([]);
    expect((await driver.call('Controller', 'ListVolumes'))['entries']).toEqual([]);
  });

  it('finishes what a killed controller left half done', async () => {
    const engine = await openMeta(secrets['meta'] ?? '', { kind: 'test' });
    try {
      const records = new Records(engine);
      const { volumes, homes } = records;
      const home = {
        ...{ version: 1 as const, name: 'pvc-half', id: '8d9ad1f5-6f11-4a3e-8b27-3d1c1d2c8a01', options: {} },
        ...{ store: secrets['store'] ?? '', members: 1, closing: false, createdMs: 1 },
      };
      const record = {
        ...{ version: 1 as const, name: 'pvc-half', home: 'pvc-half', folder: 'pvc-half.0123abcd' },
        ...{ state: 'creating' as const, capacityBytes: 1e9, options: {}, context: {}, source: null },
      };
      await records.commit([volumes.edit('pvc-half', null, record), homes.edit('pvc-half', null, home)]);
      const { volumeId } = volumeOf(
        await driver.call('Controller', 'CreateVolume', createRequest('pvc-half', secrets, 1e9)),
      );
      expect(volumeId).toBe('penstock:pvc-half/pvc-half.0123abcd');
      expect((await readFormat(engine, 'pvc-half'))?.id).toBe(home.id);
      const ready = await volumes.read('pvc-half');
      expect(ready?.record.state).toBe('ready');
      await records.commit([volumes.edit('pvc-half', ready, { ...record, state: 'deleting' })]);
      const busy = await failureOf(driver.call('Controller', 'CreateVolume', createRequest('pvc-half', secrets, 1e9)));
      expect(busy.code).toBe(Status.ABORTED);
      await driver.call('Controller', 'DeleteVolume', { volumeId, secrets });
      expect([await volumes.read('pvc-half'), await homes.read('pvc-half')]).toEqual([null, null]);
      expect(await keysOf('pvc-half')).toEqual([]);
    } finally {
      await engine.close();
    }
  });

  it('never takes over or removes a volume that somebody else made', async () => {
    await formatVolume({ metaUrl: secrets['meta'] ?? '', name: 'precious', storeUrl: secrets['store'] ?? '' });
    const taken = await failureOf(driver.call('Controller', 'CreateVolume', createRequest('precious', secrets, 1e9)));
    expect(taken.code).toBe(Status.ALREADY_EXISTS);
    const kept = await failureOf(driver.call('Controller', 'DeleteVolume', { volumeId: 'penstock:precious', secrets }));
    expect(kept.code).toBe(Status.FAILED_PRECONDITION);
    expect((await keysOf('precious')).length).toBeGreaterThan(0);
    // Ids that this driver never gave: gone, or not found.
    await driver.call('Controller', 'DeleteVolume', { volumeId: 'vol-0a1b2c', secrets });
    const never = 'penstock:never/never.01234567';
    await driver.call('Controller', 'DeleteVolume', { volumeId: never, secrets });
    const snapshot = 'penstock:never/@never.01234567';
    for (const volumeId of ['vol-0a1b2c', 'penstock:../../etc', 'penstock:never', never, snapshot]) {
      const request = { volumeId, secrets, capacityRange: { requiredBytes: 1e9 }, volumeCapabilities: [WRITER] };
      for (const method of ['ControllerExpandVolume', 'ValidateVolumeCapabilities']) {
        const { code } = await failureOf(driver.call('Controller', method, request));
        expect(code, `${method} ${volumeId}`).toBe(Status.NOT_FOUND);
      }
    }
  });

  it('takes capacities from none to the largest exact number, grows and never shrinks', async () => {
    const none = volumeOf(await driver.call('Controller', 'CreateVolume', createRequest('pvc-none', secrets, 0)));
    expect(none.capacityBytes).toBe(0);
    const create = (capacityRange: object): Promise<unknown> =>
      driver.call('Controller', 'CreateVolume', { ...createRequest('pvc-x', secrets, 0), capacityRange });
    await expect(create({ requiredBytes: 10, limitBytes: 5 })).rejects.toMatchObject({ code: Status.OUT_OF_RANGE });
    await expect(create({ requiredBytes: '9223372036854775807' })).rejects.toMatchObject({ code: Status.OUT_OF_RANGE });
    await expect(create({ requiredBytes: String(QUOTA_MAX + 1) })).rejects.toMatchObject({ code: Status.OUT_OF_RANGE });
    await expect(create({ requiredBytes: -1 })).rejects.toMatchObject({ code: Status.INVALID_ARGUMENT });
    const most = createRequest('pvc-most', secrets, QUOTA_MAX);
    const largest = volumeOf(await driver.call('Controller', 'CreateVolume', most));
    expect(largest.capacityBytes).toBe(QUOTA_MAX);
    // What was written is read again: a mount of it would be EIO otherwise.
    const limit = { requiredBytes: QUOTA_MAX, limitBytes: '9223372036854775807' };
    const asked = { volumeId: largest.volumeId, secrets, capacityRange: limit };
    expect(await driver.call('Controller', 'ControllerExpandVolume', asked)).toMatchObject({
      capacityBytes: QUOTA_MAX,
    });

    const made = await driver.call('Controller', 'CreateVolume', createRequest('pvc-grow', secrets, 1e9));
    const { volumeId } = volumeOf(made);
    const grow = (requiredBytes: number, limitBytes = 0): Promise<unknown> =>
      driver.call('Controller', 'ControllerExpandVolume', {
        volumeId,
        secrets,
        capacityRange: { requiredBytes, limitBytes },
      });
    expect(await grow(3e9)).toMatchObject({ capacityBytes: 3e9, nodeExpansionRequired: false });
    expect(await grow(3e9)).toMatchObject({ capacityBytes: 3e9 });
    expect(await grow(2e9)).toMatchObject({ capacityBytes: 3e9 });
    await expect(grow(1e9, 2e9)).rejects.toMatchObject({ code: Status.OUT_OF_RANGE });
    const other = failureOf(driver.call('Controller', 'CreateVolume', createRequest('pvc-grow', secrets, 4e9)));
    expect((await other).code).toBe(Status.ALREADY_EXISTS);
  });

  it('keeps a volume whole that it cannot remove whole', async () => {
    const { volumeId } = volumeOf(
      await driver.call('Controller', 'CreateVolume', createRequest('pvc-keys', secrets, 1e9)),
    );
    const remove = (given: object): Promise<unknown> =>
      driver.call('Controller', 'DeleteVolume', { volumeId, secrets: { ...secrets, ...given } });
    await expect(remove({ secretAccessKey: 'hunter2' })).rejects.toMatchObject({ code: Status.UNAUTHENTICATED });
    const grow = { volumeId, secrets, capacityRange: { requiredBytes: 2e9 } };
    expect(await driver.call('Controller', 'ControllerExpandVolume', grow)).toMatchObject({ capacityBytes: 2e9 });
    await remove({});
    expect(await keysOf('pvc-keys')).toEqual([]);
  });

  it('says what is wrong with secrets and parameters, and shows no value', async () => {
    const create = (given: object, parameters = {}): ReturnType<typeof failureOf> =>
      failureOf(
        driver.call('Controller', 'CreateVolume', {
          ...createRequest('pvc-bad', secrets, 1e9),
          secrets: given,
          parameters,
        }),
      );
    const cases: [object, number, RegExp][] = [
      [{ store: secrets['store'] }, Status.INVALID_ARGUMENT, /'meta' is missing/],
      [{ ...secrets, meta: 'hunter2' }, Status.INVALID_ARGUMENT, /'meta' is not a URL/],
      [{ ...secrets, meta: 'mysql://u:hunter2@h/1' }, Status.INVALID_ARGUMENT, /no metadata engine driver/],
      [{ ...secrets, store: undefined }, Status.INVALID_ARGUMENT, /'store' is missing/],
      [{ ...secrets, secretAccessKey: 'hunter2' }, Status.UNAUTHENTICATED, /secret for access key|denies/],
      [{ ...secrets, accessKeyId: 'nobody' }, Status.UNAUTHENTICATED, /access key nobody/],
      [{ ...secrets, secretAccessKey: undefined }, Status.INVALID_ARGUMENT, /belong together/],
      [
        { ...secrets, store: secrets['store']?.replace('volumes', 'no-bucket') },
        Status.FAILED_PRECONDITION,
        /no-bucket/,
      ],
    ];
    for (const [given, code, message] of cases) {
      const answer = await create(JSON.parse(JSON.stringify(given)) as object);
      expect(answer, message.source).toMatchObject({ code });
      expect(answer.details).toMatch(message);
      expect(answer.details).not.toContain('hunter2');
    }
    expect((await create(secrets, { blokSize: '1MiB' })).details).toContain("parameter 'blokSize': expected one of");
    expect((await create(secrets, { blockSize: '1' })).code).toBe(Status.INVALID_ARGUMENT);
    expect((await create(secrets, { subPath: '../../etc' })).code).toBe(Status.INVALID_ARGUMENT);
    // Nothing is left of any of them.
    expect(await keysOf('pvc-bad')).toEqual([]);
    expect(readFileSync(driver.logPath, 'utf8')).not.toContain('hunter2');
  });

  it('answers UNAVAILABLE while Redis is down, and works when it is back', async () => {
    await driver.call('Controller', 'CreateVolume', createRequest('pvc-down', secrets, 1e9));
    await services.redis.kill();
    const volumeId = 'penstock:pvc-down/pvc-down.01234567';
    const snapshotId = 'penstock:pvc-down/@snap.01234567';
    const capacityRange = { requiredBytes: 2e9 };
    const calls: [string, object][] = [
      ['CreateVolume', createRequest('pvc-while-down', secrets, 1e9)],
      ['DeleteVolume', { volumeId, secrets }],
      ['ControllerExpandVolume', { volumeId: volumeId.replace('.0', '.1'), secrets, capacityRange }],
      ['ValidateVolumeCapabilities', { volumeId, secrets, volumeCapabilities: [WRITER] }],
      ['ControllerGetVolume', { volumeId }],
      ['ListVolumes', {}],
      ['CreateSnapshot', { name: 'snap', sourceVolumeId: volumeId, secrets }],
      ['DeleteSnapshot', { snapshotId, secrets }],
      ['ListSnapshots', { secrets }],
      ['GetSnapshot', { snapshotId, secrets }],
    ];
    const answers = await Promise.all(
      calls.map(([method, request]) => failureOf(driver.call('Controller', method, request))),
    );
    expect(answers.map(({ code }) => code)).toEqual(calls.map(() => Status.UNAVAILABLE));
    await services.redis.start();
    // It kept nothing on disk: what was there is gone, and the same calls make it anew.
    const again = await driver.call('Controller', 'CreateVolume', createRequest('pvc-while-down', secrets, 1e9));
    const look = { volumeId: volumeOf(again).volumeId };
    const status = { volumeCondition: { abnormal: false } };
    expect(await driver.call('Controller', 'ControllerGetVolume', look)).toMatchObject({ status });
    expect(await driver.call('Controller', 'ListVolumes')).toMatchObject({ entries: [{ status }] });
    await services.s3.cut();
    const condition = await driver.call('Controller', 'ControllerGetVolume', look);
    await services.s3.restore();
    expect(condition).toMatchObject({ status: { volumeCondition: { abnormal: true } } });
  });
});
